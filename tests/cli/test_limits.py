"""`worker limits`, `worker usage` and `enqueue --start-by`."""

import json
from collections.abc import Callable

import psycopg
import pytest
from conftest import complete_next
from rich.console import Console
from sqlalchemy.engine import Engine
from typer.testing import CliRunner, Result

from worker.cli import output, plans
from worker.cli.app import app
from worker.core import settings
from worker.jobs import queue

Worker = Callable[[str], Result]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Worker:
    """The command line on the test's database, as wide as a terminal, in this process."""
    for name in settings.variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", database_url)
    for module in (output, plans):
        monkeypatch.setattr(module, "console", Console(stderr=True, width=200, color_system=None))
    return lambda line: CliRunner().invoke(app, line.split(), catch_exceptions=False)


def test_limits_are_set_one_by_one_shown_and_removed(worker: Worker) -> None:
    assert worker("limits").stderr == "No shop has limits.\n"
    assert worker("limits b").exit_code == 1
    assert worker("limits a --jobs-a-day 100 --presets fast,balanced").exit_code == 0
    shown = worker("limits a --at-once 0").stderr.splitlines()
    assert " ".join(shown[1].split()) == "a 0 of 100 0 of 0 fast, balanced"
    (plan,) = json.loads(worker("limits a --presets none --at-once none --json").stdout)
    assert (plan["jobs_a_day"], plan["jobs_at_once"], plan["presets"]) == (100, None, None)
    assert worker("limits aa").exit_code == 1, "another shop"
    assert worker("limits a --remove").stderr == "a has no limits.\n"
    assert worker("limits a --remove").exit_code == 1
    for wrong in (
        "limits --at-once 1",
        "limits a --at-once -1",
        "limits a --at-once 99999999999",
        "limits a --presets fast,ultra",
        "limits a --at-once 1 --remove",
    ):
        assert worker(wrong).exit_code == 2, wrong
    assert worker("limits").stderr == "No shop has limits.\n"


def test_usage_has_a_line_for_each_day_shop_and_preset(
    worker: Worker, engine: Engine, sql: psycopg.Connection
) -> None:
    assert worker("usage").stderr == "No job has ended.\n"
    for shop in "ab":
        queue.enqueue(engine, shop=shop, product_id="1", image_urls=["https://a/b"])
        complete_next(
            engine, digest="a" * 32, report={"bytes": {"glb": 2_000_000}, "seconds": {"generate": 90}}
        )
    sql.execute("SELECT forget_shop('b')")
    shown = worker("usage").stderr
    assert [line.split()[1] for line in shown.splitlines()[1:]] == ["forgotten", "a"]
    assert shown.count("1 min 30 s") == shown.count("2.0 MB") == 2
    (day,) = json.loads(worker("usage a --days 1 --json").stdout)
    assert (day["shop"], day["quality"], day["completed"]) == ("a", "balanced", 1)


def test_a_job_may_have_a_time_to_start_by(worker: Worker, sql: psycopg.Connection) -> None:
    assert worker("enqueue https://a/b.jpg --start-by 10m").exit_code == 0
    assert worker("enqueue https://a/b.jpg --start-by soon").exit_code == 2
    found = sql.execute(
        "SELECT round(extract(epoch FROM start_by - created_at) / 10)::int FROM jobs"
    ).fetchall()
    assert found == [(60,)]
