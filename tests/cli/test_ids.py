"""Ids by their beginning: as they are printed, and as people type them."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest
from rich.console import Console
from sqlalchemy.engine import Engine
from typer.testing import CliRunner, Result

from worker.cli import output
from worker.cli.app import app
from worker.core import settings
from worker.database.ids import bounds, shorten
from worker.jobs import queue

Worker = Callable[..., Result]
ALIKE = ("7e57ed00-1111-4000-8000-000000000001", "7e57ed00-1111-4000-8000-000000000002")
OTHER = "ab000000-0000-4000-8000-000000000000"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Worker:
    for name in settings.variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setattr(output, "console", Console(stderr=True, width=80, color_system=None))
    return lambda *arguments: CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.fixture
def jobs(sql: psycopg.Connection) -> None:
    for job in (*ALIKE, OTHER):
        sql.execute(
            "INSERT INTO jobs (id, shop, product_id, image_urls) VALUES (%s, 'a.myshopify.com', '1', '{https://a/b}')",
            [job],
        )


@pytest.mark.usefixtures("jobs")
def test_what_status_prints_is_taken_by_the_other_commands(worker: Worker, engine: Engine) -> None:
    rows = json.loads(worker("status", "--json").stdout)["jobs"]
    assert {row["short"] for row in rows} == {*ALIKE, "ab000000"}, "of ids that begin alike, more is printed"
    for row in rows:
        assert [str(job) for job in queue.find_ids(engine, row["short"], 2)] == [row["id"]]
    done = worker("cancel", "ab")
    assert (done.exit_code, done.stderr) == (0, f"{OTHER} cancelled\n")
    again = worker("cancel", "AB00", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (1, {OTHER: False})
    assert worker("cancel", "ab").stderr == f"{OTHER} had already ended: cancelled\n"
    assert worker("retry", "ab000000-0").stderr == f"{OTHER} queued again\n"


@pytest.mark.usefixtures("jobs")
def test_nothing_is_done_where_one_beginning_is_not_unique(worker: Worker, sql: psycopg.Connection) -> None:
    for beginning, words in {
        "7e57": f"Several jobs have an id that begins with 7e57: {ALIKE[0]}, {ALIKE[1]}.",
        "7f": "No job has an id that begins with 7f.",
    }.items():
        refused = worker("cancel", OTHER[:8], beginning)
        assert refused.exit_code == 1
        assert words in " ".join(refused.stderr.split())
    assert worker("cancel", "not-an-id").exit_code == 2
    assert sql.execute("SELECT count(*) FROM jobs WHERE status = 'pending'").fetchone() == (3,)


def test_a_running_job_is_asked_to_stop(worker: Worker, engine: Engine) -> None:
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=["https://a/b"])
    queue.claim(engine, worker="w", lease_s=60)
    assert worker("cancel", str(job)[:10]).stderr == f"{job} cancel requested\n"
    assert "cancel requested" in " ".join(worker("status").stderr.split())


def test_a_beginning_is_a_range_of_ids() -> None:
    low, high = UUID("7e500000-0000-0000-0000-000000000000"), UUID("7e5fffff-ffff-ffff-ffff-ffffffffffff")
    assert bounds("7E5") == (low, high)
    assert bounds(OTHER) == (UUID(OTHER), UUID(OTHER))
    for wrong in ("", " ", "-", "xyz", OTHER + "0", "7e5%", "٣"):
        assert bounds(wrong) is None, wrong
    assert shorten(UUID(ALIKE[0]), [UUID(ALIKE[1]), None]) == ALIKE[0]
    assert shorten(UUID(OTHER), [UUID(ALIKE[1])]) == "ab000000"


@pytest.mark.usefixtures("jobs")
def test_the_range_is_read_from_the_index(sql: psycopg.Connection) -> None:
    sql.execute("SET enable_seqscan = off")  # on three rows it would be cheaper
    plan: Any = sql.execute(
        "EXPLAIN " + queue.QUERIES["find_ids"], {"first": ALIKE[0], "last": ALIKE[1], "most": 6}
    ).fetchall()
    assert "Index Only Scan using jobs_pkey" in str(plan)
    assert "Limit" in str(plan)
