"""Batches: exact sums at every look, one event for each finish, and functions for all jobs of one at once."""

import threading
from collections.abc import Callable
from datetime import datetime
from itertools import count
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy.engine import Engine

from worker.core.errors import JobError
from worker.database import execute
from worker.jobs import batches, queue
from worker.jobs.queue import Job

PRODUCTS = count()
SUMS = ("total", "waiting", "running", "completed", "failed", "cancelled", "gone", "for_review", "cached")

Act = Callable[[Engine, Job], object]
Sql = psycopg.Connection[Any]


def insert(sql: Sql, jobs: int, batch: str | None = "monday", shop: str = "a", **columns: Any) -> list[UUID]:
    names = ", ".join(["shop", "batch", "product_id", "image_urls", *columns])
    places = ", ".join(["%s"] * (4 + len(columns)))
    rows = [
        sql.execute(
            f"INSERT INTO jobs ({names}) VALUES ({places}) RETURNING id".encode(),
            [shop, batch, f"p{next(PRODUCTS)}", ["http://a/b"], *columns.values()],
        ).fetchone()
        for _ in range(jobs)
    ]
    return [row[0] for row in rows if row]


def status(sql: Sql, batch: str = "monday", shop: str = "a") -> dict[str, Any]:
    row = (
        sql.cursor(row_factory=dict_row)
        .execute("SELECT * FROM batch_status WHERE shop = %s AND batch = %s", [shop, batch])
        .fetchone()
    )
    return row or {}


def sums(sql: Sql, batch: str = "monday", shop: str = "a") -> dict[str, int]:
    """Those that are not 0."""
    row = status(sql, batch, shop)
    return {name: row[name] for name in SUMS if row.get(name)}


def claim(engine: Engine) -> Job:
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    return job


def complete(engine: Engine, job: Job, *, review: bool = False, **report: Any) -> None:
    queue.complete(engine, job, model_url="https://m/1.glb", report=report, wants_review=review)


def fail(engine: Engine, job: Job) -> None:
    queue.fail(engine, job, JobError("no_object"), report={})


def delete(engine: Engine, job: Job) -> None:
    """As a backend may at any time."""
    execute(engine, "DELETE FROM public.jobs WHERE id = %(id)s", id=job.id)


def finishes(sql: Sql) -> list[dict[str, Any]]:
    rows = sql.execute(
        "SELECT body::jsonb FROM worker.outbox WHERE type = 'batch.finished' ORDER BY seq"
    ).fetchall()
    return [row[0] for row in rows]


def run_all(engine: Engine, *acts: Act) -> None:
    """Claim and end as many jobs as there are acts."""
    for act in acts:
        act(engine, claim(engine))


def test_the_sums_are_exact_at_every_look_folded_or_not(engine: Engine, sql: Sql) -> None:
    insert(sql, 5)
    insert(sql, 1, batch=None)
    insert(sql, 1, batch="tuesday")
    insert(sql, 1, shop="b")

    def check(**expected: int) -> None:
        assert sums(sql) == {"total": 5, **expected}
        batches.fold(engine)
        assert sums(sql) == {"total": 5, **expected}

    check(waiting=5)
    first = [claim(engine) for _ in range(8)]
    ours = [job for job in first if job.batch == "monday" and job.shop == "a"]
    check(running=5)
    complete(engine, ours[0])
    check(running=4, completed=1)
    complete(engine, ours[1], review=True, cached="another")
    check(running=3, completed=2, for_review=1, cached=1)
    fail(engine, ours[2])
    queue.fail(engine, ours[3], JobError("no_space"), report={})
    check(running=1, waiting=1, failed=1, completed=2, for_review=1, cached=1)
    queue.release(engine, ours[4])
    assert batches.cancel(engine, "a", "monday") == 2
    check(cancelled=2, failed=1, completed=2, for_review=1, cached=1)
    row = status(sql)
    assert row["percent"] == 100
    assert row["created_at"] < row["started_at"] < row["finished_at"]
    assert sums(sql, "tuesday") == sums(sql, shop="b") == {"total": 1, "running": 1}
    assert sql.execute("SELECT reject_job(%s)", [ours[1].id]).fetchone() == (True,)
    check(cancelled=2, failed=1, completed=2, cached=1)


def test_a_finish_is_one_event_after_that_of_the_last_job(engine: Engine, sql: Sql) -> None:
    insert(sql, 3)
    run_all(engine, complete, fail)
    assert batches.fold(engine) == 0
    run_all(engine, complete)
    assert batches.fold(engine) == 1
    assert batches.fold(engine) == 0
    (body,) = finishes(sql)
    row = status(sql)
    assert body.pop("seq") == sql.execute("SELECT max(seq) FROM worker.outbox").fetchone()[0]  # type: ignore[index]
    for key, column in (("startedAt", "started_at"), ("finishedAt", "finished_at")):
        assert datetime.fromisoformat(body.pop(key)) == row[column]
    assert body == {
        "shop": "a", "batch": "monday", "total": 3, "completed": 2, "failed": 1, "cancelled": 0, "gone": 0,
        "forReview": 0, "cached": 0, "finishes": 1,
    }  # fmt: skip


def test_a_batch_that_grew_or_was_retried_finishes_again(engine: Engine, sql: Sql) -> None:
    insert(sql, 2)
    run_all(engine, fail, complete)
    batches.fold(engine)
    insert(sql, 1)
    assert status(sql)["finished_at"] is None
    batches.fold(engine)
    run_all(engine, complete)
    batches.fold(engine)
    assert batches.retry(engine, "a", "monday") == 1
    assert sums(sql) == {"total": 3, "waiting": 1, "completed": 2}
    run_all(engine, complete)
    # Ended and retried between two folds: nothing to tell, until it has ended again.
    (last,) = sql.execute("SELECT id FROM jobs ORDER BY completed_at DESC LIMIT 1").fetchone() or [None]
    assert queue.retry(engine, last)
    assert batches.fold(engine) == 0
    run_all(engine, complete)
    assert batches.fold(engine) == 1
    assert [(body["total"], body["failed"], body["finishes"]) for body in finishes(sql)] == [
        (2, 1, 1),
        (3, 1, 2),
        (3, 0, 3),
    ]


def test_what_is_neither_new_nor_run_again_is_no_finish(engine: Engine, sql: Sql) -> None:
    insert(sql, 2)
    run_all(engine, lambda e, job: complete(e, job, review=True), complete)
    batches.fold(engine)
    assert sql.execute("SELECT reject_job(id) FROM jobs WHERE review = 'wanted'").fetchone() == (True,)
    sql.execute("DELETE FROM jobs")
    batches.fold(engine)
    assert len(finishes(sql)) == 1
    assert sums(sql) == {"total": 2, "completed": 2}


def test_deleted_jobs_keep_their_place(engine: Engine, sql: Sql) -> None:
    insert(sql, 4)
    run_all(engine, complete, lambda e, job: complete(e, job, review=True))
    claim(engine)
    sql.execute("DELETE FROM jobs")
    assert sums(sql) == {"total": 4, "completed": 2, "gone": 2}
    assert batches.fold(engine) == 1
    assert sums(sql) == {"total": 4, "completed": 2, "gone": 2}
    assert finishes(sql)[0]["gone"] == 2


def test_superseded_and_rescued_jobs_are_counted(engine: Engine, sql: Sql) -> None:
    for at in ("now() + interval '1 h'", "now()"):
        sql.execute(
            "INSERT INTO jobs (shop, batch, product_id, image_urls, run_after)"
            f" VALUES ('a', 'monday', 'same', '{{http://a/b}}', {at})".encode()
        )
    job = claim(engine)
    sql.execute("SELECT set_config('worker.lease', 'queue', false)")
    sql.execute("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = %s", [job.id])
    sql.execute("SELECT set_config('worker.lease', '', false)")
    queue.rescue(engine)
    assert sums(sql) == {"total": 2, "waiting": 2}
    run_all(engine, complete)
    assert sums(sql) == {"total": 2, "completed": 1, "cancelled": 1}
    assert batches.fold(engine) == 1


def test_the_batch_and_its_shop_are_fixed_at_the_insert(sql: Sql) -> None:
    insert(sql, 1)
    insert(sql, 1, batch=None)
    sql.execute("UPDATE jobs SET batch = 'other', shop = 'b', priority = 3")
    assert sql.execute("SELECT shop, batch, priority FROM jobs ORDER BY batch").fetchall() == [
        ("a", "monday", 3),
        ("b", None, 3),
    ]
    for name in ("", " ", "x" * 256):
        with pytest.raises(psycopg.errors.CheckViolation, match="batch_is_1_to_255_characters"):
            insert(sql, 1, batch=name)
    insert(sql, 1, batch="é" * 255, shop="ü" * 255)  # as long as an entry of an index may be


def test_a_cancel_reaches_the_rows_that_others_have_locked(
    engine: Engine, sql: Sql, database_url: str
) -> None:
    insert(sql, 4)
    running = claim(engine)
    ids = [row[0] for row in sql.execute("SELECT id FROM jobs WHERE status = 'pending'").fetchall()]
    found: list[int] = []
    with psycopg.connect(database_url) as claiming, psycopg.connect(database_url) as renewing:
        claiming.execute("SELECT FROM jobs WHERE id = %s FOR UPDATE", [ids[0]])
        renewing.execute("SELECT FROM jobs WHERE id = %s FOR UPDATE", [running.id])
        thread = threading.Thread(target=lambda: found.append(batches.cancel(engine, "a", "monday")))
        thread.start()
        claiming.execute("SELECT set_config('worker.lease', 'queue', true)")
        claiming.execute(
            "UPDATE jobs SET status = 'processing', started_at = now(), lease_token = gen_random_uuid(),"
            " lease_expires_at = now(), claimed_by = 'w', attempts = 1 WHERE id = %s",
            [ids[0]],
        )
        claiming.commit()
        renewing.commit()
        thread.join()
    assert found == [4]
    assert sql.execute(
        "SELECT status::text, count(*), count(cancel_requested_at) FROM jobs GROUP BY 1 ORDER BY 1"
    ).fetchall() == [("cancelled", 2, 2), ("processing", 2, 2)]
    assert sums(sql) == {"total": 4, "running": 2, "cancelled": 2}


def test_a_cancel_does_not_wait_for_ever_and_then_changes_nothing(sql: Sql, database_url: str) -> None:
    insert(sql, 2)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM jobs ORDER BY created_at LIMIT 1 FOR UPDATE")
        with pytest.raises(psycopg.errors.LockNotAvailable, match="another session"):
            sql.execute("SELECT cancel_batch('a', 'monday')")
    assert sums(sql) == {"total": 2, "waiting": 2}


def test_a_batch_may_be_large(engine: Engine, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change of all rows takes longer than any other statement may."""
    insert(sql, 1)
    sql.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END'"
    )
    sql.execute("CREATE TRIGGER slow AFTER UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION slow()")
    monkeypatch.setattr("worker.database.connection.ANSWER_S", 0.5)
    with engine.connect() as connection:
        connection.exec_driver_sql("SET statement_timeout = '500ms'")
    assert batches.cancel(engine, "a", "monday") == 1


def test_only_failed_jobs_are_retried_and_none_that_would_be_a_double(engine: Engine, sql: Sql) -> None:
    insert(sql, 1, dedupe_key="k")
    insert(sql, 2)
    run_all(engine, fail, fail, complete)
    insert(sql, 1, batch="tuesday", dedupe_key="k")
    assert batches.retry(engine, "a", "monday") == 1
    assert sums(sql) == {"total": 3, "waiting": 1, "failed": 1, "completed": 1}
    assert batches.retry(engine, "a", "nothing") == batches.cancel(engine, "b", "monday") == 0


def test_the_priority_of_a_batch_is_that_of_its_unfinished_jobs(engine: Engine, sql: Sql) -> None:
    insert(sql, 3)
    insert(sql, 1, batch="tuesday")
    run_all(engine, complete)
    assert batches.set_priority(engine, "a", "monday", 7) == 2
    assert sql.execute("SELECT status::text, priority FROM jobs ORDER BY 1, 2").fetchall() == [
        ("completed", 0),
        ("pending", 0),
        ("pending", 7),
        ("pending", 7),
    ]
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        sql.execute("SELECT set_batch_priority('a', 'monday', 40000)")


def test_an_erased_shop_has_no_batches_but_those_that_came_later(engine: Engine, sql: Sql) -> None:
    insert(sql, 2)
    insert(sql, 1, batch="tuesday")
    insert(sql, 1, shop="b")
    run_all(engine, complete)
    batches.fold(engine)
    sql.execute("SELECT forget_shop('a')")
    sql.execute("DELETE FROM jobs WHERE shop = 'a'")  # as daemons do: tests/versions/test_erase.py
    insert(sql, 1)
    sql.execute("UPDATE worker.erasures SET token = id")
    assert sql.execute(
        "SELECT count(*) FROM worker.erasures, worker.finish_erasure(id, id, 30)"
    ).fetchone() == (1,)
    assert sums(sql) == {"total": 1, "waiting": 1}
    assert sums(sql, "tuesday") == {}
    assert sums(sql, shop="b")["total"] == 1
    sql.execute("TRUNCATE jobs")
    assert sql.execute("SELECT count(*) FROM batch_status").fetchone() == (0,)


def test_old_batches_without_jobs_are_pruned(engine: Engine, sql: Sql) -> None:
    insert(sql, 1)
    insert(sql, 1, batch="tuesday")
    run_all(engine, complete, complete)
    batches.fold(engine)
    sql.execute("DELETE FROM jobs WHERE batch = 'monday'")
    sql.execute("UPDATE worker.batches SET changed_at = now() - interval '9 d'")
    assert queue.prune(engine, "batches", days=10, batch=9) == 0
    assert queue.prune(engine, "batches", days=8, batch=9) == 1
    assert sql.execute("SELECT batch FROM batch_status").fetchall() == [("tuesday",)]


def work(engine: Engine, lane: int) -> None:
    for n in count(lane):
        job = queue.claim(engine, worker=f"w{lane}", lease_s=30)
        if job is None:
            return
        (complete, fail, queue.cancel, queue.release, delete, complete)[n % 6](engine, job)


def test_many_at_once_make_exact_sums_and_one_finish(engine: Engine, sql: Sql, database_url: str) -> None:
    """Eight lanes end, fail, release and cancel jobs, and rows are deleted, while two daemons fold and somebody looks."""
    jobs = 120
    insert(sql, jobs)
    ended = threading.Event()
    seen: list[dict[str, int]] = []

    def fold() -> None:
        while not ended.is_set():
            batches.fold(engine)

    def look() -> None:
        with psycopg.connect(database_url, autocommit=True) as mine:
            while not ended.is_set():
                seen.append(sums(mine))

    lanes = [threading.Thread(target=work, args=[engine, lane]) for lane in range(8)]
    others = [threading.Thread(target=act) for act in (fold, fold, look)]
    for thread in (*lanes, *others):
        thread.start()
    for thread in lanes:
        thread.join()
    work(engine, 8)  # what was released while the others found nothing
    ended.set()
    for thread in others:
        thread.join()
    batches.fold(engine)
    assert {row["total"] for row in seen} == {sum(row.values()) - row["total"] for row in seen} == {jobs}
    (body,) = finishes(sql)
    rows = sql.execute("SELECT status::text, count(*) FROM jobs GROUP BY status").fetchall()
    assert dict(rows) == {name: body[name] for name in ("completed", "failed", "cancelled")}
    assert body["gone"] == jobs - sum(dict(rows).values()) > 0
    assert sql.execute("SELECT count(*) FROM worker.batch_changes").fetchone() == (0,)


def test_two_batches_end_in_one_statement_and_each_has_its_event(
    engine: Engine, sql: Sql, database_url: str
) -> None:
    for batch in ("monday", "tuesday", "wednesday"):
        insert(sql, 2, batch=batch)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT worker.fold_batches('', '', 9)")
        assert batches.fold(engine) == 0, "one daemon at a time folds"
        other.rollback()
    sql.execute("UPDATE jobs SET cancel_requested_at = now()")
    assert batches.fold(engine) == 3
    assert [body["batch"] for body in finishes(sql)] == ["monday", "tuesday", "wednesday"]
