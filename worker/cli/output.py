"""The output of all commands. Text for people goes to stderr, so that stdout can be one document for a program."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

import typer
from rich.console import Console
from rich.text import Text
from sqlalchemy.engine import Engine

from worker import database
from worker.core.errors import printable
from worker.core.settings import Settings
from worker.jobs import queue

CANDIDATES = 5  # that are named where the beginning of an id is not unique


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
    """Print a document on stdout; what JSON does not know, such as a UUID, as a string, and times as ISO 8601."""

    def text(value: Any) -> str:
        return value.isoformat() if isinstance(value, datetime) else str(value)

    print(json.dumps(document, default=text, indent=2))  # noqa: T201 - the document is the output


def find_jobs(engine: Engine, beginnings: Sequence[str]) -> list[UUID]:
    """Return the ids of the jobs that are meant. Ends the command, before anything is done, if one is not unique."""
    return find_unique(beginnings, lambda beginning: queue.find_ids(engine, beginning, CANDIDATES + 1), "job")


def find_unique(beginnings: Sequence[str], find: Callable[[str], Sequence[UUID]], kind: str) -> list[UUID]:
    """Return the one id that `find` returns for each beginning. Ends the command if it is none or several."""
    ids = []
    for beginning in beginnings:
        found = find(beginning)
        if not found:
            die(f"No {kind} has an id that begins with {beginning}.", 1)
        if len(found) > 1:
            names = ", ".join(map(str, found[:CANDIDATES]))
            more = " and more" if len(found) > CANDIDATES else ""
            die(f"Several {kind}s have an id that begins with {beginning}: {names}{more}.", 1)
        ids.append(found[0])
    return ids


def for_each(ids: Sequence[UUID], act: Callable[[UUID], tuple[bool, str]], *, as_json: bool) -> NoReturn:
    """Act on each job, print what came of it, and exit: with 0 if all was done, else with 1.

    act: returns if it was done, and what to say of the job.
    """
    outcomes = {str(job): act(job) for job in ids}
    if as_json:
        print_json({job: done for job, (done, _) in outcomes.items()})
    else:
        for job, (_, text) in outcomes.items():
            console.print(f"{job} {text}", soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(0 if all(done for done, _ in outcomes.values()) else 1)


def print_error(reason: str) -> None:
    """Print one line on stderr, whatever the reason holds."""
    line = Text.assemble(("error: ", "bold red"), printable(" ".join(reason.split())))
    console.print(line, soft_wrap=True)


def die(reason: str, code: int) -> NoReturn:
    """End the command with one line on stderr and this exit status."""
    print_error(reason)
    raise typer.Exit(code)
