"""What people ask of jobs: the fields of a filter, and the values that each may have."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Self
from urllib.parse import urlencode
from uuid import UUID

from worker.database.ids import bounds

LONGEST = 255  # letters of a value
LEAST_DIGITS = 4  # of the beginning of a job's id

STATUSES = ("processing", "pending", "completed", "failed", "cancelled")
ENDED = "ended"  # any of the last three
REVIEWS = ("wanted", "approved", "rejected")

_AGO = re.compile(r"(\d{1,4})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class BadFilter(ValueError):
    """A value that a field cannot have. The message says which it can."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What a job must be. An empty field asks for nothing."""

    shop: str = ""  # a whole name if there is such a shop, else a part of one
    product: str = ""  # an id or a gid
    variant: str = ""
    handle: str = ""
    job: str = ""  # an id, or its first digits
    batch: str = ""
    status: str = ""
    review: str = ""
    code: str = ""  # error code
    preset: str = ""
    engine: str = ""  # the one that it asks for, or that made it
    pool: str = ""
    host: str = ""  # that has it, or has had it
    since: str = ""  # of the list's time: one in UTC, or how long ago, such as 2h or 7d
    until: str = ""

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Self:
        """Read the values of a query string; other names are left alone. Raises: BadFilter."""
        found = cls(**{field.name: query.get(field.name, "").strip() for field in fields(cls)})
        for name, value in found.values.items():
            if len(value) > LONGEST or "\0" in value:
                raise BadFilter(f"{name} has at most {LONGEST} letters.")
        for name, value, values in (
            ("status", found.status, (*STATUSES, ENDED)),
            ("review", found.review, REVIEWS),
        ):
            if value and value not in values:
                raise BadFilter(f"{name} is one of {', '.join(values)}, not {value}.")
        for name, value in (("since", found.since), ("until", found.until)):
            if value:
                try:
                    read_time(value)
                except (ValueError, OverflowError):
                    raise BadFilter(
                        f"{name} is a time such as 2026-01-31T15:00, or how long ago, such as 30m, 2h or 7d, not {value}."
                    ) from None
        if found.job and not ids_of(found.job):
            raise BadFilter(
                f"job is an id, or at least the first {LEAST_DIGITS} digits of one, not {found.job}."
            )
        return found

    @property
    def values(self) -> dict[str, str]:
        """Return the fields that ask for something."""
        return {name: value for name, value in asdict(self).items() if value}

    def __str__(self) -> str:
        """Return the query string that parse() reads."""
        return urlencode(self.values)


def ids_of(beginning: str) -> tuple[UUID, UUID] | None:
    """Return the first and the last id with this beginning. None if it is too short, or none of an id."""
    return bounds(beginning) if len(beginning.replace("-", "")) >= LEAST_DIGITS else None


def read_time(text: str) -> datetime:
    """Return a time as UTC. Raises: ValueError, OverflowError."""
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
