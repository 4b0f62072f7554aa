"""Arguments and options that several commands have."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import typer

from worker import engines
from worker.database.ids import bounds

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quality = Literal["fast", "balanced", "quality", "auto"]


def check_ids(values: list[str] | None) -> list[str] | None:
    """Return the beginnings of ids. Raises: typer.BadParameter if one cannot be one."""
    for value in values or ():
        if bounds(value) is None:
            raise typer.BadParameter(f"'{value}' is neither an id nor the beginning of one.")
    return values


_ID = typer.Argument(
    metavar="ID", callback=check_ids, help="Job ids, or beginnings that no other job's id has."
)
Ids = Annotated[list[str], _ID]
OptionalIds = Annotated[list[str] | None, _ID]


def one_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a function that completes the beginning of a name in a shell."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def known_engine(name: str | None) -> str | None:
    """Return the name of an engine. Raises: typer.BadParameter."""
    if name is not None and name not in engines.ENGINES:
        raise typer.BadParameter(f"'{name}' is not one of {', '.join(map(repr, engines.ENGINES))}.")
    return name
