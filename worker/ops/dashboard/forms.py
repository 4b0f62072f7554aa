"""Posted forms, read as strangers may have written them."""

from collections.abc import Mapping, Sequence
from typing import Self
from urllib.parse import parse_qs
from uuid import UUID

LARGEST = 65_536  # bytes of a form
MOST_FIELDS = 2000
MOST_IDS = 1000
OWN_FIELDS = {"csrf", "next", "confirmed"}  # of every form; the others are the action's


class BadForm(Exception):
    """A form that no page of ours has. The message says what is wrong with it."""


class Form:
    """The fields of a form. Each method reads one and raises BadForm if it is not what it must be."""

    def __init__(self, fields: Mapping[str, Sequence[str]]) -> None:
        self.fields = {name: list(values) for name, values in fields.items()}

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a body of the type application/x-www-form-urlencoded."""
        try:
            return cls(
                parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
            )
        except ValueError:
            raise BadForm("The form cannot be read, or has too many fields.") from None

    @property
    def target(self) -> dict[str, list[str]]:
        """Return the fields that say what the action is for."""
        return {name: values for name, values in self.fields.items() if name not in OWN_FIELDS}

    def text(self, name: str, default: str | None = None, *, most: int = 8000) -> str:
        """Return the one value of a field."""
        values = self.fields.get(name, [] if default is None else [default])
        if len(values) != 1 or "\0" in values[0] or len(values[0]) > most:
            raise BadForm(f"The form needs one field {name} of at most {most:,} letters.")
        return values[0]

    def number(self, name: str, *, least: int, most: int) -> int | None:
        """Return a whole number; None if the field is empty."""
        text = self.text(name, "").strip()
        if not text:
            return None
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 10 and least <= int(text) <= most):
            raise BadForm(f"{name} is a whole number from {least} to {most:,}.")
        return int(text)

    def ids(self) -> list[UUID]:
        """Return the ids of the field `id`, of which a form may have many, each once."""
        try:
            found = list(dict.fromkeys(map(UUID, self.fields.get("id", ()))))
        except ValueError:
            raise BadForm("The form has an id that is none.") from None
        if len(found) > MOST_IDS:
            raise BadForm(f"Select at most {MOST_IDS:,} at once.")
        return found

    def only_id(self) -> UUID:
        """Return the id of a form that is for one thing."""
        found = self.ids()
        if len(found) != 1:
            raise BadForm("The form is for one job, and needs its id.")
        return found[0]
