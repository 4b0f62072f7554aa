"""Beginnings of ids: people type and copy them in place of whole ones."""

import re
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

SHORT = 8  # the least number of digits that is printed
DIGITS = 32


def bounds(beginning: str) -> tuple[UUID, UUID] | None:
    """Return the first and the last id with this beginning, None if no id has it. Dashes may be left out."""
    digits = beginning.strip().replace("-", "").lower()
    if not re.fullmatch(rf"[0-9a-f]{{1,{DIGITS}}}", digits):
        return None
    return UUID(digits.ljust(DIGITS, "0")), UUID(digits.ljust(DIGITS, "f"))


def find_beginning(beginning: str, among: Callable[[UUID, UUID], Iterable[UUID]]) -> list[UUID]:
    """Return the ids with this beginning. A whole id is returned as it is, whether or not it has a row.

    among: returns the ids from one to another, as many as are wanted.
    """
    found = bounds(beginning)
    if found is None:
        return []
    first, last = found
    return [first] if first == last else list(among(first, last))


def shorten(id_: UUID, others: Iterable[UUID | None]) -> str:
    """Return the shortest beginning, of 8 characters at least, that none of the other ids has."""
    text = str(id_)
    length = SHORT
    for other in filter(None, others):
        while other != id_ and str(other).startswith(text[:length]):
            length += 1
    return text[:length]


def shorten_all(rows: Iterable[dict[str, Any]]) -> None:
    """Give each row of a list `short`, a beginning of its `id` that no other row of the list has."""
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    ids = [None, *(row["id"] for row in ordered), None]
    for n, row in enumerate(ordered):
        row["short"] = shorten(row["id"], (ids[n], ids[n + 2]))
