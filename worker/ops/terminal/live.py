"""Jobs and the queue on a terminal, refreshed as they change."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from worker.core.errors import one_line, printable
from worker.database import Row
from worker.jobs import batches, hosts, queue
from worker.ops import advice
from worker.ops.terminal import tables
from worker.ops.terminal.formats import about, moment
from worker.ops.terminal.summary import queue_summary

PAUSE_S = 0.3  # between two queries for single jobs
QUEUE_PAUSE_S = 1.0  # between two queries for the whole queue, which cost more
IDLE_S = 10  # how long a job waits before the hint that no worker takes it


LIMIT = 10  # waiting jobs, and ended ones, that are listed where no terminal sets a limit
BESIDES = 3  # lines of the screen besides the summary and the jobs: the empty one, the header, the prompt


def watch_jobs(engine: Engine, ids: Sequence[UUID], console: Console) -> list[Row]:
    """Show jobs until all have ended. Return their rows as they are then."""
    rows = queue.get_jobs(engine, ids)
    if all(row["completed_at"] for row in rows):
        if rows:
            console.print(tables.jobs_table(rows, console.width))
        return rows
    return (
        _draw_jobs(engine, ids, rows, console)
        if console.is_terminal
        else _print_jobs(engine, ids, rows, console)
    )


def _draw_jobs(engine: Engine, ids: Sequence[UUID], rows: list[Row], console: Console) -> list[Row]:
    began = time.monotonic()
    with _live(console) as live:
        while True:
            screen: list[RenderableType] = [tables.jobs_table(rows, console.width)]
            if time.monotonic() - began > IDLE_S and (hint := idle_hint(engine, rows)):
                screen.append(hint)
            live.update(Group(*screen), refresh=True)
            if all(row["completed_at"] for row in rows):
                return rows
            time.sleep(PAUSE_S)
            rows = _until_answered(lambda: queue.get_jobs(engine, ids), live, screen)


def _print_jobs(engine: Engine, ids: Sequence[UUID], rows: list[Row], console: Console) -> list[Row]:
    """Print a line for each change of a job, for a pipe or a log, where no line can be drawn again."""
    printed: dict[Any, str] = {}
    began = time.monotonic()

    def tell(key: Any, line: Text | None) -> None:
        if line and printed.get(key) != line.plain:
            printed[key] = line.plain
            console.print(Text(f"{moment(datetime.now(UTC))}  ").append(line), soft_wrap=True)

    while True:
        for row in rows:
            tell(row["id"], tables.job_line(row))
        if all(row["completed_at"] for row in rows):
            return rows
        if time.monotonic() - began > IDLE_S:
            tell("hint", idle_hint(engine, rows))
        time.sleep(PAUSE_S)
        try:
            rows = queue.get_jobs(engine, ids)
        except (OperationalError, InterfaceError) as error:
            tell("outage", _outage(error))


def watch_batch(engine: Engine, shop: str, batch: str, console: Console) -> Row:
    """Show a batch until none of its jobs is unfinished, or it is gone. Return its sums as they are then."""
    with _live(console) as live:
        found = rows = batches.status(engine, shop=shop, batch=batch)
        while rows:
            found = rows
            screen = [tables.batches_table(rows, console.width)]
            live.update(Group(*screen), refresh=True)
            if rows[0]["finished_at"] or rows[0]["waiting"] + rows[0]["running"] == 0:
                break
            time.sleep(PAUSE_S)
            rows = _until_answered(lambda: batches.status(engine, shop=shop, batch=batch), live, screen)
    return found[0] if found else {}


def watch_queue(engine: Engine, console: Console, limit: int | None) -> None:
    """Show the queue until Ctrl-C."""
    screen = status(engine, console, limit)
    with _live(console) as live:
        while True:
            live.update(Group(*screen), refresh=True)
            time.sleep(QUEUE_PAUSE_S)
            screen = _until_answered(lambda: status(engine, console, limit), live, screen)


def status(engine: Engine, console: Console, limit: int | None) -> list[RenderableType]:
    """Return what `worker status` prints: the queue's figures, hosts, failures, and jobs.

    limit: the most waiting jobs, and the most ended ones, that are listed; None for as many as the terminal has room for.
    """
    summary = queue_summary(
        queue.health(engine),
        hosts.list_hosts(engine),
        queue.unserved(engine),
        queue.failures(engine),
        queue.file_failures(engine),
    )
    room = None
    if limit is None and console.is_terminal:
        taken = len(console.render_lines(summary, pad=False))
        limit = room = max(console.height - taken - BESIDES, 1)
    rows = queue.recent(engine, LIMIT if limit is None else limit)
    if not rows:
        return [summary]
    return [summary, Text(""), tables.jobs_table(rows if room is None else _fit(rows, room), console.width)]


def _fit(rows: list[Row], room: int) -> list[Row]:
    """Return at most `room` jobs: those that run first, and of those that wait or have ended as many of each as fit."""
    running = [row for row in rows if row["status"] == "processing"][:room]
    waiting = [row for row in rows if row["status"] == "pending"]
    ended = [row for row in rows if row["completed_at"]]
    left = room - len(running)
    most = max(left // 2, left - len(ended))
    waiting = waiting[:most]
    return [*running, *waiting, *ended[: left - len(waiting)]]


def _until_answered(
    query: Callable[[], list[Any]], live: Live, screen: Sequence[RenderableType]
) -> list[Any]:
    """Repeat a query until the database answers; meanwhile the last screen stays, with a line below it."""
    while True:
        try:
            return query()
        except (OperationalError, InterfaceError) as error:
            live.update(Group(*screen, _outage(error)), refresh=True)
            time.sleep(QUEUE_PAUSE_S)


def _outage(error: DBAPIError) -> Text:
    return Text(f"The database cannot be reached; trying again. {one_line(error)[:120]}", style="yellow")


def idle_hint(engine: Engine, rows: Sequence[Row]) -> Text | None:
    """Return why the first of the jobs waits, if no worker has taken any that has not ended."""
    due = [row for row in rows if row["status"] == "pending" and row["error_code"] is None]
    if not due or len(due) < len([row for row in rows if row["completed_at"] is None]):
        return None
    job = due[0]
    try:
        position = queue.queue_position(engine, job["id"])
        problem = _why_nobody_takes(job, hosts.list_hosts(engine))
    except DBAPIError:  # the next query reports it
        return None
    if problem:
        return Text(printable(problem), style="yellow")
    if not position or position["position"] is None:
        return None
    wait = f", about {about(position['estimated_wait_s'])}" if position["estimated_wait_s"] else ""
    return Text(f"Number {position['position']:,} in the queue{wait}.", style="dim")


def _why_nobody_takes(job: Row, known: Sequence[Row]) -> str:
    """Return why none of the hosts takes a waiting job; an empty string if one does."""
    running = [host for host in known if host["up"]]
    able = [host for host in running if hosts.can_take(host, job["pool"], job["engine"])]
    if not running:
        return f"No worker is running. {advice.start_worker()}"
    if not able:
        wanted = f"the pool {job['pool']}" + (f" and the engine {job['engine']}" if job["engine"] else "")
        return f"No running worker takes jobs of {wanted}. See: worker hosts"
    if all(host["state"] == "paused" for host in able):
        return f"Its workers are paused. See: worker resume {able[0]['name']}"
    return ""


def _live(console: Console) -> Live:
    return Live(Text(""), console=console, auto_refresh=False)
