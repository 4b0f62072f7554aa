"""The queue with many claimers, and with a deep history."""

import threading
from collections import Counter

import psycopg
import pytest
from conftest import HOST
from sqlalchemy.engine import Engine

from worker.jobs import hosts, queue

CLAIMERS = 16
SHOPS = 50


def test_sixteen_claimers_do_two_thousand_jobs_once_each(engine: Engine, sql: psycopg.Connection) -> None:
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls)"
        " SELECT 'shop-' || n %% %s, (n %% 900)::text, '{http://a/b}' FROM generate_series(1, 2000) AS n",
        [SHOPS],
    )
    taken: list[object] = []
    running: set[tuple[str, str]] = set()  # files that somebody writes
    guard = threading.Lock()

    def work() -> None:
        while True:
            job = queue.claim(engine, worker="w", lease_s=300)
            if job is None:
                # What waits may wait for a job on the same path to end.
                if not hosts.check_in(engine, HOST).due:
                    return
                continue
            files = (job.shop, job.product_id)
            with guard:
                assert files not in running, "two jobs on one path"
                running.add(files)
                taken.append(job.id)
            with guard:
                running.remove(files)
            queue.complete(engine, job, model_url="x", report={})

    threads = [threading.Thread(target=work) for _ in range(CLAIMERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Counter(taken).values()) == {1}
    assert sql.execute("SELECT status::text, count(*) FROM jobs GROUP BY 1").fetchall() == [
        ("completed", 2000)
    ]


@pytest.mark.parametrize(
    ("history", "waiting"),
    [(30_000, 5_000), pytest.param(500_000, 5_000, marks=pytest.mark.long)],
)
@pytest.mark.parametrize("analyzed", ["never", "when empty", "before jobs waited", "as it is"])
def test_a_claim_reads_a_few_rows_by_its_indexes_however_many_there_are(
    engine: Engine, sql: psycopg.Connection, history: int, waiting: int, analyzed: str
) -> None:
    """Counted by Postgres as the claims run, since a plan in a function shows in no EXPLAIN of its call. The planner goes
    by statistics from whenever autovacuum last came by, and a connection keeps its plans from when it first claimed.
    """
    sql.execute("ALTER TABLE jobs SET (autovacuum_enabled = off)")
    queue.enqueue(engine, shop="first", product_id="1", image_urls=["http://a/b"])
    _claim_and_complete(engine)
    if analyzed == "when empty":
        sql.execute("ANALYZE jobs")
    # Without triggers, or the history would take minutes to write.
    sql.execute("SET session_replication_role = replica")
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, status, progress, attempts, model_url, started_at, completed_at)"
        " SELECT 'shop-' || n %% %s, n::text, '{http://a/b}', 'completed', 100, 1, 'x', now(), now()"
        " FROM generate_series(1, %s) AS n",
        [SHOPS, history],
    )
    if analyzed == "before jobs waited":
        sql.execute("ANALYZE jobs")
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls)"
        " SELECT 'shop-' || n %% %s, 'p' || n, '{http://a/b}' FROM generate_series(1, %s) AS n",
        [SHOPS, waiting],
    )
    sql.execute("RESET session_replication_role")
    if analyzed == "as it is":
        sql.execute("ANALYZE jobs")
    before = _reads(engine)
    claims = 100
    for _ in range(claims):
        _claim_and_complete(engine)
    after = _reads(engine)
    assert after["seq_scan"] == before["seq_scan"], "no sequential scan"
    assert after["jobs_waiting"] > before["jobs_waiting"], "the index that is meant for it"
    # Who does not read the backlog does not sort it either.
    assert (after["rows"] - before["rows"]) / claims < 20


def test_shops_whose_jobs_are_scheduled_for_later_cost_a_claim_next_to_nothing(
    engine: Engine, sql: psycopg.Connection
) -> None:
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, run_after)"
        " SELECT 'shop-' || n, '1', '{http://a/b}', now() + interval '1 h' FROM generate_series(1, 1000) AS n"
    )
    queue.enqueue(engine, shop="z", product_id="1", image_urls=["http://a/b"])
    before = _reads(engine)
    _claim_and_complete(engine)
    after = _reads(engine)
    assert after["jobs_waiting"] - before["jobs_waiting"] < 50
    assert after["rows"] - before["rows"] < 20


def test_a_claim_and_the_look_for_the_next_job_cost_the_same_however_many_jobs_wait_for_their_time(
    engine: Engine, sql: psycopg.Connection
) -> None:
    """Pages read, the functions' own statements included. 100,000 shops that have no other jobs took a claim 22 ms."""
    costs = []
    for shops in (300, 20_000):
        sql.execute("SET session_replication_role = replica")
        sql.execute("DELETE FROM jobs")
        sql.execute(
            "INSERT INTO jobs (shop, product_id, image_urls, run_after)"
            " SELECT 'shop-' || n, '1', '{http://a/b}', now() + interval '1 h' FROM generate_series(1, %s) AS n",
            [shops],
        )
        sql.execute("RESET session_replication_role")
        sql.execute("VACUUM ANALYZE jobs")
        empty = _pages(sql, "worker.claim_job('w', 'h', '{default}', '', 30, NULL)")
        for shop in ("a", "z"):
            queue.enqueue(engine, shop=shop, product_id="1", image_urls=["http://a/b"])
        costs.append(
            [
                empty,
                _pages(sql, "worker.next_due('{default}', '')"),
                _pages(sql, "worker.claim_job('w', 'h', '{default}', '', 30, 1)"),
            ]
        )
        assert hosts.check_in(engine, HOST).due
        assert sql.execute("SELECT shop FROM jobs WHERE status = 'processing'").fetchall() == [("a",)]
    for few, many in zip(*costs, strict=True):
        assert many < few + 30, costs


def _pages(sql: psycopg.Connection, call: str) -> int:
    """Call a function. Return how many pages its statements read, the second time, when they are planned."""
    for _ in range(2):
        with sql.transaction(force_rollback=_ == 0):
            found = sql.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM {call}".encode()
            ).fetchone()
    assert found
    plan = found[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def _claim_and_complete(engine: Engine) -> None:
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    queue.complete(engine, job, model_url="x", report={})


def _reads(engine: Engine) -> dict[str, int]:
    """Return how often the table and its indexes were scanned, and how many rows that brought."""
    with engine.connect() as connection:
        # What this connection has done is counted before its answer comes.
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        rows = connection.exec_driver_sql(
            "SELECT 'seq_scan', seq_scan FROM pg_stat_user_tables WHERE relname = 'jobs'"
            " UNION ALL SELECT 'rows', seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'jobs'"
            " UNION ALL SELECT indexrelname, idx_scan FROM pg_stat_user_indexes WHERE relname = 'jobs'"
        )
        return {str(name): int(number) for name, number in rows}
