"""When jobs start and end, by what has been measured: as the claims do it, and null where too little is known."""

import math
import random
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import Engine

from worker.core.errors import JobError
from worker.jobs import estimates, hosts, queue
from worker.jobs.hosts import Host

Sql = psycopg.Connection[Any]


def insert(sql: Sql, jobs: int = 1, shop: str = "a", **columns: Any) -> None:
    names = "".join(f", {name}" for name in columns)
    places = ", %s" * len(columns)
    sql.execute(
        f"INSERT INTO jobs (shop, product_id, image_urls{names})"
        f" SELECT %s, gen_random_uuid()::text, '{{http://a/b}}'{places} FROM generate_series(1, %s)".encode(),
        [shop, *columns.values(), jobs],
    )


def measure(sql: Sql, seconds: float = 60, **names: str) -> None:
    row = {"pool": "default", "engine": "", "quality": "balanced"} | names
    sql.execute(
        "INSERT INTO worker.measured_seconds VALUES (%s, %s, %s, %s, 10, %s, now())",
        [*row.values(), [seconds] * 10, seconds],
    )


def host(
    name: str = "h", lanes: int = 1, pools: tuple[str, ...] = ("default",), runs: str = "relief"
) -> Host:
    return Host(name=name, version="1", engine=runs, pools=pools, lanes=lanes, devices=("cpu",), memory_mb=1)


def update(engine: Engine, sql: Sql, shop_limit: int | None = None) -> None:
    sql.execute("UPDATE worker.forecasts SET next_at = now()")
    assert estimates.update(engine, shop_limit=shop_limit)


def waits(sql: Sql, shop: str = "a") -> list[float | None]:
    """Return the seconds until each waiting job of a shop starts, in their order."""
    rows = sql.execute(
        "SELECT extract(epoch FROM state.estimated_start - now())::float8 FROM job_status AS state JOIN jobs USING (id)"
        " WHERE state.status = 'pending' AND state.shop = %s ORDER BY jobs.run_after, jobs.created_at",
        [shop],
    ).fetchall()
    return [wait for (wait,) in rows]


def batch_end(sql: Sql, batch: str = "x") -> float | None:
    (found,) = sql.execute(
        "SELECT extract(epoch FROM estimated_end - now())::float8 FROM batch_status WHERE batch = %s", [batch]
    ).fetchone() or (None,)
    return None if found is None else float(found)


def test_what_the_views_say_is_what_the_lanes_will_do(engine: Engine, sql: Sql) -> None:
    hosts.check_in(engine, host(lanes=2))
    measure(sql, 60)
    measure(sql, 20, quality="fast")
    insert(sql, 30)
    insert(sql, 2, shop="b", batch="x", quality="fast")
    update(engine, sql)
    assert waits(sql, "b") == pytest.approx([0, 60], abs=3)
    assert waits(sql)[:5] == pytest.approx([0, 20, 80, 80, 140], abs=3)
    assert batch_end(sql) == pytest.approx(80, abs=3)
    ends = sql.execute(
        "SELECT DISTINCT (estimated_end - estimated_start)::text, estimated_wait = estimated_start - now()"
        " FROM job_status WHERE shop = 'b'"
    ).fetchall()
    assert ends == [("00:00:20", True)]


def test_a_batch_of_thousands_is_foreseen_to_its_end(engine: Engine, sql: Sql) -> None:
    hosts.check_in(engine, host(lanes=4))
    measure(sql)
    insert(sql, 3_000, batch="x")
    insert(sql, 2, shop="b")
    update(engine, sql)
    found = [wait for wait in waits(sql) if wait is not None]
    assert len(found) == 3_000
    assert found[1_500] == pytest.approx(1_500 * 15, rel=0.06)
    assert found == sorted(found)
    assert batch_end(sql) == pytest.approx(3_002 * 15, rel=0.03)
    assert waits(sql, "b") == pytest.approx([0, 60], abs=61)


def test_null_where_too_little_is_known(engine: Engine, sql: Sql) -> None:
    insert(sql, 2, batch="x")
    update(engine, sql)
    assert waits(sql) == [None, None], "no host"
    hosts.check_in(engine, host())
    update(engine, sql)
    assert waits(sql) == [pytest.approx(0, abs=3), None], "how long the first takes is not known"
    assert batch_end(sql) is None
    measure(sql)
    update(engine, sql)
    assert waits(sql) == pytest.approx([0, 60], abs=3)
    assert batch_end(sql) == pytest.approx(120, abs=3)
    insert(sql)
    insert(sql, run_after="2999-01-01")
    assert waits(sql)[2:] == [None, None], "they came later"
    update(engine, sql)
    assert waits(sql) == [*(pytest.approx(n, abs=3) for n in (0, 60, 120)), None], (
        "nobody knows the year 2999"
    )
    insert(sql, batch="x", run_after="2999-01-01")
    update(engine, sql)
    assert batch_end(sql) is None
    hosts.pause(engine, "h")
    update(engine, sql)
    assert waits(sql) == [None] * 5
    hosts.resume(engine, "h")
    update(engine, sql)
    assert waits(sql)[0] is not None
    sql.execute("UPDATE worker.forecasts SET valid_until = now() - interval '1 s'")
    assert waits(sql) == [None] * 5, "no daemon has looked for a minute"
    sql.execute("UPDATE worker.hosts SET seen_at = now() - interval '1 min'")
    update(engine, sql)
    assert waits(sql) == [None] * 5


def test_a_job_that_is_to_be_retried_starts_no_sooner_than_it_may(engine: Engine, sql: Sql) -> None:
    hosts.check_in(engine, host(lanes=2))
    measure(sql)
    insert(sql)
    job = queue.claim(engine, worker="h", lease_s=30)
    assert job
    queue.fail(engine, job, JobError("no_space"), report={})
    update(engine, sql)
    (wait,) = waits(sql)
    assert wait is not None
    assert 5 < wait < 16


def test_a_running_job_ends_as_long_after_its_start_as_others_did(engine: Engine, sql: Sql) -> None:
    hosts.check_in(engine, host())
    sql.execute(
        "INSERT INTO worker.measured_seconds VALUES ('default', '', 'balanced', '{2,50,60,70}', 4, 60, now())"
    )
    insert(sql, 2, batch="x")
    assert queue.claim(engine, worker="h", lease_s=30)

    def left(elapsed_s: float) -> float | None:
        with sql.transaction():
            sql.execute("SELECT set_config('worker.lease', 'queue', true)")
            sql.execute(
                "UPDATE jobs SET started_at = now() - make_interval(secs => %s) WHERE status = 'processing'",
                [elapsed_s],
            )
        (found,) = sql.execute(
            "SELECT extract(epoch FROM estimated_end - now())::float8 FROM job_status WHERE status = 'processing'"
        ).fetchone() or (0,)
        return found

    assert left(0) == pytest.approx(55, abs=1)
    assert left(10) == pytest.approx(50, abs=1), "it is none of those that took two seconds"
    assert left(45) is None, "5, 15 or 25 seconds: anybody's guess"
    assert left(65) is None, "only one took longer"
    assert left(100) is None, "longer than all others"
    left(40)
    update(engine, sql)
    assert waits(sql) == pytest.approx([20], abs=1), "a lane is as free as it can be guessed"
    assert batch_end(sql) == pytest.approx(20 + 55, abs=2)


def test_estimates_of_running_jobs_that_differ_keep_the_promise(sql: Sql) -> None:
    """Half of those that are given are within a fifth of the truth, nine of ten within a half."""
    dice = random.Random(18)

    def took() -> float:
        return 2.0 if dice.random() < 0.05 else 60 * math.exp(dice.gauss(0, 0.2))

    asked: list[tuple[float, float, list[float]]] = []
    while len(asked) < 1_500:  # at any second of any job
        second, seconds = dice.uniform(0, 150), took()
        if second < seconds:
            asked.append((second, seconds - second, [took() for _ in range(50)]))
    with sql.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE asked (measured float8[], elapsed_s float8, real_s float8)")
        with cursor.copy("COPY asked FROM STDIN") as copy:
            for elapsed_s, real_s, measured in asked:
                copy.write_row((measured, elapsed_s, real_s))
        found = cursor.execute("""
            SELECT avg((said IS NULL)::int), avg((said IS NULL)::int) FILTER (WHERE elapsed_s < 15),
                avg((abs(said - real_s) <= 0.2 * real_s)::int), avg((abs(said - real_s) <= 0.5 * real_s)::int)
            FROM (SELECT *, worker.known_seconds_left(measured, elapsed_s) AS said FROM asked) AS each
        """).fetchone()
    assert found
    null, null_at_first, within_20, within_50 = map(float, found)
    assert within_20 >= 0.5
    assert within_50 >= 0.9
    assert 0.4 < null < 0.65
    assert null_at_first < 0.1


def test_what_has_ended_is_measured_once(engine: Engine, sql: Sql) -> None:
    insert(sql, 5, quality="fast")
    insert(sql, 1, quality="fast", pool="other", engine="relief")

    def claim(**where: Any) -> queue.Job:
        job = queue.claim(engine, worker="h", lease_s=30, **where)
        assert job
        sql.execute(
            "UPDATE worker.attempts SET started_at = started_at - interval '10 s' WHERE ended_at IS NULL"
        )
        return job

    def fold() -> int:
        sql.execute("SELECT pg_sleep(1.01)")
        (found,) = sql.execute("SELECT worker.fold_seconds(100)").fetchone() or (0,)
        return int(found)

    queue.complete(engine, claim(), model_url="x", report={})
    queue.fail(engine, again := claim(), JobError("no_space"), report={})
    queue.fail(engine, claim(), JobError("no_object"), report={})
    queue.request_cancel(engine, (cancelled := claim()).id)
    queue.cancel(engine, cancelled)
    queue.complete(engine, claim(pools=["other"], runs="relief"), model_url="x", report={})
    sql.execute("UPDATE jobs SET run_after = now() WHERE id = %s", [again.id])
    claim()
    second = claim()
    assert second.id == again.id
    queue.complete(engine, second, model_url="x", report={})
    assert fold() == 4
    assert fold() == 0
    found = sql.execute(
        "SELECT pool, engine, quality, cardinality(seconds), ended, round(busy_seconds) FROM worker.measured_seconds ORDER BY 1"
    ).fetchall()
    assert found == [("default", "", "fast", 2, 3, 13), ("other", "relief", "fast", 1, 1, 10)]
    known = sql.execute("SELECT pool, worker.seconds_left(seconds, 0) FROM worker.known_seconds()").fetchall()
    assert known == [("default", None)], "three have ended, of which two were completed"


def test_the_means_forget_what_is_old(sql: Sql) -> None:
    sql.execute(
        "INSERT INTO worker.measured_seconds VALUES"
        " ('default', '', 'balanced', array_fill(100, ARRAY[50])::float8[], 5000, 100, now() - interval '1 h')"
    )
    sql.execute("SET session_replication_role = replica")
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, status, progress, attempts, model_url, queued_at, started_at, completed_at)"
        " SELECT 'a', n::text, '{http://a/b}', 'completed', 100, 1, 'x', at, at, at + interval '20 s'"
        " FROM generate_series(1, 50) AS n CROSS JOIN LATERAL (SELECT now() - n * interval '21 s' AS at) AS of"
    )
    sql.execute(
        "INSERT INTO worker.attempts (job_id, lease_token, attempt, worker, host, started_at, ended_at, outcome)"
        " SELECT id, id, 1, 'w', 'h', started_at, completed_at, 'completed' FROM jobs"
    )
    sql.execute("RESET session_replication_role")
    sql.execute("SELECT worker.fold_seconds(500)")
    found = sql.execute("SELECT worker.seconds_left(seconds, 0), busy_seconds FROM worker.measured_seconds")
    assert found.fetchone() == (20, 60)


def test_one_daemon_at_a_time_makes_a_forecast_and_only_when_it_is_due(
    engine: Engine, sql: Sql, database_url: str
) -> None:
    insert(sql)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT worker.begin_forecast()")
        assert not estimates.update(engine)
    assert estimates.update(engine)
    assert not estimates.update(engine)
    sql.execute("DELETE FROM jobs")
    update(engine, sql)
    assert sql.execute("SELECT count(*) FROM worker.forecasts").fetchone() == (0,)
    assert not estimates.update(engine), "nothing is left to say"


@pytest.mark.parametrize("seed", range(3))
def test_the_forecast_plays_by_the_rules_of_the_claim(engine: Engine, sql: Sql, seed: int) -> None:
    """Three hosts take one job each at every minute; each job starts in the minute of its estimate."""
    dice = random.Random(seed)
    all_hosts = [
        host("h1", pools=("p", "q")),
        host("h2", pools=("p",), runs="triposr"),
        host("h3", pools=("q",), runs="triposr"),
    ]
    for pool in "pq":
        for runs in ("", "relief", "triposr"):
            measure(sql, pool=pool, engine=runs)
    sql.execute("INSERT INTO worker.shop_limits (shop, jobs_at_once) VALUES ('a', 1)")
    for _ in range(45):
        insert(
            sql, shop=dice.choice("aabcd"), pool=dice.choice("pq"), priority=dice.randint(0, 1),
            engine=dice.choice([None, None, "relief", "triposr"]),
        )  # fmt: skip
    for each in all_hosts:
        hosts.check_in(engine, each)
    update(engine, sql, shop_limit=2)
    foreseen = dict(
        sql.execute(
            "SELECT id, round(extract(epoch FROM estimated_start - now()) / 60)::int FROM job_status"
        ).fetchall()
    )
    minutes: dict[Any, int] = {}
    for minute in range(60):
        taken = [
            queue.claim(
                engine, worker=each.name, lease_s=30, shop_limit=2, pools=each.pools, runs=each.engine
            )
            for each in all_hosts
        ]
        for job in filter(None, taken):
            minutes[job.id] = minute
            queue.complete(engine, job, model_url="x", report={})
        if not any(taken):
            break
    assert len(minutes) == 45
    assert minutes == foreseen


def test_jobs_that_go_on_coming_are_seen_from_those_that_came(engine: Engine, sql: Sql) -> None:
    hosts.check_in(engine, host(lanes=2))
    measure(sql)
    sql.execute("SET session_replication_role = replica")
    # One a minute for two hours, each of another shop, and each at once: one of two lanes.
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, status, progress, attempts, model_url, queued_at, run_after, started_at,"
        " completed_at) SELECT 'shop-' || n, '1', '{http://a/b}', 'completed', 100, 1, 'x', at, at, at, at"
        " FROM generate_series(1, 119) AS n CROSS JOIN LATERAL (SELECT now() - n * interval '1 min' AS at) AS of"
    )
    sql.execute(
        "INSERT INTO worker.attempts (job_id, lease_token, attempt, worker, host, started_at, ended_at, outcome)"
        " SELECT id, id, 1, 'w', 'h', started_at, completed_at, 'completed' FROM jobs ORDER BY started_at"
    )
    sql.execute("RESET session_replication_role")
    insert(sql, 600, batch="x")
    sql.execute("UPDATE worker.measured_seconds SET measured_at = now()")
    update(engine, sql)
    assert batch_end(sql) == pytest.approx(600 * 60, rel=0.15)
    sql.execute("DELETE FROM worker.attempts")
    update(engine, sql)
    assert batch_end(sql) == pytest.approx(600 * 30, rel=0.03)


def test_an_erasure_takes_the_forecasts_of_a_shop_along(engine: Engine, sql: Sql) -> None:
    insert(sql, 2, batch="x")
    hosts.check_in(engine, host())
    measure(sql)
    update(engine, sql)
    sql.execute("SELECT forget_shop('a')")
    assert sql.execute(
        "SELECT (SELECT count(*) FROM worker.forecasts) + (SELECT count(*) FROM worker.batch_forecasts)"
    ).fetchone() == (0,)


def test_who_may_read_the_views_needs_no_right_on_the_tables(engine: Engine, sql: Sql) -> None:
    insert(sql, 1, batch="x")
    hosts.check_in(engine, host())
    measure(sql)
    update(engine, sql)
    with sql.transaction(force_rollback=True):
        sql.execute("CREATE ROLE reader_of_estimates")
        sql.execute("GRANT SELECT ON jobs, job_status TO reader_of_estimates")
        sql.execute("CREATE POLICY reader ON jobs TO reader_of_estimates USING (true)")
        sql.execute("SET LOCAL ROLE reader_of_estimates")
        assert sql.execute("SELECT estimated_end IS NOT NULL FROM job_status").fetchone() == (True,)
        for table in ("forecasts", "measured_seconds", "batch_forecasts"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), sql.transaction():
                sql.execute(f"SELECT FROM worker.{table}".encode())
