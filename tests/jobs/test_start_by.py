"""A job that has not begun by its start_by is never begun, and ends as cancelled; one that has begun goes on."""

from typing import Any
from uuid import UUID

import psycopg
import pytest
from conftest import HOST
from sqlalchemy.engine import Engine

from worker.core.errors import JobError
from worker.jobs import hosts, queue
from worker.jobs.queue import Job
from worker.jobs.upkeep import BATCH

Sql = psycopg.Connection[Any]


def insert(sql: Sql, seconds: float | None = -1, product: str = "1", **columns: Any) -> UUID:
    """Insert a job whose start_by is `seconds` from now."""
    names = ", ".join(["shop", "product_id", "image_urls", "start_by", *columns])
    places = "".join(", %s" for _ in columns)
    found = sql.execute(
        f"INSERT INTO jobs ({names}) VALUES ('a', %s, '{{http://a/b}}', now() + make_interval(secs => %s){places})"
        " RETURNING id".encode(),
        [product, seconds, *columns.values()],
    ).fetchone()
    assert found
    return found[0]  # type: ignore[no-any-return]


def pass_by(sql: Sql, product: str = "1") -> None:
    """Let the start_by of a product's jobs pass, whether they have begun or not."""
    with sql.transaction():
        sql.execute("SELECT set_config('worker.lease', 'queue', true)")
        sql.execute("UPDATE jobs SET start_by = now() - interval '1 s' WHERE product_id = %s", [product])


def claim(engine: Engine) -> Job | None:
    return queue.claim(engine, worker="w", lease_s=30)


def row(sql: Sql, job: UUID, columns: str) -> Any:
    return sql.execute(f"SELECT {columns} FROM jobs WHERE id = %s".encode(), [job]).fetchone()


@pytest.mark.parametrize("scheduled", [False, True], ids=["all due", "others wait for their time"])
def test_a_late_job_is_passed_over_by_the_claim(engine: Engine, sql: Sql, *, scheduled: bool) -> None:
    late = [insert(sql, product=str(n), priority=5) for n in range(3)]
    on_time = [insert(sql, 60, "8"), insert(sql, None, "9")]
    if scheduled:  # then the claim chooses among few rows: worker.next_of_few()
        sql.execute(
            "INSERT INTO jobs (shop, product_id, image_urls, run_after) VALUES ('a', 'x', '{http://a/b}', '2999-01-01')"
        )
    claimed = [claim(engine) for _ in range(3)]
    assert [job and job.id for job in claimed] == [*on_time, None]
    assert {row(sql, job, "status::text") for job in late} == {("pending",)}


def test_what_has_begun_goes_on(engine: Engine, sql: Sql) -> None:
    jobs = {act: insert(sql, 60, act) for act in ("fails", "is released", "is lost")}
    by_id = {job.id: job for job in (claim(engine) for _ in jobs) if job}
    queue.fail(engine, by_id[jobs["fails"]], JobError("no_space"), report={})
    queue.release(engine, by_id[jobs["is released"]])
    with sql.transaction():
        sql.execute("SELECT set_config('worker.lease', 'queue', true)")
        sql.execute("UPDATE jobs SET lease_expires_at = now() WHERE status = 'processing'")
    assert len(queue.rescue(engine)) == 1
    for product in jobs:
        pass_by(sql, product)
    assert not hosts.check_in(engine, HOST).late
    assert queue.expire(engine, BATCH) == []
    sql.execute("UPDATE jobs SET run_after = now()")
    again = [claim(engine) for _ in jobs]
    assert {job and job.id for job in again} == set(jobs.values())


def test_start_by_may_be_set_until_the_job_has_begun(engine: Engine, sql: Sql) -> None:
    job = insert(sql, None)

    def change(to: str | None) -> None:
        sql.execute("UPDATE jobs SET start_by = %s, priority = priority + 1", [to])

    for moment in ("2999-01-01", None, "2998-01-01"):
        change(moment)
        assert row(sql, job, "start_by::date::text") == (moment,)
    mine = claim(engine)
    assert mine
    change(None)
    queue.fail(engine, mine, JobError("no_space"), report={})
    change("2997-01-01")
    sql.execute("SELECT cancel_job(%s)", [job])
    change("2996-01-01")
    assert row(sql, job, "start_by::date::text, priority") == ("2998-01-01", 6), "the rest is written"


def test_a_retry_keeps_a_time_that_lies_ahead_and_clears_one_that_is_past(engine: Engine, sql: Sql) -> None:
    job = insert(sql, 60)
    mine = claim(engine)
    assert mine
    queue.fail(engine, mine, JobError("no_object"), report={})
    assert queue.retry(engine, job)
    assert row(sql, job, "start_by IS NULL") == (False,)
    pass_by(sql)
    assert claim(engine) is None, "it has not begun since it was queued again"
    assert [one["id"] for one in queue.expire(engine, BATCH)] == [job]
    assert queue.retry(engine, job)
    assert row(sql, job, "start_by, error_code") == (None, None)
    sql.execute("UPDATE jobs SET start_by = '2999-01-01'")
    assert row(sql, job, "start_by IS NULL") == (False,), "it may be set anew"
    again = claim(engine)
    assert again
    assert again.id == job


def test_a_job_that_is_inserted_while_a_claim_waits_has_begun_when_it_is_claimed(
    sql: Sql, database_url: str
) -> None:
    """The claim's now() is from before the insert."""
    with psycopg.connect(database_url) as slow:
        slow.execute("SELECT now()")
        job = insert(sql, 60, run_after="2026-01-01")
        found = slow.execute(
            "SELECT id FROM worker.claim_job('w', 'h', '{default}', '', 30, NULL)"
        ).fetchone()
    assert found == (job,)
    assert row(sql, job, "started_at >= queued_at") == (True,)


def test_many_begun_and_old_jobs_cost_a_look_nothing(engine: Engine, sql: Sql) -> None:
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, start_by) "
        "SELECT 'a', n::text, '{http://a/b}', now() + interval '1 h' FROM generate_series(1, 3000) AS n"
    )
    with sql.transaction():
        sql.execute("SELECT set_config('worker.lease', 'queue', true)")
        sql.execute("UPDATE jobs SET started_at = queued_at, start_by = now() - interval '1 h', attempts = 1")
    late = insert(sql, product="late")
    sql.execute("VACUUM ANALYZE jobs")
    pages = []
    for _ in range(2):
        with sql.transaction(force_rollback=True):
            plan = sql.execute(
                "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM worker.next_due('{other}', '')"
            ).fetchone()
        assert plan
        pages.append(plan[0][0]["Plan"]["Shared Hit Blocks"])
    assert pages[-1] < 30
    assert [one["id"] for one in queue.expire(engine, BATCH)] == [late]
