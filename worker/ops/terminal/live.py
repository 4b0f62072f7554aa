"""Jobs and the queue on a terminal, as they move."""

import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from worker.core.errors import one_line
from worker.jobs import queue
from worker.ops.terminal import tables

PAUSE_S = 0.3  # between two looks at the rows
QUEUE_PAUSE_S = 1.0  # between two at the whole queue, which cost more
IDLE_S = 10  # that a job waits before it is asked whether a worker runs


def jobs(engine: Engine, ids: Sequence[UUID], console: Console) -> list[queue.Row]:
    """Shows these until all have ended; the rows as they are then."""
    rows = queue.get_jobs(engine, ids)
    if all(row["completed_at"] for row in rows):
        console.print(tables.jobs_table(rows))
        return rows
    began = time.monotonic()
    with _live(console) as live:
        while True:
            shown: list[RenderableType] = [tables.jobs_table(rows)]
            if time.monotonic() - began > IDLE_S and (hint := _idle(engine, rows)):
                shown.append(hint)
            live.update(Group(*shown), refresh=True)
            if all(row["completed_at"] for row in rows):
                return rows
            time.sleep(PAUSE_S)
            rows = _patiently(lambda: queue.get_jobs(engine, ids), live, shown)


def everything(engine: Engine, console: Console, limit: int) -> None:
    """Shows the queue until Ctrl-C."""
    shown: list[RenderableType] = list(glance(engine, limit))
    with _live(console) as live:
        while True:
            live.update(Group(*shown), refresh=True)
            time.sleep(QUEUE_PAUSE_S)
            shown = _patiently(lambda: list(glance(engine, limit)), live, shown)


def glance(engine: Engine, limit: int) -> Sequence[RenderableType]:
    """The queue's figures, who works, what fails, and its jobs: what `worker status` prints."""
    rows = queue.recent(engine, limit)
    shown: list[RenderableType] = [
        tables.glance(queue.health(engine), queue.workers(engine), queue.failures(engine))
    ]
    return [*shown, Text(""), tables.jobs_table(rows)] if rows else shown


def _patiently(look: Callable[[], list[Any]], live: Live, shown: Sequence[RenderableType]) -> list[Any]:
    """Looks again until the database answers; what was seen last stays, with a line below it."""
    while True:
        try:
            return look()
        except (OperationalError, InterfaceError) as error:
            reason = one_line(error)[:120]
            line = Text(f"The database cannot be reached; trying again. {reason}", style="yellow")
            live.update(Group(*shown, line), refresh=True)
            time.sleep(QUEUE_PAUSE_S)


def _idle(engine: Engine, rows: Sequence[queue.Row]) -> Text | None:
    """Where jobs are due and nobody takes them."""
    due = [row for row in rows if row["status"] == "pending" and row["error_code"] is None]
    if not due or len(due) < len([row for row in rows if row["completed_at"] is None]):
        return None
    try:
        place = queue.queue_position(engine, due[0]["id"])
        busy = queue.health(engine)["running"]
    except DBAPIError:  # the next look says so
        return None
    if not busy:
        return Text("No worker has taken it. Does one run? systemctl status worker", style="yellow")
    wait = f", about {place['estimated_wait_s']:.0f} s" if place and place["estimated_wait_s"] else ""
    return Text(f"Number {place['position']} in the queue{wait}." if place else "", style="dim")


def _live(console: Console) -> Live:
    return Live(Text(""), console=console, auto_refresh=False)
