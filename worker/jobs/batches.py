"""Batches: their sums, and what people do with all jobs of one at once. The rules are in migrations/sql/batches.sql."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from sqlalchemy.engine import Engine

from worker.database import Row, fetch_all, fetch_one, queries, transaction
from worker.jobs.rows import MOST_PROBLEMS, BadFile, Line, refusal

QUERIES = queries("worker.jobs")

MOST = 200  # batches in one transaction
AT_ONCE = 250  # jobs in one statement
LONG_S = 600.0  # for a statement on all rows of a batch
REFUSALS = ("22", "23", "54", "P0")  # classes of SQLSTATE: data, rules, limits, a trigger of the app's


def fold(engine: Engine) -> int:
    """Add what has changed in all batches to their sums. Returns how many batches have finished, each with its event.

    One daemon at a time does it; another one returns 0 at once.
    """
    finished = 0
    after: Row | None = {"last_shop": "", "last_batch": ""}
    while after and after["last_shop"] is not None:
        after = fetch_one(
            engine, QUERIES["fold_batches"], shop=after["last_shop"], batch=after["last_batch"], most=MOST
        )
        finished += bool(after and after["finished"])
    return finished


def add(
    engine: Engine,
    lines: Sequence[Line],
    *,
    keep: bool = True,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Line]:
    """Insert jobs, all or none, in one transaction; unless `keep`, only try it. `on_progress` is told how many are done.

    Returns the lines that are not inserted, since another unfinished job has their dedupe_key.
    Raises: BadFile with the lines that break a rule, sqlalchemy's DBAPIError.
    """
    problems: list[str] = []
    refused: list[Line] = []
    with transaction(engine, keep=keep) as connection:
        for first in range(0, len(lines), AT_ONCE):
            some = lines[first : first + AT_ONCE]
            refused += _insert(connection, some, problems)
            if len(problems) >= MOST_PROBLEMS:
                break
            on_progress(first + len(some))
        if problems:
            raise BadFile(problems[:MOST_PROBLEMS])
    return refused


def _insert(connection: psycopg.Connection[Any], lines: Sequence[Line], problems: list[str]) -> list[Line]:
    """Insert lines in one statement. If it is refused, find the line by halves. Returns the lines that are not inserted."""
    if len(problems) >= MOST_PROBLEMS:
        return []
    made: dict[UUID, Line] = {uuid4(): line for line in lines}
    jobs = json.dumps([{**line.columns, "id": str(job)} for job, line in made.items()])
    try:
        with connection.transaction():
            found = connection.execute(QUERIES["enqueue_all"].encode(), {"jobs": jobs}).fetchall()
    except psycopg.Error as error:
        if (error.sqlstate or "")[:2] not in REFUSALS:
            raise
        if len(lines) == 1:
            problems.append(f"line {lines[0].number}: {refusal(error)}")
            return []
        half = len(lines) // 2
        return _insert(connection, lines[:half], problems) + _insert(connection, lines[half:], problems)
    inserted = {job for (job,) in found}
    return [line for job, line in made.items() if job not in inserted]


def results(engine: Engine, shop: str, batch: str) -> list[Row]:
    """Return what became of the jobs of a batch, in the order in which they were inserted."""
    return fetch_all(engine, QUERIES["batch_results"], shop=shop, batch=batch)


def status(engine: Engine, *, batch: str | None = None, shop: str | None = None) -> list[Row]:
    """Return batches as the view batch_status shows them, the newest first: all, those of a shop, those of a name."""
    return fetch_all(engine, QUERIES["batch_status"], batch=batch, shop=shop)


def page(
    engine: Engine, *, part: str, limit: int, before: tuple[datetime, str, str] | None = None
) -> list[Row]:
    """Return up to `limit` batches, the newest first, whose shop or name has `part`; those after the `created_at`, `shop` and `batch` of one."""
    created_at, shop, batch = before or (None, "", "")
    return fetch_all(
        engine, QUERIES["batch_page"], part=part, limit=limit, before=created_at, shop=shop, batch=batch
    )


def cancel(engine: Engine, shop: str, batch: str) -> int:
    """End the waiting jobs of a batch and ask its running ones to stop. Returns how many."""
    return _change(engine, "cancel_batch", shop=shop, batch=batch)


def retry(engine: Engine, shop: str, batch: str) -> int:
    """Queue the failed jobs of a batch again. Returns how many."""
    return _change(engine, "retry_batch", shop=shop, batch=batch)


def set_priority(engine: Engine, shop: str, batch: str, priority: int) -> int:
    """Set the priority of the unfinished jobs of a batch. Returns how many."""
    return _change(engine, "set_batch_priority", shop=shop, batch=batch, priority=priority)


def _change(engine: Engine, query: str, **parameters: Any) -> int:
    """Run a statement that changes all rows of a batch, which takes seconds for tens of thousands."""
    with transaction(engine, answer_s=LONG_S) as connection:
        row = connection.execute(QUERIES[query].encode(), parameters).fetchone()
    return int(row[0]) if row else 0
