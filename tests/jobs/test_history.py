"""worker.history: the queue over time, computed again and again from the jobs."""

import platform
from typing import Any

import psycopg
from conftest import complete_next
from sqlalchemy.engine import Engine

from worker.core.errors import JobError
from worker.jobs import queue

HOST = platform.node()
REPORT = {"seconds": {"generate": 2, "texture": 1.5, "odd": "x", "nothing": None}}


def enqueue(engine: Engine, product: str, **more: Any) -> None:
    queue.enqueue(engine, shop="a", product_id=product, image_urls=["http://a/b"], **more)


def lines(sql: psycopg.Connection, measure: str, part: str = "5 min") -> list[tuple[Any, ...]]:
    found = sql.execute(
        "SELECT pool, host, key, sum(count)::int, round(sum(total)::numeric, 2)::float FROM worker.history"
        " WHERE measure = %s AND part = %s::interval GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        [measure, part],
    )
    return found.fetchall()


def fold(engine: Engine) -> int:
    return queue.fold_history(engine, keep_days=90)


def test_what_ended_is_counted_once_however_often_it_is_folded(
    engine: Engine, sql: psycopg.Connection
) -> None:
    for product in ("1", "2", "3", "4"):
        enqueue(engine, product)
    complete_next(engine, digest="1" * 32, report=REPORT)
    complete_next(engine, digest="2" * 32, report=REPORT | {"cached": {"job_id": "x"}})
    job = queue.claim(engine, worker="w", lease_s=300)
    assert job
    queue.fail(engine, job, JobError("no_object"), report={})
    sql.execute("UPDATE jobs SET cancel_requested_at = now() WHERE status = 'pending'")
    assert sql.execute("SELECT count(*) FROM jobs WHERE completed_at IS NULL").fetchone() == (0,)
    for part in ("5 min", "1 h"):
        for _ in range(2):
            assert fold(engine) > 0
            assert lines(sql, "ended", part) == [
                ("default", "", "cancelled", 1, 0),
                ("default", HOST, "cached", 1, 0),
                ("default", HOST, "completed", 1, 0),
                ("default", HOST, "failed", 1, 0),
            ]
            assert lines(sql, "failed", part) == [("default", HOST, "no_object", 1, 0)]
            assert lines(sql, "step", part) == [
                ("default", HOST, "generate", 1, 2),
                ("default", HOST, "texture", 1, 1.5),
            ]
            assert sum(line[3] for line in lines(sql, "start", part)) == 3
            assert sum(line[3] for line in lines(sql, "finish", part)) == 2


def test_the_queue_is_sampled(engine: Engine, sql: psycopg.Connection) -> None:
    for product in ("1", "2", "3"):
        enqueue(engine, product)
    enqueue(engine, "4", pool="large")
    assert queue.claim(engine, worker="w", lease_s=300)
    for _ in range(3):
        fold(engine)
    levels = {(pool, key): total / count for pool, _, key, count, total in lines(sql, "level")}
    assert levels == {
        ("default", "waiting"): 2,
        ("default", "running"): 1,
        ("large", "waiting"): 1,
        ("large", "running"): 0,
    }


def test_a_day_without_a_daemon_is_made_up_for_and_old_parts_are_deleted(
    engine: Engine, sql: psycopg.Connection
) -> None:
    enqueue(engine, "1")
    complete_next(engine, digest="1" * 32)
    fold(engine)
    old = "SELECT part, at - interval '3 days', measure, pool, host, key, count, total FROM worker.history"
    sql.execute(f"INSERT INTO worker.history {old}")
    # The last part that was folded lies three hours ago; a job ended since.
    sql.execute("DELETE FROM worker.history WHERE at > now() - interval '3 h'")
    assert queue.fold_history(engine, keep_days=2, most=20) == 20
    assert queue.fold_history(engine, keep_days=2) > 10
    assert [line[2:4] for line in lines(sql, "ended")] == [("completed", 1)]
    assert sql.execute(
        "SELECT count(*) FROM worker.history WHERE at < now() - interval '2 days'"
    ).fetchone() == (0,)


def test_odd_rows_are_counted_as_far_as_they_can_be(engine: Engine, sql: psycopg.Connection) -> None:
    """An app may insert rows that have ended, with any times and any report."""
    for n, seconds in enumerate(['"x"', "[1]", '{"a": 1e300, "b": -1, "c": [2], "": 3}']):
        sql.execute(
            "INSERT INTO jobs (shop, product_id, image_urls, status, completed_at, started_at, model_url, progress, metadata)"
            f" VALUES ('a', '{n}', '{{http://a/b}}', 'completed', now(), '2262-01-01', 'http://a/c', 100,"
            f' \'{{"worker": {{"seconds": {seconds}}}}}\')'
        )
    assert fold(engine) > 0
    assert [line[2:4] for line in lines(sql, "ended")] == [("completed", 3)]
    assert [line[2:] for line in lines(sql, "step")] == [("", 1, 3), ("a", 1, 86400)]
