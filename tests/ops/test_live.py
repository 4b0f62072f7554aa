"""`worker status`, `watch` and `enqueue --watch`: what they say of rows in any state."""

import dataclasses
import io
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import typer
from conftest import HOST, complete_next
from rich.console import Console
from sqlalchemy.engine import Engine
from typer.testing import CliRunner, Result

from worker.cli import hosts as cli_hosts
from worker.cli import jobs, preflight
from worker.cli.app import app
from worker.core import errors, settings
from worker.core.finding import Level
from worker.core.settings import ConfigError
from worker.jobs import hosts, queue
from worker.local import samples
from worker.ops import advice, doctor
from worker.ops.terminal import formats, live
from worker.ops.terminal.verdict import outcome, verdict

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
    hosts.check_in(engine, dataclasses.replace(HOST, name="gpu-1"))
    job = queue.claim(engine, worker="gpu-1", lease_s=60)
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
    assert "no worker is running" in empty.stderr
    run(sql, engine, until="failed")
    run(sql, engine)
    queue.enqueue(engine, shop="b.myshopify.com", product_id="8", image_urls=["https://a/b"])
    said = worker("status").stderr
    for part in (
        "1 waiting, the oldest for 0 s",
        "1 running",
        "0 completed",
        "1 failed",
        "● gpu-1  1 running  relief",
        "no_object 1",
        "claimed",
        "8  b.myshopify.com",
    ):
        assert part in said, part
    status = json.loads(worker("status", "--json").stdout)
    assert (status["queue"]["due"], status["queue"]["running"], status["queue"]["stuck"]) == (1, 1, 0)
    assert [(each["name"], each["running"], each["ended"]) for each in status["hosts"]] == [("gpu-1", 1, 1)]
    assert status["unserved"] == []
    assert [(f["error_code"], f["jobs"]) for f in status["failures"]] == [("no_object", 1)]
    assert len(status["jobs"]) == 3


def fill(engine: Engine, sql: psycopg.Connection, jobs: int) -> None:
    """Jobs in every state, with long names, on more hosts than have a line."""
    for n in range(5):
        hosts.check_in(engine, dataclasses.replace(HOST, name=f"gpu-{n}.a-long-name.example.com"))
    shop = f"{'north-coast-pottery-' * 5}.myshopify.com"
    for n in range(jobs):
        queue.enqueue(
            engine,
            shop=shop,
            product_id=f"gid://shopify/Product/8123456789{n}",
            variant_id="gid://shopify/ProductVariant/44112233445566",
            image_urls=["https://a/b"],
            pool="elsewhere" if n % 6 == 5 else "default",
        )
    for code in ("no_object", "photo_not_found", "storage_unavailable", "photo_too_many_pixels", "timed_out"):
        job = queue.claim(engine, worker="gpu-1", lease_s=60)
        assert job
        queue.fail(engine, job, errors.JobError(code), report={})
    complete_next(engine, digest="ab" * 16, wants_review=True, report={"engine": "relief"})
    queue.claim(engine, worker="gpu-2.a-long-name.example.com", lease_s=60)
    sql.execute("SELECT forget_product('b.myshopify.com', '9')")
    sql.execute(
        "UPDATE worker.erasures SET last_error = 'the bucket answers 503 SlowDown, and that for hours'"
    )


@pytest.mark.parametrize("jobs", [12, 60])
def test_status_fits_a_terminal_with_one_line_a_job(
    engine: Engine, sql: psycopg.Connection, jobs: int
) -> None:
    fill(engine, sql, jobs)

    def printed(width: int, height: int = 24) -> list[str]:
        screen = io.StringIO()
        terminal = Console(file=screen, force_terminal=True, color_system=None, width=width, height=height)
        for part in live.status(engine, terminal, None):
            terminal.print(part)
        return screen.getvalue().splitlines()

    for width in (40, 80, 120):
        lines = printed(width)
        assert max(map(len, lines)) <= width
        listed = [line for line in lines if re.match(r"[0-9a-f]{8}  8123456789", line)]
        if width >= 80:
            assert len(lines) < 24, "the prompt has a line too"
            assert len(listed) >= 12
        assert len(listed) == len(lines) - lines.index("") - 2, "one line a job"
    wide = "\n".join(printed(120))
    for part in ("to review  preview abababab", "no_object: No product", "● 1 busy  ○ 4 idle"):
        assert part in wide, part
    if jobs == 12:
        assert "retry at" in wide
    else:
        assert len([line for line in printed(80, 60) if "8123456789" in line]) > 12, "a taller one shows more"


def test_a_job_that_waits_for_another_day_is_shown_with_the_date(
    worker: Worker, engine: Engine, sql: psycopg.Connection
) -> None:
    queue.enqueue(engine, shop="a", product_id="1", image_urls=["https://a/b"])
    later = datetime.now(UTC) + timedelta(days=2)
    sql.execute("UPDATE jobs SET run_after = %s", [later])
    assert f"not before {later:%Y-%m-%d %H:%M} UTC" in " ".join(worker("status").stderr.split())


def test_status_names_the_work_on_files_that_fails(worker: Worker, sql: psycopg.Connection) -> None:
    sql.execute("SELECT forget_shop('b.myshopify.com'), forget_product('a.myshopify.com', '8')")
    assert "files" not in worker("status").stderr, "it has only just begun"
    sql.execute("UPDATE worker.erasures SET last_error = '503 SlowDown: \033[2Jbusy' WHERE product IS NULL")
    said = " ".join(worker("status").stderr.split())
    assert "files 1 erasure not done, will be tried again 503 SlowDown: \ufffd[2Jbusy" in said
    found = json.loads(worker("status", "--json").stdout)["file_failures"]
    assert [(each["kind"], each["count"]) for each in found] == [("erase", 1)]


def test_status_counts_the_models_to_review_and_says_what_became_of_each(
    worker: Worker, engine: Engine, sql: psycopg.Connection
) -> None:
    job = run(sql, engine, until="completed")
    assert "review" not in worker("status").stderr
    for review, said in (
        ("wanted", "to review  model"),
        ("approved", "approved  model"),
        ("rejected", "rejected  model"),
    ):
        sql.execute(
            "WITH key AS MATERIALIZED (SELECT set_config('worker.lease', 'queue', true)) UPDATE public.jobs"
            " SET review = %s FROM key",
            [review],
        )
        (row,) = queue.get_jobs(engine, [job])
        assert (f"worker review approve {row['short']}" in outcome(row)[2]) is (review == "wanted")
        status = worker("status").stderr
        assert said in status
        assert ("1 to review: worker review" in status) is (review == "wanted")
        figures = queue.health(engine), queue.gauges(engine, "c")
        assert [each["to_review"] for each in figures] == [review == "wanted"] * 2
        assert [row["id"] for row in queue.to_review(engine, 10)] == [job] * (review == "wanted")
        assert figures[0]["completed_last_hour"] == 1, "counted once"


def test_a_worker_that_was_lost_is_not_among_the_living(
    worker: Worker, engine: Engine, sql: psycopg.Connection
) -> None:
    run(sql, engine, until="lost")
    assert "1 of them lost" in worker("status").stderr
    sql.execute("UPDATE worker.hosts SET seen_at = now() - interval '40 min'")
    assert "✗ gpu-1  gone, last seen 40 min ago" in worker("status").stderr
    assert json.loads(worker("status", "--json").stdout)["hosts"][0]["seen_s"] >= 2400


def test_hosts_are_listed_paused_and_resumed(
    worker: Worker, engine: Engine, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_hosts, "console", Console(stderr=True, width=140, color_system=None))
    assert worker("hosts").stderr == "No worker is running. Start one: worker run\n"
    hosts.check_in(engine, dataclasses.replace(HOST, name="gpu-1", pools=("default", "large"), lanes=4))
    assert re.search(r"○ gpu-1  idle +relief +default, large +4 +cpu +4.3 GB +1 ", worker("hosts").stderr)
    assert worker("pause", "gpu-1").stderr == "gpu-1 is paused.\n"
    assert "‖ gpu-1  paused" in worker("hosts").stderr
    (listed,) = json.loads(worker("hosts", "--json").stdout)
    assert (listed["state"], listed["pools"], listed["lanes"]) == ("paused", ["default", "large"], 4)
    sql.execute("UPDATE worker.hosts SET pools = ARRAY[E'a\\nb', E'c\\td']")
    assert " a b, c d " in worker("hosts").stderr
    sql.execute("UPDATE worker.hosts SET seen_at = now() - interval '3 days'")
    assert "‖ gpu-1  paused, last seen 3 d ago" in worker("hosts").stderr
    sql.execute("UPDATE worker.hosts SET stopped_at = seen_at")
    assert "‖ gpu-1  paused, stopped 3 d ago" in worker("status").stderr
    assert json.loads(worker("resume", "gpu-1", "--json").stdout) == {"gpu-1": True}
    assert worker("hosts").stderr.startswith("No worker is running.")
    unknown = worker("pause", "gpu-2")
    assert (unknown.exit_code, unknown.stderr) == (1, "No host has the name gpu-2. See: worker hosts\n")


def test_a_job_that_no_host_can_take_is_named(worker: Worker, engine: Engine) -> None:
    def hint(**columns: Any) -> str:
        job = queue.enqueue(engine, shop="a", product_id="1", image_urls=["https://a/b"], **columns)
        found = live.idle_hint(engine, queue.get_jobs(engine, [job]))
        return found.plain if found else ""

    assert hint() == "No worker is running. Start one: worker run"
    hosts.check_in(engine, HOST)
    assert hint() == "Number 2 in the queue."
    wanted = "No running worker takes jobs of the pool large and the engine triposr. See: worker hosts"
    assert hint(pool="large", job_engine="triposr") == wanted
    assert "1  pool large, engine triposr: no running host takes them" in worker("status").stderr
    for pool in "abcdef":
        hint(pool=pool)
    assert "no running host takes them and 6 lines more" in worker("status").stderr
    hosts.pause(engine, "host")
    assert hint() == "Its workers are paused. See: worker resume host"


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
    assert shown.rindex("gpu-1") > shown.index("The database cannot be reached")


def test_without_a_terminal_each_change_of_a_job_is_a_line(
    worker: Worker, engine: Engine, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = run(sql, engine)
    steps = iter(
        (
            "progress = 50, stage = 'generating'",
            "progress = 50",
            "status = 'pending', progress = 0, stage = NULL, lease_token = NULL, lease_expires_at = NULL, claimed_by = NULL",
            "status = 'cancelled', completed_at = now(), error_code = 'superseded', error_message = 'A newer one.'",
        )
    )

    def pause(_seconds: float) -> None:
        sql.execute(
            "WITH key AS MATERIALIZED (SELECT set_config('worker.lease', 'queue', true)) UPDATE public.jobs"
            f" SET {next(steps)} FROM key".encode()
        )

    monkeypatch.setattr(time, "sleep", pause)
    found = worker("watch", str(job))
    assert found.exit_code == 1
    lines = [line.partition(" UTC  ")[2].split(None, 2) for line in found.stderr.splitlines()[:4]]
    short = str(job)[:8]
    assert [(line[0], line[2]) for line in lines] == [
        (short, "5 %  claimed"),
        (short, "50 %  generating"),
        (short, "pending"),
        (short, "cancelled  superseded"),
    ]


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
    assert "no worker is running" in found["worker"].text
    assert found["store"].level is Level.FAIL
    assert "SUPABASE_URL" in str(found["store"])


def test_a_sample_is_named_with_or_without_its_ending() -> None:
    assert preflight.sample("vase") == preflight.sample("vase.png") == ([str(samples.path("vase.png"))], [])
    with pytest.raises(typer.BadParameter, match="unicorn"):
        preflight.sample("unicorn")


def test_photos_or_a_sample(worker: Worker) -> None:
    for wrong in ([], ["--sample", "unicorn"]):
        assert worker("enqueue", *wrong).exit_code == 2
    assert worker("enqueue", "https://a/b.jpg", "--sample", "vase").exit_code == 2


def test_every_way_to_fail_comes_with_advice_for_the_operator(
    engine: Engine, sql: psycopg.Connection
) -> None:
    assert set(errors.ERRORS) == advice.CODES
    job = run(sql, engine, until="failed")
    (row,) = queue.get_jobs(engine, [job])
    said = verdict(row).plain
    assert errors.ERRORS["no_object"].message in said
    assert "--sample vase" in said
    assert row["short"] == str(job)[:8]
    assert row["short"] in (advice.on_job(row | {"error_code": "internal_error"}) or "")
    assert row["short"] in (advice.on_job(row | {"error_code": "of_a_newer_worker"}) or "")


def test_a_completed_test_job_tells_what_it_made(engine: Engine, sql: psycopg.Connection) -> None:
    (row,) = queue.get_jobs(engine, [run(sql, engine, until="completed")])
    said = verdict(row).plain
    for part in ("https://s/m.glb", "score 71 of 100", "Blurred."):
        assert part in said


def test_advice_names_only_what_runs_the_daemon_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def said() -> str:
        job = {"id": "7e57", "error_code": "internal_error"}
        return f"{advice.start_worker()} {advice.on_job(job)}"

    monkeypatch.setattr(advice, "SYSTEMD", tmp_path / "systemd")
    monkeypatch.setattr(advice, "UNITS", (tmp_path / "worker.service",))
    assert "systemctl" not in said()
    assert "journalctl" not in said()
    (tmp_path / "systemd").mkdir()
    assert "systemctl" not in said(), "systemd does not run us"
    (tmp_path / "worker.service").touch()
    assert "systemctl status worker" in said()
    assert "journalctl -u worker | grep 7e57" in said()
    monkeypatch.setenv(advice.DEV_FOLDER, ".worker")
    assert "systemctl" not in said()
    assert "Start it again: worker dev" in said()


def test_times_have_their_date_when_they_are_not_today_s() -> None:
    now = datetime.now(UTC)
    assert formats.moment(now) == f"{now:%H:%M:%S} UTC"
    before = now - timedelta(days=1)
    assert formats.moment(before) == f"{before:%Y-%m-%d %H:%M} UTC"
    sizes = {
        0: "0 B",
        999: "999 B",
        1000: "1 kB",
        3_400_000: "3.4 MB",
        999_949_999: "999.9 MB",
        1.7e9: "1.7 GB",
    }
    assert {count: formats.file_size(count) for count in sizes} == sizes
    assert (formats.counted(1, "job"), formats.counted(1234, "job")) == ("1 job", "1,234 jobs")
