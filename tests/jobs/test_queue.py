"""The queue's rules, statement by statement."""

import threading
from collections import Counter
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import Engine

from worker.errors import JobError
from worker.jobs import queue
from worker.jobs.queue import Job, LeaseLost


def enqueue(engine: Engine, product: str = "1", **more: Any) -> Any:
    return queue.enqueue(
        engine, shop="a.myshopify.com", product_id=product, image_urls=["http://a/b"], **more
    )


def claim(engine: Engine, worker: str = "w") -> Job:
    job = queue.claim(engine, worker=worker, lease_s=30)
    assert job
    return job


def row(sql: psycopg.Connection, columns: str) -> Any:
    return sql.execute(f"SELECT {columns} FROM jobs".encode()).fetchone()


def shift(sql: psycopg.Connection, column: str, interval: str) -> None:
    """Moves time by moving the row's."""
    with sql.transaction():
        sql.execute("SELECT set_config('worker.lease', 'queue', true)")
        sql.execute(f"UPDATE jobs SET {column} = {column} + %s::interval".encode(), [interval])


def test_a_claim_takes_the_highest_priority_then_the_oldest(engine: Engine) -> None:
    order = [enqueue(engine, str(n), priority=p) for n, p in enumerate([0, 5, 0, 5])]
    assert [claim(engine).id for _ in order] == [order[1], order[3], order[0], order[2]]
    assert queue.claim(engine, worker="w", lease_s=30) is None


def test_a_claim_is_a_lease(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    job = claim(engine, "host:1")
    assert row(sql, "status::text, progress, stage, attempts, claimed_by") == (
        "processing",
        5,
        "claimed",
        1,
        "host:1",
    )
    assert row(sql, "lease_token, extract(epoch FROM lease_expires_at - started_at)::int") == (
        job.lease_token,
        30,
    )


def test_a_job_is_not_taken_before_its_time(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    sql.execute("UPDATE jobs SET run_after = now() + interval '1 h'")
    assert queue.claim(engine, worker="w", lease_s=30) is None


def test_a_claim_held_open_does_not_hold_up_another(engine: Engine, database_url: str) -> None:
    first, second = enqueue(engine, "1"), enqueue(engine, "2")
    with psycopg.connect(database_url) as slow:
        text = str(queue.QUERIES["claim"]).replace(":lease_s", "30").replace(":worker", "'slow'")
        taken = slow.execute(text.encode()).fetchone()
        assert taken
        assert taken[0] == first
        assert claim(engine).id == second
        slow.rollback()
    assert claim(engine).id == first


def test_many_claimers_share_the_rows_without_a_double(engine: Engine) -> None:
    wanted = {enqueue(engine, str(n)) for n in range(200)}
    taken: list[Any] = []

    def work() -> None:
        while job := queue.claim(engine, worker="w", lease_s=30):
            taken.append(job.id)
            queue.complete(engine, job, model_url="x", report={})

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken) == Counter(wanted)


def test_what_a_worker_without_the_lease_writes_changes_nothing(
    engine: Engine, sql: psycopg.Connection
) -> None:
    enqueue(engine)
    frozen = claim(engine, "frozen")
    shift(sql, "lease_expires_at", "-31 s")
    assert [found["status"] for found in queue.rescue(engine)] == ["pending"]
    owner = claim(engine, "owner")
    before = sql.execute("SELECT * FROM jobs").fetchall()
    events = sql.execute("SELECT * FROM worker.outbox").fetchall()
    for write in (
        lambda: queue.renew(engine, frozen, lease_s=30),
        lambda: queue.report(engine, frozen, progress=80, stage="written", lease_s=30),
        lambda: queue.complete(engine, frozen, model_url="stale", report={}),
        lambda: queue.fail(engine, frozen, JobError("no_object"), report={}),
        lambda: queue.cancel(engine, frozen),
        lambda: queue.release(engine, frozen),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert sql.execute("SELECT * FROM jobs").fetchall() == before
    assert sql.execute("SELECT * FROM worker.outbox").fetchall() == events
    queue.complete(engine, owner, model_url="fresh", report={})
    assert row(sql, "model_url, attempts") == ("fresh", 2)


def test_a_deleted_row_is_a_lost_lease(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    job = claim(engine)
    sql.execute("DELETE FROM jobs")
    with pytest.raises(LeaseLost):
        queue.report(engine, job, progress=10, stage="downloading", lease_s=30)


def test_progress_never_falls(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    job = claim(engine)
    for progress in (40, 10):
        queue.report(engine, job, progress=progress, stage="s", lease_s=30)
    assert row(sql, "progress") == (40,)


def test_what_can_succeed_later_waits_longer_each_time_and_then_fails(
    engine: Engine, sql: psycopg.Connection
) -> None:
    enqueue(engine)
    for attempt, (least, most) in enumerate([(7.5, 15), (15, 30)], start=1):
        job = claim(engine)
        assert job.attempts == attempt
        assert (
            queue.fail(engine, job, JobError("photo_unreachable"), report={"n": attempt})["status"]
            == "pending"
        )
        wait = row(sql, "extract(epoch FROM run_after - now())::float")[0]
        assert least - 1 < wait <= most
        assert row(sql, "progress, stage, error_code, lease_token") == (0, None, "photo_unreachable", None)
        shift(sql, "run_after", "-1 h")
    assert queue.fail(engine, claim(engine), JobError("photo_unreachable"), report={})["status"] == "failed"
    assert row(sql, "status::text, attempts, error_code") == ("failed", 3, "photo_unreachable")


def test_what_cannot_succeed_fails_at_once(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    assert queue.fail(engine, claim(engine), JobError("no_object"), report={"x": 1})["status"] == "failed"
    assert row(sql, "attempts, metadata, error_message") == (
        1,
        {"worker": {"x": 1}},
        JobError("no_object").message,
    )


def test_given_back_costs_no_attempt(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    queue.release(engine, claim(engine))
    assert row(sql, "status::text, attempts, progress, claimed_by") == ("pending", 0, 0, None)


def test_a_lost_worker_s_job_comes_back_at_once_then_later_then_fails(
    engine: Engine, sql: psycopg.Connection
) -> None:
    enqueue(engine)
    for waits in (False, True):
        claim(engine)
        assert queue.rescue(engine) == []
        shift(sql, "lease_expires_at", "-31 s")
        assert [found["status"] for found in queue.rescue(engine)] == ["pending"]
        assert row(sql, "run_after > now()") == (waits,)
        shift(sql, "run_after", "-1 h")
    claim(engine)
    shift(sql, "lease_expires_at", "-31 s")
    assert [found["status"] for found in queue.rescue(engine)] == ["failed"]
    assert row(sql, "status::text, error_code, attempts") == ("failed", "worker_lost", 3)


def test_a_lost_worker_s_job_that_should_stop_is_cancelled(engine: Engine, sql: psycopg.Connection) -> None:
    job = enqueue(engine)
    claim(engine)
    queue.ask_to_cancel(engine, job)
    shift(sql, "lease_expires_at", "-31 s")
    assert [found["status"] for found in queue.rescue(engine)] == ["cancelled"]


def test_history_does_not_slow_the_claim_down(sql: psycopg.Connection) -> None:
    sql.execute("""
        INSERT INTO jobs (shop, product_id, image_urls, status, progress, model_url, completed_at)
        SELECT 'a', n::text, '{http://a/b}', 'completed', 100, 'x', now() FROM generate_series(1, 20000) n""")
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls) SELECT 'a', n::text, '{http://a/b}' FROM generate_series(1, 500) n"
    )
    sql.execute("ANALYZE jobs")
    text = str(queue.QUERIES["claim"]).replace(":lease_s", "30").replace(":worker", "'w'")
    plan = "\n".join(line[0] for line in sql.execute(f"EXPLAIN {text}".encode()))
    assert "Index Scan using jobs_pending" in plan
    assert "Seq Scan" not in plan
    assert "Sort" not in plan
