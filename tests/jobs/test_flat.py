"""What people ask of the queue costs the same however much waits. The `long` form has 100,000 jobs waiting in 400 batches and a
million that ended.
"""

import json
import re
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from conftest import HOST
from sqlalchemy.engine import Engine

from worker.database import fetch_all
from worker.jobs import estimates, hosts, queue, search
from worker.jobs.filters import Filter
from worker.jobs.search import Search

SHOPS = 200
BATCHES = 400  # that wait, and as many that have ended


def fill(sql: psycopg.Connection, history: int, waiting: int) -> None:
    """Insert as of two pools and two engines. Without triggers, or it would take minutes."""
    sql.execute("SET session_replication_role = replica")
    sql.execute("TRUNCATE jobs, worker.search, worker.attempts")
    sql.execute(
        "INSERT INTO jobs (shop, product_id, product_handle, image_urls, status, progress, attempts, model_url, error_code,"
        " error_message, created_at, started_at, completed_at, batch)"
        " SELECT 'shop-' || n %% %s, n::text, 'thing-' || n, '{http://a/b}', CASE n %% 20 WHEN 0 THEN 'failed' ELSE 'completed' END::worker.job_state,"
        " CASE n %% 20 WHEN 0 THEN 0 ELSE 100 END, 1, 'x', CASE n %% 20 WHEN 0 THEN 'no_object' END, 'No.',"
        " now() - n * interval '1 s', now() - n * interval '1 s', now() - n * interval '1 s', 'old-' || n %% %s FROM generate_series(1, %s) AS n",
        [SHOPS, BATCHES, history],
    )
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, run_after, created_at, priority, pool, engine, batch)"
        " SELECT 'shop-' || n %% %s, 'p' || n, '{http://a/b}', now() - n * interval '1 s', now() - n * interval '1 ms', n %% 2, CASE n %% 3 WHEN 0 THEN 'x' ELSE 'default' END,"
        " CASE n %% 5 WHEN 0 THEN 'triposr' END, 'new-' || n %% %s FROM generate_series(1, %s) AS n",
        [SHOPS, BATCHES, waiting],
    )
    sql.execute(
        "INSERT INTO worker.search (created_at, job_id, product, handle, batch)"
        " SELECT created_at, id, worker.last_part(product_id), lower(product_handle), batch FROM jobs"
    )
    sql.execute(
        "INSERT INTO worker.attempts (job_id, lease_token, attempt, worker, host, started_at, ended_at, outcome)"
        " SELECT id, gen_random_uuid(), 1, 'gpu-1', 'gpu-1', started_at, completed_at, 'completed' FROM jobs WHERE completed_at IS NOT NULL"
        " ORDER BY completed_at DESC LIMIT 1000"
    )
    sql.execute("RESET session_replication_role")
    sql.execute("SELECT worker.recount_batches('shop-' || n) FROM generate_series(0, %s) AS n", [SHOPS - 1])
    sql.execute("UPDATE jobs SET cancel_requested_at = now() WHERE product_id IN ('p7', 'p8', 'p9')")
    sql.execute("VACUUM ANALYZE jobs, worker.search, worker.attempts, worker.batches, worker.batch_changes")


def foresee(engine: Engine, sql: psycopg.Connection) -> None:
    """Make a forecast that knows when each job ends."""
    sql.execute(
        "INSERT INTO worker.measured_seconds SELECT pool, engine, 'balanced', '{60, 60, 60}', 3, 60, now()"
        " FROM unnest('{default, x}'::text[]) AS pool, unnest(ARRAY['', 'triposr']) AS engine ON CONFLICT DO NOTHING"
    )
    hosts.check_in(engine, replace(HOST, engine="triposr", pools=("default", "x"), lanes=64))
    sql.execute("UPDATE worker.forecasts SET next_at = now()")
    assert estimates.update(engine)
    assert sql.execute(
        "SELECT count(*) FROM job_status WHERE status = 'pending' AND estimated_end IS NULL"
    ).fetchone() == (0,)
    assert sql.execute(
        "SELECT count(*) FROM batch_status WHERE waiting > 0 AND estimated_end IS NULL"
    ).fetchone() == (0,)


@pytest.mark.parametrize(
    "sizes",
    [
        [(1_000, 1_500), (10_000, 15_000)],
        pytest.param([(1_000, 1_500), (1_000_000, 100_000)], marks=pytest.mark.long),
    ],
)
def test_pages_of_the_database_that_a_question_reads(
    engine: Engine, sql: psycopg.Connection, sizes: list[tuple[int, int]]
) -> None:
    """Counted by EXPLAIN, with what the functions read."""
    costs: list[dict[str, int]] = []
    for history, waiting in sizes:
        fill(sql, history, waiting)
        foresee(engine, sql)
        found = sql.execute("SELECT id FROM jobs WHERE status = 'pending' LIMIT 1 OFFSET 700").fetchone()
        assert found
        some = {"id": found[0], "limit": 26}
        statements = {
            "claim": "SELECT * FROM worker.claim_job('w', 'h', '{default}', 'triposr', 30, NULL)",
            "position": queue.QUERIES["queue_position"],
            "estimate": "SELECT estimated_start, estimated_end FROM job_status WHERE id = %(id)s",
            "measured": "SELECT worker.fold_seconds(500)",
            "recent": queue.QUERIES["recent"],
            "all batches": "SELECT * FROM batch_status",
            "a batch": "SELECT * FROM batch_status WHERE shop = 'shop-7' AND batch = 'new-7'",
            "fold": "SELECT worker.fold_batches('', '', 200)",
        }
        costs.append({name: _pages_read(sql, text, some) for name, text in statements.items()})
    few, many = costs
    for name, read in many.items():
        assert read < 2 * few[name] + 60, costs


def _pages_read(
    sql: psycopg.Connection, statement: str, parameters: dict[str, Any], *, is_small: bool = False
) -> int:
    """Of a small table the whole may be read, if that costs less than to walk along an index."""
    for last in (False, True):  # the second time, when the functions' statements are planned
        with sql.transaction(force_rollback=not last):
            found = sql.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}".encode(), parameters
            ).fetchone()
    assert found
    plan = found[0][0]["Plan"]
    # The sums of batches are read as a whole, and hold one row for each.
    assert is_small or not re.search(r'"Seq Scan"[^{}]*"Relation Name": "jobs"', json.dumps(plan))
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_the_first_in_line_are_those_that_a_sort_of_all_would_put_first(
    engine: Engine, sql: psycopg.Connection
) -> None:
    fill(sql, 10, 1_000)
    sql.execute("UPDATE jobs SET shop = 'shop-1' WHERE product_id LIKE 'p1%' AND status = 'pending'")
    wanted = sql.execute(
        "SELECT id, place FROM (SELECT id, pool, row_number() OVER (PARTITION BY pool ORDER BY priority DESC, lap, shop,"
        " coalesce(engine, '')) AS place"
        " FROM (SELECT *, row_number() OVER (PARTITION BY pool, coalesce(engine, ''), priority, shop"
        "                                    ORDER BY run_after, created_at) AS lap FROM jobs WHERE status = 'pending') AS each"
        ") AS line WHERE place <= 150"
    ).fetchall()
    found = fetch_all(engine, "SELECT job_id, place FROM worker.first_in_line(150)")
    assert {(row["job_id"], row["place"]) for row in found} == set(wanted)
    assert len(found) == 2 * 150


def request_often(sql: psycopg.Connection, count: int) -> None:
    """Insert so many requests for one product of a shop, then one for another product."""
    sql.execute("SET session_replication_role = replica")
    sql.execute("TRUNCATE jobs, worker.superseded")
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, run_after, created_at, queued_at)"
        " SELECT 'a', CASE n WHEN %s THEN 'other' ELSE 'same' END, '{http://a/b}', at, at, at"
        " FROM generate_series(0, %s) AS n CROSS JOIN LATERAL (SELECT now() - interval '1 day' + n * interval '1 s' AS at) AS of",
        [count, count],
    )
    sql.execute("RESET session_replication_role")
    sql.execute("VACUUM ANALYZE jobs")


@pytest.mark.parametrize("many", [2_000, pytest.param(20_000, marks=pytest.mark.long)])
def test_a_claim_and_a_completion_cost_the_same_however_many_requests_wait_for_one_product(
    engine: Engine, sql: psycopg.Connection, many: int
) -> None:
    costs = []
    for count in (600, many):
        request_often(sql, count)
        newest = queue.enqueue(engine, shop="a", product_id="same", image_urls=["http://a/b"], priority=1)
        running = queue.claim(engine, worker="w", lease_s=30)
        assert running
        assert running.id == newest
        read = [_pages_read(sql, "SELECT * FROM worker.claim_job('w', 'h', '{default}', '', 30, NULL)", {})]
        assert sql.execute(
            "SELECT product_id FROM jobs WHERE status = 'processing' ORDER BY 1"
        ).fetchall() == [
            ("other",),
            ("same",),
        ]
        token = {"id": running.id, "token": str(running.lease_token)}
        read.append(
            _pages_read(
                sql,
                "SELECT worker.complete_job(%(id)s, %(token)s::uuid, 'x', '{}', NULL, false, 60)",
                token,
            )
        )
        costs.append(read)
    for few, most in zip(*costs, strict=True):
        assert most < 1.3 * few + 60, costs


def test_more_old_requests_than_one_statement_cancels_are_never_run_and_all_cancelled(
    engine: Engine, sql: psycopg.Connection
) -> None:
    request_often(sql, 1_200)
    newest = queue.enqueue(engine, shop="a", product_id="same", image_urls=["http://a/b"], priority=1)
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    queue.complete(engine, job, model_url="x", report={})
    assert sql.execute("SELECT count(*) FROM jobs WHERE status = 'cancelled'").fetchone() == (500,)
    later = queue.enqueue(engine, shop="a", product_id="same", image_urls=["http://a/b"])
    claimed = [queue.claim(engine, worker="w", lease_s=30) for _ in range(3)]
    assert {job.id for job in claimed if job} == {
        later,
        *(row[0] for row in sql.execute("SELECT id FROM jobs WHERE product_id = 'other'")),
    }
    assert sql.execute(
        "SELECT product_id, status::text, error_code, count(*) FROM jobs GROUP BY 1, 2, 3 ORDER BY 1, 2"
    ).fetchall() == [
        ("other", "processing", None, 1),
        ("same", "cancelled", "superseded", 1_200),
        ("same", "completed", None, 1),
        ("same", "processing", None, 1),
    ]
    assert sql.execute("SELECT count(*) FROM worker.superseded").fetchone() == (0,)
    # Each has its webhook, as if one statement had cancelled all.
    assert sql.execute(
        "SELECT count(*) FROM worker.outbox WHERE terminal AND job_id <> %s", [newest]
    ).fetchone() == (1_200,)


SEARCHES = (
    "", "status=ended", "status=pending", "status=failed", "status=completed", "code=no_object", "code=nothing", "shop=shop-7",
    "shop=hop-7", "shop=nobody", "shop=shop-7&status=failed", "product=700", "handle=thing-700", "handle=nothing", "batch=old-7",
    "batch=new-7", "preset=quality", "host=gpu-1", "host=nobody", "status=pending&preset=fast", "since=2h&until=1h",
    "since=2h&until=1h&status=failed",
)  # fmt: skip


@pytest.mark.parametrize(
    "sizes",
    [
        [(4_000, 1_500), (12_000, 4_500)],
        pytest.param([(4_000, 1_500), (1_000_000, 100_000)], marks=pytest.mark.long),
    ],
)
def test_pages_of_the_database_that_a_search_reads(
    engine: Engine, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, sizes: list[tuple[int, int]]
) -> None:
    """With so few steps that there are more rows at each size."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def note(_engine: Engine, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        asked.append((statement, parameters))
        return fetch_all(_engine, statement, **parameters)

    monkeypatch.setattr(search, "fetch_all", note)
    costs: list[dict[tuple[str, int], int]] = []
    for history, waiting in sizes:
        fill(sql, history, waiting)
        cost: dict[tuple[str, int], int] = {}
        for query in SEARCHES:
            asked.clear()
            wanted = Search(engine, Filter.parse(dict(part.split("=") for part in query.split("&") if part)))
            wanted.find(most=5, visits=8)
            with monkeypatch.context() as patch:
                patch.setattr(search, "COUNTED", 5)
                for bound in ("COUNT_VISITS", "CHOICE_VISITS", "STATE_VISITS"):
                    patch.setattr(search, bound, 8)
                wanted.count()
                wanted.choices()
            for n, (statement, parameters) in enumerate(asked):
                cost[query, n] = _pages_read(sql, statement, parameters, is_small=not costs)
        costs.append(cost)
    few, many = costs
    assert few.keys() == many.keys()
    for name, read in many.items():
        assert read < 2 * few[name] + 60, (name, few[name], read)
