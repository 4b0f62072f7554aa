"""`worker status`, `watch` and `enqueue --watch`: what they say of rows in any state."""

import io
import json
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from rich.console import Console
from sqlalchemy.engine import Engine
from typer.testing import CliRunner, Result

from worker.cli import jobs, preflight
from worker.cli.app import app
from worker.core import errors, settings
from worker.core.finding import Level
from worker.core.settings import ConfigError
from worker.jobs import queue
from worker.local import samples
from worker.ops import doctor
from worker.ops.terminal import live, tables

Worker = Callable[..., Result]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Any) -> Worker:
    """The command line on the test's database, as wide as a terminal, in this process."""
    for name in settings.variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("WORKER_STORAGE_DIR", str(tmp_path / "store"))
    monkeypatch.setattr(jobs, "console", Console(stderr=True, width=120, color_system=None))
    return lambda *arguments: CliRunner().invoke(app, arguments, catch_exceptions=False)


def run(sql: psycopg.Connection, engine: Engine, *, until: str = "") -> Any:
    """A job that a worker has claimed, and after that `until`."""
    queue.enqueue(
        engine, shop="a.myshopify.com", product_id="gid://shopify/Product/7", image_urls=["https://a/b"]
    )
    job = queue.claim(engine, worker="gpu-1:7", lease_s=60)
    assert job
    match until:
        case "failed":
            queue.fail(engine, job, errors.JobError("no_object"), report={})
        case "completed":
            queue.complete(
                engine,
                job,
                model_url="https://s/m.glb",
                report={"quality": {"score": 71.0, "warnings": ["Blurred."]}},
            )
        case "lost":
            sql.execute(
                "WITH key AS MATERIALIZED (SELECT set_config('worker.lease', 'queue', true)) UPDATE public.jobs"
                " SET lease_expires_at = now() - interval '1 min' FROM key"
            )
    return job.id


def test_status_shows_who_works_what_waits_and_what_fails(
    worker: Worker, engine: Engine, sql: psycopg.Connection
) -> None:
    empty = worker("status")
    assert empty.exit_code == 0
    assert "0 waiting" in empty.stderr
    assert "no worker active in the last hour" in empty.stderr
    run(sql, engine, until="failed")
    run(sql, engine)
    queue.enqueue(engine, shop="b.myshopify.com", product_id="8", image_urls=["https://a/b"])
    said = worker("status").stderr
    for part in (
        "1 waiting, the oldest for 0 s",
        "1 running",
        "0 completed",
        "1 failed",
        "● gpu-1:7  1 running",
        "no_object  1",
        "claimed",
        "8  b.myshopify.com",
    ):
        assert part in said, part
    status = json.loads(worker("status", "--json").stdout)
    assert (status["queue"]["due"], status["queue"]["running"], status["queue"]["stuck"]) == (1, 1, 0)
    assert [(w["worker"], w["running"], w["ended"]) for w in status["workers"]] == [("gpu-1:7", 1, 1)]
    assert [(f["error_code"], f["jobs"]) for f in status["failures"]] == [("no_object", 1)]
    assert len(status["jobs"]) == 3


def test_a_worker_that_was_lost_is_not_among_the_living(
    worker: Worker, engine: Engine, sql: psycopg.Connection
) -> None:
    run(sql, engine, until="lost")
    assert "1 of them lost" in worker("status").stderr
    assert json.loads(worker("status", "--json").stdout)["workers"] == []
    # After the rescue it is known, by the time of its last sign of life.
    sql.execute("UPDATE worker.attempts SET started_at = now() - interval '40 min'")
    queue.rescue(engine)
    assert json.loads(worker("status", "--json").stdout)["workers"][0]["seen_s"] >= 2400


def test_watch_tells_by_its_exit_code_how_jobs_ended(
    worker: Worker, engine: Engine, sql: psycopg.Connection
) -> None:
    good, bad = run(sql, engine, until="completed"), run(sql, engine, until="failed")
    assert worker("watch", str(good)).exit_code == 0
    both = worker("watch", str(good), str(bad), "--json")
    assert both.exit_code == 1
    assert [job["status"] for job in json.loads(both.stdout)] == ["completed", "failed"]
    assert worker("watch", "--json").exit_code == 2


def test_the_queue_is_watched_through_an_outage(
    engine: Engine, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real rows, a database that goes and comes, and Ctrl-C."""
    run(sql, engine)
    calls = 0

    def pause(_seconds: float) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        if calls == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", pause)
    screen = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        live.watch_queue(engine, Console(file=screen, force_terminal=True, width=120), 10)
    shown = screen.getvalue()
    assert shown.count("The database cannot be reached") == 1
    assert shown.rindex("gpu-1:7") > shown.index("The database cannot be reached")


def test_a_test_job_is_not_queued_where_the_database_does_not_fit(
    worker: Worker, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database)
    with pytest.raises(ConfigError, match="worker migrate"):
        worker("enqueue", "--watch", "https://a/b.jpg")


def test_before_a_test_job_every_misconfiguration_is_named(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in settings.variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", database_url)
    configured = settings.load()
    found = {finding.name: finding for finding in doctor.run_checks(doctor.BEFORE_A_JOB, configured)}
    assert found["database"].level is Level.OK
    assert found["worker"].level is Level.ADVICE
    assert "no worker active in the last hour" in found["worker"].text
    assert found["store"].level is Level.FAIL
    assert "SUPABASE_URL" in str(found["store"])
    refused = preflight.check_photo("https://elsewhere.example/a.jpg?key=planted", configured)
    assert refused.level is Level.FAIL
    assert "WORKER_PHOTO_HOSTS" in refused.fix
    assert "planted" not in str(refused)
    assert preflight.check_photo("https://cdn.shopify.com/a.jpg", configured).level is Level.OK


def test_a_sample_is_named_with_or_without_its_ending() -> None:
    assert preflight.sample("vase") == preflight.sample("vase.png") == str(samples.path("vase.png"))
    with pytest.raises(ConfigError, match="unicorn"):
        preflight.sample("unicorn")


def test_photos_or_a_sample(worker: Worker) -> None:
    assert worker("enqueue").exit_code == 2
    assert worker("enqueue", "https://a/b.jpg", "--sample", "vase").exit_code == 2


def test_every_way_to_fail_comes_with_advice_for_the_operator(
    engine: Engine, sql: psycopg.Connection
) -> None:
    assert set(preflight.ADVICE) == set(errors.ERRORS)
    job = run(sql, engine, until="failed")
    (row,) = queue.get_jobs(engine, [job])
    said = tables.verdict(row, preflight.outcome(row), preflight.advice(row)).plain
    assert errors.ERRORS["no_object"].message in said
    assert "--sample vase.png" in said
    assert str(job) in (preflight.advice(row | {"error_code": "internal_error"}) or "")
    assert str(job) in (preflight.advice(row | {"error_code": "of_a_newer_worker"}) or "")


def test_a_completed_test_job_tells_what_it_made(engine: Engine, sql: psycopg.Connection) -> None:
    (row,) = queue.get_jobs(engine, [run(sql, engine, until="completed")])
    said = tables.verdict(row, preflight.outcome(row), preflight.advice(row)).plain
    for part in ("https://s/m.glb", "quality 71 of 100", "Blurred."):
        assert part in said
