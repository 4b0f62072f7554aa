"""What people ask of the queue costs the same however much waits. The `long` form has 100,000 jobs waiting and a million that ended."""

import json
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import Engine

from worker.database import fetch_all
from worker.jobs import queue
from worker.ops.dashboard import pages

SHOPS = 200


def fill(sql: psycopg.Connection, history: int, waiting: int) -> None:
    """Insert as of two pools and two engines. Without triggers, or it would take minutes."""
    sql.execute("SET session_replication_role = replica")
    sql.execute("TRUNCATE jobs")
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, status, progress, attempts, model_url, created_at, started_at,"
        " completed_at)"
        " SELECT 'shop-' || n %% %s, n::text, '{http://a/b}', 'completed', 100, 1, 'x', now() - n * interval '1 s',"
        " now() - n * interval '1 s', now() - n * interval '1 s' FROM generate_series(1, %s) AS n",
        [SHOPS, history],
    )
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, run_after, priority, pool, engine)"
        " SELECT 'shop-' || n %% %s, 'p' || n, '{http://a/b}', now() - n * interval '1 s', n %% 2, CASE n %% 3 WHEN 0 THEN 'x' ELSE 'default' END,"
        " CASE n %% 5 WHEN 0 THEN 'triposr' END FROM generate_series(1, %s) AS n",
        [SHOPS, waiting],
    )
    sql.execute("RESET session_replication_role")
    sql.execute("VACUUM ANALYZE jobs")


@pytest.mark.parametrize(
    "sizes",
    [
        [(1_000, 1_500), (10_000, 15_000)],
        pytest.param([(1_000, 1_500), (1_000_000, 100_000)], marks=pytest.mark.long),
    ],
)
def test_pages_of_the_database_that_a_question_reads(
    sql: psycopg.Connection, sizes: list[tuple[int, int]]
) -> None:
    """Counted by EXPLAIN, with what the functions read."""
    costs: list[dict[str, int]] = []
    for history, waiting in sizes:
        fill(sql, history, waiting)
        found = sql.execute("SELECT id FROM jobs WHERE status = 'pending' LIMIT 1 OFFSET 700").fetchone()
        assert found
        some = {
            "id": found[0],
            "shop": "shop-7",
            "status": "",
            "within": pages.WITHIN,
            "limit": 26,
            "offset": 25,
        }
        statements = {
            "claim": "SELECT * FROM worker.claim_job('w', 'h', '{default}', 'triposr', 30, NULL)",
            "position": queue.QUERIES["queue_position"],
            "recent": queue.QUERIES["recent"],
            "a shop's page": pages.QUERIES["of_shop"],
            "waiting": pages.QUERIES["waiting"],
        }
        costs.append({name: _pages_read(sql, text, some) for name, text in statements.items()})
    few, many = costs
    for name, read in many.items():
        assert read < 2 * few[name] + 60, costs


def _pages_read(sql: psycopg.Connection, statement: str, parameters: dict[str, Any]) -> int:
    for last in (False, True):  # the second time, when the functions' statements are planned
        with sql.transaction(force_rollback=not last):
            found = sql.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}".encode(), parameters
            ).fetchone()
    assert found
    plan = found[0][0]["Plan"]
    assert "Seq Scan" not in json.dumps(plan)
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
