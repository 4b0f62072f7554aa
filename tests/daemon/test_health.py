"""The HTTP port: what the daemon says of itself, held against the rows, the alerts and the documentation."""

import ast
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
import yaml  # type: ignore[import-untyped]  # ships no types
from bucket_server import BUCKET, KEY, html, serve
from conftest import Daemon, StartDaemon, until
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import Engine

from worker import database, weights
from worker.core import metrics
from worker.core.errors import ERRORS
from worker.core.settings import Settings
from worker.daemon import health
from worker.daemon.lane import Lane
from worker.daemon.settlement import ENDS
from worker.daemon.systemd import Heartbeat
from worker.database.monitor import DatabaseMonitor
from worker.jobs import queue
from worker.jobs.wakeup import GAUGES, Listener
from worker.local.postgres import Postgres
from worker.local.server import DevServer
from worker.storage.supabase import SupabaseStore

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docs" / "monitoring.md"
CODES = ROOT / "docs" / "codes.md"
ALERTS = ROOT / "docs" / "prometheus-alerts.yml"

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
PutPhoto = Callable[[str, bytes], str]


def ask(daemon: Daemon, path: str) -> tuple[int, str]:
    port = daemon.wait_for("http_listening")["port"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def parsed(text: str) -> Series:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(daemon: Daemon) -> Series:
    return parsed(ask(daemon, "/metrics")[1])


def ends(series: Series) -> Counter[tuple[str, str | None]]:
    found = Counter[tuple[str, str | None]]()
    for (name, labels), value in series.items():
        if name == "modelworker_jobs_total" and value:
            found[dict(labels)["outcome"], dict(labels)["code"] or None] = int(value)
    return found


def total(series: Series, name: str) -> float:
    return sum(value for (found, _), value in series.items() if found == name)


def test_a_scrape_during_twenty_jobs_adds_up_with_the_rows(
    start_daemon: StartDaemon,
    sql: psycopg.Connection,
    site: DevServer,
    photos: PutPhoto,
    mug: bytes,
) -> None:
    daemon = start_daemon(WORKER_HTTP_PORT="0")
    addresses = {
        photos("text.png", b"no photo"): 13,
        f"{site.url}/missing.jpg": 3,
        photos("mug.png", mug): 2,
        "http://127.0.0.1:9/a.jpg": 1,
        "http://127.0.0.1:9/b.jpg": 1,
    }
    for url, jobs in addresses.items():
        sql.execute(
            "INSERT INTO jobs (shop, product_id, image_urls, quality, max_attempts) SELECT 'a', %s || n, ARRAY[%s], 'fast', %s"
            " FROM generate_series(1, %s) n",
            [url, url, 3 if url.endswith("b.jpg") else 1, jobs],
        )
    # Everything is tried once; the one that has attempts left was inserted last, and waits for its next.
    before, seen, end = 0.0, [], time.monotonic() + 120
    while time.monotonic() < end:
        over = sql.execute(
            "SELECT count(*) FILTER (WHERE status = 'processing' OR attempts = 0) = 0 FROM jobs"
        ).fetchone() == (True,)
        series = scrape(daemon)
        ended = sum(ends(series).values())
        assert before <= ended <= total(series, "modelworker_claims_total") <= 20
        before = ended
        seen.append(ended)
        if over and ended == 20:
            break
        time.sleep(0.1)
    assert len(set(seen)) > 2, "some scrapes were in the middle"

    rows = sql.execute(
        "SELECT CASE status WHEN 'pending' THEN 'retry_scheduled' ELSE status::text END, error_code, count(*) FROM jobs GROUP BY 1, 2"
    ).fetchall()
    assert ends(series) == {(outcome, code): count for outcome, code, count in rows}
    assert ends(series) == {
        ("failed", "photo_not_an_image"): 13,
        ("failed", "photo_not_found"): 3,
        ("completed", None): 2,
        ("failed", "photo_unreachable"): 1,
        ("retry_scheduled", "photo_unreachable"): 1,
    }
    lines = sql.execute("SELECT count(*) FROM worker.attempts WHERE ended_at IS NOT NULL").fetchone()
    assert lines == (total(series, "modelworker_claims_total"),) == (20,)
    assert series["modelworker_step_seconds_count", (("step", "download"),)] == 20
    assert series["modelworker_step_seconds_count", (("step", "upload"),)] == 2
    assert total(series, "modelworker_lease_renewals_total") >= 2 * 7
    assert total(series, "modelworker_child_restarts_total") == 0
    delivered = ("modelworker_webhooks_total", (("outcome", "delivered"),))
    events = sql.execute("SELECT count(*) FROM worker.outbox").fetchone()
    until(lambda: (scrape(daemon)[delivered],) == events)
    _rules_name_what_is_scraped({name for name, _ in series})
    _documented({name for name, _ in series})


def _rules_name_what_is_scraped(scraped: set[str]) -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        named = set(re.findall(r"\bmodelworker_\w+", rule["expr"]))
        assert named, rule
        # A GPU's figure is there when the first model was made on one.
        assert named - scraped <= {"modelworker_gpu_memory_peak_bytes"}, rule
        assert set(rule) >= {"alert", "expr", "labels", "annotations"}
        assert re.search(rf"^\| `{rule['alert']}` \|", MONITORING.read_text(), re.MULTILINE), rule["alert"]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 10


def _documented(scraped: set[str]) -> None:
    documented = set(re.findall(r"^\| `(modelworker_\w+)`", MONITORING.read_text(), re.MULTILINE))
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in scraped if name.startswith("modelworker_")}
    assert documented == ours | {"modelworker_gpu_memory_peak_bytes"}


def test_the_alert_rules_pass_promtool() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; Debian has it in the package prometheus")
    done = subprocess.run(
        [promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def parts(daemon: Daemon) -> dict[str, str]:
    status, body = ask(daemon, "/readyz")
    answer = json.loads(body)
    assert status == (200 if answer["ready"] else 503)
    return {name: said for name, said in answer["parts"].items() if said != "ok"}


def test_readiness_says_which_part_is_missing(
    start_daemon: StartDaemon, postgres: Postgres, database_url: str, u2netp: Path, tmp_path: Path
) -> None:
    model = weights.path(tmp_path, "u2netp")
    model.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(weights.path(u2netp, "u2netp"), model)
    daemon = start_daemon(WORKER_HTTP_PORT="0", WORKER_WEIGHTS_DIR=str(tmp_path))
    assert parts(daemon) == {}
    model.rename(tmp_path / "elsewhere")
    assert parts(daemon) == {"weights": f"{model} is gone"}
    (tmp_path / "elsewhere").rename(model)
    status, body = ask(daemon, "/healthz")
    assert (status, json.loads(body)["lanes"]["cpu.0"]["doing"]) == (200, "idle")
    assert ask(daemon, "/secrets")[0] == 404

    name = database_url.rpartition("/")[2]
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        until(lambda: "database" in parts(daemon))
        series = scrape(daemon)
        assert series["modelworker_database_up", ()] == 0
        assert ask(daemon, "/healthz")[0] == 200, "a database that is away is no reason to end the process"
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        until(lambda: parts(daemon) == {}, 60)
    assert daemon.stop() == 0


def test_a_daemon_that_waits_for_its_database_answers(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(
        ready=False, WORKER_HTTP_PORT="0", DATABASE_URL="postgresql://u:planted@127.0.0.1:9/x"
    )
    assert ask(daemon, "/healthz")[0] == 200
    assert "waiting for the database" in parts(daemon)["daemon"]
    assert "modelworker_build_info" in ask(daemon, "/metrics")[1]


def test_a_port_that_is_taken_is_named(start_daemon: StartDaemon, site: DevServer) -> None:
    daemon = start_daemon(ready=False, WORKER_HTTP_PORT=site.url.rpartition(":")[2])
    assert daemon.process.wait(60) == 78
    assert "WORKER_HTTP_PORT" in daemon.log.read_text().splitlines()[-1]


def a_lane(heartbeat: Heartbeat) -> Lane:
    ready = threading.Event()
    ready.set()
    child = SimpleNamespace(running=True)
    return cast(
        "Lane",
        SimpleNamespace(
            label="0.1", heartbeat=heartbeat, ready=ready, child=child, failed=None, healthy=True
        ),
    )


def test_a_lane_that_owes_its_heartbeat_makes_the_process_unhealthy() -> None:
    heartbeat = Heartbeat()
    lanes = [a_lane(heartbeat)]
    heartbeat.beat("job 1, generating", silent_s=60)
    assert health.lanes_alive(lanes, 0.05)[0]
    heartbeat.beat("job 1, generating")
    until(lambda: not health.lanes_alive(lanes, 0.05)[0])
    assert health.lanes_alive(lanes, 0.05)[1]["frozen"] == ["0.1"]
    heartbeat.beat()
    assert health.lanes_alive(lanes, 0.05)[0]


def test_the_bucket_is_tried_in_the_background_and_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as server:
        store = SupabaseStore(server.url, KEY, BUCKET, wait_s=0.001)
        bucket = health.Bucket(store)
        for _ in range(50):
            assert bucket.check() == ""
        assert server.requests == [], "the daemon has looked at its start"
        monkeypatch.setattr(health, "CHECK_S", (0.0, 0.0))
        bucket = health.Bucket(store)
        server.fault = lambda _method, _path: html(503)
        until(bucket.check)
        server.fault = lambda _method, _path: None
        until(lambda: not bucket.check())
        monkeypatch.setattr(health, "CHECK_S", (300.0, 300.0))
        time.sleep(0.1)
        store.storage.session.close()


def test_one_daemon_asks_for_the_queue_and_the_others_hear(
    engine: Engine, database_url: str, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, run_after) VALUES ('a', '1', ARRAY['https://a/a.png'], now()),"
        " ('a', '2', ARRAY['https://a/a.png'], now() + interval '1 h')"
    )
    asked = Counter[str]()

    def gauges(name: str) -> metrics.QueueGauges:
        def ask() -> dict[str, Any]:
            asked[name] += 1
            return queue.gauges(engine, GAUGES)

        return metrics.QueueGauges(ask, lambda: True, backend=True)

    heard = threading.Event()
    other = gauges("other")

    def hear(payload: str) -> None:
        other.heard(payload)
        heard.set()

    listener = Listener(
        Settings(),
        engine,
        # The listener outlives the test; without its database it is silent.
        DatabaseMonitor(engine, lambda: database.probe(engine.url)),
        on_insert=lambda: None,
        on_cancel=lambda _: None,
        on_event=lambda: None,
        on_gauges=hear,
    )
    listener.start()
    until(lambda: listener.alive)
    assert "NaN" in metrics.scrape().decode()
    one = gauges("one")
    for _ in range(20):
        one.refresh()
    assert heard.wait(60)
    metrics.QUEUE_OLDEST.set(-1)
    for _ in range(20):
        other.refresh()
    assert asked == {"one": 1}, "neither again, nor both"
    assert metrics.QUEUE_OLDEST.collect()
    other.heard('{"due": 3, "oldest": 12.5}')
    series = parsed(metrics.scrape().decode())
    assert series["modelworker_queue_oldest_seconds", ()] == 12.5
    for nonsense in ("", "[]", '{"due": "many"}', '{"due": null}'):
        other.heard(nonsense)
    assert parsed(metrics.scrape().decode())["modelworker_queue_jobs", (("state", "due"),)] == 3
    found = queue.gauges(engine, GAUGES)
    assert {name: found[name] for name in ("due", "scheduled", "running", "stuck", "events", "dead")} == {
        "due": 1,
        "scheduled": 1,
        "running": 0,
        "stuck": 0,
        "events": 0,
        "dead": 0,
    }
    assert found["oldest"] >= 0


def test_figures_that_cannot_be_had_are_not_a_number() -> None:
    gauges = metrics.QueueGauges(lambda: {"due": 5}, lambda: False, backend=True)
    gauges.refresh()
    value = parsed(metrics.scrape().decode())["modelworker_queue_jobs", (("state", "due"),)]
    assert value != value  # noqa: PLR0124 - NaN


@pytest.mark.parametrize(("backend", "late"), [(True, 5000.0), (False, 0.0)])
def test_events_are_late_only_where_a_backend_waits_for_them(*, backend: bool, late: float) -> None:
    metrics.QueueGauges(lambda: {"events": 7, "lag": 5000}, lambda: True, backend=backend).refresh()
    assert parsed(metrics.scrape().decode())["modelworker_webhook_events_oldest_seconds", ()] == late


def test_what_a_hijacked_child_reports_makes_no_series() -> None:
    metrics.made({"seconds": {"download": 1.0, "made up": 1.0, "finish": "long"}, "surface": "none"}, "9.0")
    metrics.made({"seconds": [], "surface": {"peak_vram_mb": "all"}}, "9.0")
    metrics.made({"surface": {"peak_vram_mb": 1024}}, "8.0")
    series = parsed(metrics.scrape().decode())
    assert ("modelworker_step_seconds_count", (("step", "made up"),)) not in series
    assert ("modelworker_gpu_memory_peak_bytes", (("lane", "9.0"),)) not in series
    assert series["modelworker_gpu_memory_peak_bytes", (("lane", "8.0"),)] == 2**30


LEVELS = {"debug", "info", "warning", "error", "exception"}
# Events whose name is no literal at the call: the codes that storage/supabase.py logs.
BY_CODE = {code for code in ERRORS if code.startswith("storage_")}


def events() -> Iterator[str]:
    """The name of every event that the daemon's code logs."""
    for file in (ROOT / "worker").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr in LEVELS
                and ast.unparse(call.func.value) in {"log", "bound", "self.log"}
            ):
                name = call.args[0]
                if isinstance(name, ast.Constant):
                    yield str(name.value)
                else:
                    assert (file.name, ast.unparse(name)) in {
                        ("supabase.py", "code"),
                        ("local.py", "code"),
                        ("attempt.py", "event"),
                    }, file


def test_every_event_of_the_log_is_documented_and_no_other() -> None:
    text = CODES.read_text().partition("## Log events")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    logged = (
        set(events())
        | BY_CODE
        | {end.event for end in ENDS.values()}
        | {"child_died", "child_file_refused", "child_killed", "library"}
    )
    assert documented == logged


def test_every_error_code_is_documented_with_its_sentence_and_no_other() -> None:
    text = CODES.read_text().partition("## Error codes")[2].partition("\n## ")[0]
    text = re.sub(r"\[[^\]]+\]\(([^)]+)\)", r"docs/\1", text)
    documented = {
        code: (retried == "yes", sentence)
        for code, retried, sentence in re.findall(r"^\| `(\w+)` \| (yes|no) \| (.*) \|$", text, re.MULTILINE)
    }
    assert documented == {code: (kind.retryable, kind.operator) for code, kind in ERRORS.items()}


def test_a_job_s_story_is_found_by_its_id_and_libraries_keep_quiet(
    start_daemon: StartDaemon, engine: Engine, photos: PutPhoto
) -> None:
    daemon = start_daemon()
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=[photos("text.png", b"no photo")])
    until(lambda: queue.get_jobs(engine, [job])[0]["status"] == "failed")
    failed = daemon.wait_for("job_failed")
    assert (failed["job_id"], failed["shop"], failed["attempt"], failed["stage"]) == (
        str(job),
        "a",
        1,
        "downloading",
    )
    assert failed["seconds"] >= 0
    story = [event["event"] for event in daemon.events() if event.get("job_id") == str(job)]
    assert story[0] == "job_claimed"
    assert story[-1] == "job_failed"
    assert "stage" not in next(event for event in daemon.events("ready"))
    assert daemon.stop() == 0
    lines = daemon.log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("{") and not line.startswith("SIGTERM")] == []
    assert {event.get("logger") for event in daemon.events()} == {None}


def test_a_library_s_warning_becomes_a_line_like_ours() -> None:
    code = (
        "import logging, warnings; from worker.core import logs; logs.configure('json', 'debug');"
        "logging.getLogger('httpx').info('GET https://a/?token=planted');"
        "logging.getLogger('httpx').warning('slow'); warnings.warn('old')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["event"], line["logger"], line["level"]) for line in lines] == [
        ("library", "httpx", "warning"),
        ("library", "py.warnings", "warning"),
    ]
    assert lines[0]["message"] == "slow"
    assert done.stderr == ""
