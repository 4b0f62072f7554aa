"""The progress of a download, and of many inserts, on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

if TYPE_CHECKING:  # it brings an HTTP client, and the other bar needs none
    from worker.weights import transfer


@contextmanager
def download_bar(console: Console, name: str) -> "Iterator[transfer.OnProgress]":
    """Yield a function to call with the bytes done and in all. The bar goes at the end; without a terminal there is none."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


@contextmanager
def jobs_bar(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of jobs that are inserted. The bar goes at the end, as above."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("jobs", total=total)
        yield lambda done: progress.update(task, completed=done)
