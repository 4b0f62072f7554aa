"""Estimates of when jobs start and end, which the views job_status and batch_status show: migrations/sql/estimates.sql."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy.engine import Engine

from worker.database import Row, queries, transaction
from worker.jobs.forecast import Arrivals, Host, Line, Part, Queue, Served, play

QUERIES = queries("worker.jobs")

MOST_MEASURED = 500  # jobs in one call
ANSWER_S = 60.0  # for a million waiting jobs
EVERY_S = 5.0  # between two forecasts
SHARE = 50  # a forecast takes one second of so many
VALID_S = 60.0  # after the next one is due
LEAST_S = 600.0  # of which it must be known how many jobs came

Known = Mapping[tuple[str, str, str], Row]  # by pool, engine and quality


def update(engine: Engine, *, shop_limit: int | None = None) -> bool:
    """Measure the jobs that have ended, and make the next forecast. False if it is not due, there is nothing to foresee, or another daemon makes it.

    shop_limit: the most jobs of one shop that run at once. Raises: sqlalchemy's DBAPIError.
    """
    began = time.monotonic()
    with transaction(engine, answer_s=ANSWER_S) as connection:
        if not _all(connection, "begin_forecast")[0]["begun"]:
            return False
        _all(connection, "fold_seconds", most=MOST_MEASURED)
        lines, batches = _forecast(connection, shop_limit)
        next_s = max(EVERY_S, SHARE * (time.monotonic() - began))
        _all(
            connection,
            "write_forecast",
            lines=json.dumps(lines),
            batches=json.dumps(batches),
            next_s=next_s,
            valid_s=next_s + VALID_S,
        )
    return True


@dataclass
class _Mine:
    """Jobs of a shop that stand next to each other, by preset and batch, and what is found of them. `due`: within ten minutes."""

    rows: Sequence[Row]
    due: bool
    part: Part


def _forecast(connection: psycopg.Connection[Any], shop_limit: int | None) -> tuple[list[Row], list[Row]]:
    """Return the rows of worker.forecasts and worker.batch_forecasts, with times in seconds from now."""
    waiting, running = _all(connection, "waiting_parts"), _all(connection, "running_jobs")
    if not waiting and not running:
        return [], []
    known: Known = {_key(row): row for row in _all(connection, "known_seconds")}
    every = [
        [_mine(list(rows), known) for _, rows in groupby(of_queue, itemgetter("part"))]
        for _, of_queue in groupby(waiting, itemgetter("pool", "engine", "priority", "shop"))
    ]
    queues = [
        Queue(_line(row), row["priority"], row["shop"], [mine.part for mine in each if mine.due])
        for each in every
        if (row := each[0].rows[0])
    ]
    levels = {(queue.line, queue.priority) for queue in queues}
    play(
        _hosts(_all(connection, "claiming_hosts"), running),
        queues,
        arrivals=_arrivals(_all(connection, "recent_starts"), queues, known) if queues else [],
        served={
            (_line(row), row["priority"]): Served(row["shop"], row["ago_s"])
            for row in _all(connection, "served_last", lines=json.dumps(_named(levels)))
        },
        limits={row["shop"]: row["jobs_at_once"] for row in _all(connection, "jobs_at_once")},
        limit=shop_limit,
    )
    return [*_lines(every)], [*_batches(every, running, known)]


def _mine(rows: Sequence[Row], known: Known) -> _Mine:
    jobs = sum(row["jobs"] for row in rows)
    each = [(row["jobs"], known.get(_key(row))) for row in rows]
    seconds = None
    if all(found for _, found in each):
        seconds = sum(count * found["busy_seconds"] for count, found in each if found) / jobs
    return _Mine(rows, rows[0]["part"] > 0, Part(jobs, seconds))


def _hosts(hosts: Iterable[Row], running: Iterable[Row]) -> list[Host]:
    busy = defaultdict(list)
    for row in running:
        busy[row["claimed_by"]].append((row["left_s"], row["shop"]))
    return [Host(row["pools"], row["engine"], row["lanes"], busy[row["name"]]) for row in hosts]


def _arrivals(starts: Iterable[Row], queues: Sequence[Queue], known: Known) -> list[Arrivals]:
    """Return the jobs that go on coming as they came lately: those that began soon after they came, of shops that have no more
    than one waiting now. The others stand in the queue themselves.
    """
    backlog = {(queue.line, queue.priority, queue.shop) for queue in queues if len(queue.parts) > 1}
    jobs: Counter[tuple[Line, int]] = Counter()
    seconds: Counter[tuple[Line, int]] = Counter()
    within = LEAST_S
    for row in starts:
        within = max(within, row["within"])
        line, priority = _line(row), row["priority"]
        if (line, priority, row["shop"]) not in backlog:
            jobs[line, priority] += row["prompt"]
            seconds[line, priority] += row["prompt"] * known[_key(row)]["busy_seconds"]
    return [
        Arrivals(line, priority, count / within, seconds[line, priority] / count)
        for (line, priority), count in jobs.items()
    ]


def _lines(every: Iterable[Sequence[_Mine]]) -> Iterator[Row]:
    for each in every:
        if due := [mine for mine in each if mine.due]:
            row = due[0].rows[0]
            lasts = [max((row["run_after"], row["created_at"]) for row in mine.rows) for mine in due]
            yield {name: row[name] for name in ("pool", "engine", "priority", "shop")} | {
                "last_in_part": [moment.isoformat() for last in lasts for moment in last],
                "starts_s": _middles([mine.part for mine in due]),
            }


def _middles(parts: Iterable[Part]) -> list[float | None]:
    """Return when the middle one of each part's jobs starts, none before one that stands before it."""
    found: list[float | None] = []
    latest = 0.0
    for part in parts:
        if part.first_start is None or part.last_start is None:
            found.append(None)
        else:
            latest = max(latest, (part.first_start + part.last_start) / 2)
            found.append(latest)
    return found


def _batches(every: Iterable[Sequence[_Mine]], running: Iterable[Row], known: Known) -> Iterator[Row]:
    """Yield when each batch ends of whose unfinished jobs all is known: when the last of them does."""
    ends: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    for row in running:
        ends[row["shop"], row["batch"]].append(row["left_s"])
    for mine in (mine for each in every for mine in each):
        for row in mine.rows:
            seconds, start = known.get(_key(row), {}).get("seconds"), mine.part.last_start
            ends[row["shop"], row["batch"]].append(
                None if seconds is None or start is None else start + seconds
            )
    for (shop, batch), found in ends.items():
        if batch and None not in found:
            yield {"shop": shop, "batch": batch, "ends_s": max(end for end in found if end is not None)}


def _key(row: Row) -> tuple[str, str, str]:
    return row["pool"], row["engine"], row["quality"]


def _line(row: Row) -> Line:
    return row["pool"], row["engine"]


def _named(levels: Iterable[tuple[Line, int]]) -> list[Row]:
    return [{"pool": pool, "engine": engine, "priority": priority} for (pool, engine), priority in levels]


def _all(connection: psycopg.Connection[Any], query: str, **parameters: Any) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(QUERIES[query].encode(), parameters).fetchall()
