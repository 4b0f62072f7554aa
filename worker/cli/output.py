"""What all commands print with. What people read goes to stderr, so that stdout can be a document for a program."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from sqlalchemy.engine import Engine

from worker import database
from worker.core.settings import Settings

console = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@contextmanager
def connected(configured: Settings) -> Iterator[Engine]:
    engine = database.connect(database.url(configured))
    try:
        yield engine
    finally:
        engine.dispose()


def print_json(document: Any) -> None:
    print(json.dumps(document, default=str, indent=2))  # noqa: T201 - the document is the output


def die(reason: str, code: int) -> NoReturn:
    console.print(Text.assemble(("error: ", "bold red"), reason), soft_wrap=True)
    sys.exit(code)
