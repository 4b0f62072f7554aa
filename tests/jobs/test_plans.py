"""The plan of a shop: what it may insert on a day, with which presets, and how many of its jobs run at once."""

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest
from shops import Shelf
from sqlalchemy.engine import Engine

from worker.core.errors import JobError
from worker.jobs import plans, queue
from worker.versions import erase

Sql = psycopg.Connection[Any]
A_DAY = "jobs_of_the_day_are_in_the_plan_of_the_shop"
PRESET = "quality_is_in_the_plan_of_the_shop"


def limit(sql: Sql, shop: str = "a", **limits: Any) -> None:
    names = ", ".join(["shop", *limits])
    places = ", ".join(["%s"] * (1 + len(limits)))
    sql.execute(
        f"INSERT INTO worker.shop_limits ({names}) VALUES ({places})".encode(), [shop, *limits.values()]
    )


def insert(sql: Sql, jobs: int = 1, shop: str = "a", quality: str = "fast", first: int = 0) -> None:
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, quality)"
        " SELECT %s, n::text, '{http://a/b}', %s FROM generate_series(%s::int + 1, %s::int + %s::int) AS n",
        [shop, quality, first, first, jobs],
    )


def count(sql: Sql, shop: str = "a") -> int:
    found = sql.execute("SELECT count(*) FROM jobs WHERE shop = %s", [shop]).fetchone()
    assert found
    return int(found[0])


def refused(sql: Sql, rule: str, **job: Any) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=rule) as error:
        insert(sql, **job)
    assert error.value.diag.constraint_name == rule
    assert error.value.diag.table_name == "jobs"


def test_a_shop_may_insert_so_many_jobs_a_day(sql: Sql) -> None:
    limit(sql, jobs_a_day=5)
    refused(sql, A_DAY, jobs=6)
    insert(sql, 3)
    refused(sql, A_DAY, jobs=3)
    insert(sql, 2)
    refused(sql, A_DAY)
    insert(sql, 9, shop="b")
    sql.execute("DELETE FROM jobs WHERE shop = 'a'")
    refused(sql, A_DAY)  # a job that was deleted has counted
    sql.execute("UPDATE worker.shop_days SET day = day - 1")
    sql.execute("UPDATE worker.shop_limits SET jobs_a_day = 6")
    insert(sql, 6)
    sql.execute("UPDATE worker.shop_limits SET jobs_a_day = NULL")
    insert(sql, 9)
    assert count(sql) == 15


def test_jobs_from_before_the_shop_had_a_limit_count_on_their_day(sql: Sql) -> None:
    insert(sql, 3)
    limit(sql, jobs_a_day=4)
    refused(sql, A_DAY, jobs=2)
    insert(sql)
    refused(sql, A_DAY)


def test_jobs_from_between_two_limits_count(engine: Engine, sql: Sql) -> None:
    def shown() -> Any:
        (plan,) = plans.list_plans(engine, part="", after="", limit=10)
        return plan["inserted"]

    insert(sql)
    limit(sql, jobs_a_day=2)
    assert shown() == 1, "before the first insert with a limit"
    insert(sql)
    sql.execute("UPDATE worker.shop_limits SET jobs_a_day = NULL")
    insert(sql, 2)
    sql.execute("UPDATE worker.shop_limits SET jobs_a_day = 5")
    assert shown() == 4
    refused(sql, A_DAY, jobs=2)
    sql.execute("DELETE FROM worker.shop_limits")
    insert(sql)
    limit(sql, jobs_a_day=5)
    refused(sql, A_DAY)


def test_a_plan_has_presets_that_there_are(sql: Sql) -> None:
    for wrong in (["fast", "ultra"], ["fast", None]):
        with pytest.raises(psycopg.errors.CheckViolation, match="presets_are_fast_balanced_quality_or_auto"):
            limit(sql, presets=wrong)


def test_a_row_that_is_not_inserted_does_not_count(sql: Sql) -> None:
    limit(sql, jobs_a_day=2)
    for _ in range(5):
        sql.execute(
            "INSERT INTO jobs (shop, product_id, image_urls, dedupe_key) VALUES ('a', '1', '{http://a/b}', 'k')"
            " ON CONFLICT DO NOTHING"
        )
    with sql.transaction(force_rollback=True):
        insert(sql)
    insert(sql)
    refused(sql, A_DAY)


def test_a_shop_may_use_the_presets_of_its_plan(engine: Engine, sql: Sql) -> None:
    limit(sql, presets=["fast", "balanced"])
    for quality in ("quality", "auto"):
        refused(sql, PRESET, quality=quality)
    insert(sql)
    insert(sql, quality="quality", shop="b")
    sql.execute("UPDATE jobs SET quality = 'balanced' WHERE shop = 'a'")
    with pytest.raises(psycopg.errors.CheckViolation, match=PRESET):
        sql.execute("UPDATE jobs SET quality = 'quality' WHERE shop = 'a'")
    with pytest.raises(psycopg.errors.CheckViolation, match=PRESET):
        sql.execute("UPDATE jobs SET shop = 'a' WHERE shop = 'b'")
    sql.execute("UPDATE worker.shop_limits SET presets = '{auto}'")
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    assert (job.shop, job.quality) == ("a", "balanced"), "what was allowed once runs"


def test_a_role_that_may_insert_needs_no_right_on_the_plans(sql: Sql) -> None:
    limit(sql, jobs_a_day=1, presets=["fast"])
    with sql.transaction(force_rollback=True):
        sql.execute("CREATE ROLE backend_of_plans")
        sql.execute("GRANT INSERT, UPDATE, SELECT ON jobs TO backend_of_plans")
        sql.execute("CREATE POLICY backend ON jobs TO backend_of_plans USING (true) WITH CHECK (true)")
        sql.execute("SET LOCAL ROLE backend_of_plans")
        insert(sql)
        for change in ("UPDATE jobs SET quality = 'auto'", "INSERT INTO jobs SELECT * FROM jobs"):
            with pytest.raises(psycopg.errors.IntegrityError), sql.transaction():
                sql.execute(change.encode())
        with pytest.raises(psycopg.errors.CheckViolation), sql.transaction():
            insert(sql)


@pytest.mark.parametrize("isolation", list(psycopg.IsolationLevel)[1:], ids=lambda level: level.name)
def test_the_limit_of_a_day_is_exact_with_many_inserters(
    sql: Sql, database_url: str, isolation: psycopg.IsolationLevel
) -> None:
    limit(sql, jobs_a_day=100)
    ends: Counter[str] = Counter()

    def work(me: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as mine:
            mine.isolation_level = isolation
            while True:
                try:
                    with mine.transaction(force_rollback=ends["rolled back"] < 5 and me == 0):
                        insert(mine, me % 3 + 1)
                    ends["inserted" if me else "rolled back"] += 1
                except psycopg.errors.CheckViolation:
                    if me % 3 == 0:  # not even one fits
                        return
                    me = 3
                except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
                    ends[type(error).__name__] += 1

    threads = [threading.Thread(target=work, args=[n]) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(sql) == 100
    assert "DeadlockDetected" not in ends


def test_a_full_shop_is_passed_over_and_the_lower_limit_holds(engine: Engine, sql: Sql) -> None:
    for shop in ("a", "b"):
        insert(sql, 5, shop=shop)
    limit(sql, jobs_at_once=1)
    limit(sql, "b", jobs_at_once=3)
    limit(sql, "c", jobs_at_once=0)
    insert(sql, shop="c")
    taken = [queue.claim(engine, worker="w", lease_s=30, shop_limit=2) for _ in range(4)]
    assert Counter(job and job.shop for job in taken) == {"a": 1, "b": 2, None: 1}
    assert [job and job.shop for job in (queue.claim(engine, worker="w", lease_s=30) for _ in range(2))] == [
        "b",
        None,
    ]


def test_jobs_at_once_are_exact_with_many_claimers(engine: Engine, sql: Sql) -> None:
    limit(sql, jobs_at_once=3)
    insert(sql, 60)
    insert(sql, 20, shop="b")
    most = running = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal most, running
        idle = 0
        while idle < 5:
            job = queue.claim(engine, worker="w", lease_s=30)
            if job is None:
                idle += 1
                time.sleep(0.01)
                continue
            with lock:
                running += job.shop == "a"
                most = max(most, running)
            time.sleep(0.002)
            with lock:
                running -= job.shop == "a"
            queue.complete(engine, job, model_url="x", report={})

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 3, "reached, and never passed"


def usage(sql: Sql) -> list[tuple[Any, ...]]:
    return sql.execute(
        "SELECT shop, quality, completed, failed, cancelled, cached, cached_percent, device_seconds, cpu_seconds, bytes"
        " FROM shop_usage WHERE day = (now() AT TIME ZONE 'UTC')::date ORDER BY shop, quality"
    ).fetchall()


def test_the_usage_of_a_shop_is_exact_folded_or_not_and_outlives_its_rows(engine: Engine, sql: Sql) -> None:
    limit(sql, jobs_a_day=100)
    insert(sql, 5)
    insert(sql, quality="auto", first=5)
    report = {
        "seconds": {"generate": 2.5, "upload": 9},
        "cpu_seconds": {"cutout": 1, "finish": 2},
        "bytes": {"glb": 7},
    }

    def claim() -> queue.Job:
        job = queue.claim(engine, worker="w", lease_s=30)
        assert job
        return job

    queue.complete(engine, claim(), model_url="x", report=report)
    queue.complete(engine, claim(), model_url="x", report={"cached": "another", "bytes": {"glb": 7}})
    queue.fail(
        engine, claim(), JobError("no_space"), report=report
    )  # is retried later: no end, but its seconds count
    queue.fail(engine, claim(), JobError("no_object"), report={"seconds": "odd", "cpu_seconds": {"a": "odd"}})
    queue.release(engine, claim())
    sql.execute("UPDATE jobs SET cancel_requested_at = now() WHERE status = 'pending'")
    expected = [("a", "auto", 0, 0, 1, 0, 0, 0, 0, 0), ("a", "fast", 2, 1, 2, 1, 50, 5.0, 6.0, 14)]
    assert usage(sql) == expected
    assert queue.fold_usage(engine, 2) == 2
    assert usage(sql) == expected
    assert queue.fold_usage(engine, 100) > 0
    assert queue.fold_usage(engine, 100) == 0
    sql.execute("DELETE FROM jobs")
    assert usage(sql) == expected


def test_the_sums_of_forgotten_shops_stay_without_their_names(
    engine: Engine, sql: Sql, tmp_path: Path
) -> None:
    def sums() -> list[tuple[Any, ...]]:
        return sql.execute("SELECT sum(completed), sum(cancelled), sum(bytes) FROM shop_usage").fetchall()

    for shop in "abc":
        limit(sql, shop, jobs_a_day=100)
        insert(sql, 2, shop)
    for n in range(6):
        job = queue.claim(engine, worker="w", lease_s=30)
        assert job
        queue.complete(engine, job, model_url="x", report={"bytes": {"glb": 7}})
        if n == 3:
            queue.fold_usage(engine, 100)
    insert(sql, shop="a", first=2)
    before = sums()
    sql.execute("SELECT forget_shop('a'), forget_shop('b')")
    assert [row[:3] for row in usage(sql)] == [("", "fast", 4), ("c", "fast", 2)]
    assert sums() == before
    sql.execute("UPDATE jobs SET cancel_requested_at = now() WHERE shop = 'a'")
    assert ("a", 1) in {(row[0], row[4]) for row in usage(sql)}, "a job of the shop has just ended"
    store = Shelf(tmp_path / "store", None).open()
    while work := erase.take(engine):
        erase.carry_out(engine, store, work)
    assert [(*row[:3], row[4], row[9]) for row in usage(sql)] == [
        ("", "fast", 4, 1, 28),
        ("c", "fast", 2, 0, 14),
    ]
    unfolded = usage(sql)
    queue.fold_usage(engine, 100)
    assert usage(sql) == unfolded
    assert sql.execute(
        "SELECT DISTINCT shop FROM worker.shop_days UNION SELECT shop FROM worker.shop_changes ORDER BY 1"
    ).fetchall() == [("",), ("c",)]
