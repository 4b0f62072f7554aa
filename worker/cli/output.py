"""The output of all commands. Text for people goes to stderr, so that stdout can be one document for a program."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn
from uuid import UUID

import typer
from rich.console import Console
from rich.text import Text
from sqlalchemy.engine import Engine

from worker import database
from worker.core.errors import printable
from worker.core.settings import Settings

Ids = Annotated[list[UUID], typer.Argument(help="Job ids.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Let the error end the command; rich's own method would choose the exit status."""
        raise BrokenPipeError


console = _Console(stderr=True)


@contextmanager
def connected(configured: Settings) -> Iterator[Engine]:
    """Yield an engine on a database whose schema fits this worker. Raises: ConfigError, sqlalchemy's errors."""
    engine = database.connect(database.url(configured))
    try:
        database.check_schema(engine)
        yield engine
    finally:
        engine.dispose()


def print_json(document: Any) -> None:
    """Print a document on stdout; what JSON does not know, such as a UUID or a date, as a string."""
    print(json.dumps(document, default=str, indent=2))  # noqa: T201 - the document is the output


def for_each(
    ids: Sequence[UUID], act: Callable[[UUID], bool], done: str, not_done: str, *, as_json: bool
) -> NoReturn:
    """Act on each job, print what came of it, and exit: with 0 if `act` returned True for all, else with 1."""
    outcome = {str(job): act(job) for job in ids}
    if as_json:
        print_json(outcome)
    else:
        for job, was_done in outcome.items():
            console.print(f"{job} {done if was_done else not_done}", soft_wrap=True)
    raise typer.Exit(0 if all(outcome.values()) else 1)


def print_error(reason: str) -> None:
    """Print one line on stderr, whatever the reason holds."""
    line = Text.assemble(("error: ", "bold red"), printable(" ".join(reason.split())))
    console.print(line, soft_wrap=True)


def die(reason: str, code: int) -> NoReturn:
    """End the command with one line on stderr and this exit status."""
    print_error(reason)
    raise typer.Exit(code)
