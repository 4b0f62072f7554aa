"""`worker delete`: an erasure from the command line, which a daemon carries out, or the command itself."""

import io
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import bucket_server
import gates
import psycopg
import pytest
import shops
from bucket_server import BUCKET, KEY
from conftest import StartDaemon, until
from sqlalchemy.engine import Engine

from worker.cli import delete as command
from worker.cli.app import execute
from worker.core.settings import Settings
from worker.jobs import queue
from worker.storage import Store, open_store
from worker.storage.supabase import SupabaseStore


@dataclass
class Done:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Return a function that runs `worker delete` for the local folder, with an answer on stdin and settings by name."""

    def call(*arguments: str, answer: str = "", **settings: str) -> Done:
        store = {"WORKER_STORAGE_DIR": str(tmp_path / "store"), "SUPABASE_URL": ""}
        for name, value in ({"DATABASE_URL": database_url} | store | settings).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        status = execute(["delete", *arguments])
        captured = capsys.readouterr()
        return Done(status, captured.out, " ".join(captured.err.split()))

    return call


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_it_asks_and_takes_no_empty_name_for_everything(
    run: Run, sql: psycopg.Connection, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    put(folder, "a/1.glb", "a/12.glb", "b/1.glb")
    for shop, product, variant in (("a", "1", None), ("a", "1", "4"), ("a", "12", None), ("b", "1", None)):
        shops.insert(sql, shop, product, variant)
    asked = run("--shop", "a", "1", answer="n\n")
    assert asked.status == 1
    assert "a/1: files 1, rows 2" in asked.stderr
    assert asked.stdout == ""
    assert run("--shop", "a", "1").status == 1  # nobody there to answer
    assert run("--shop", "a", "", "--yes").status == 2
    assert run("--shop", "a", "--json").status == 2
    assert sql.execute("SELECT count(*) FROM worker.erasures").fetchone() == (0,)
    one = run("--shop", "a", "1", "--variant", "4", "--yes")
    assert (one.status, one.stdout) == (0, "")
    assert "a/1/4: deleted jobs 1, versions 0, files 0, events 0" in one.stderr
    done = run("--shop", "a", "gid://shopify/Product/1", "--yes", "--json")
    assert done.status == 0, done.stderr
    document = json.loads(done.stdout)
    assert sql.execute("SELECT id::text FROM worker.erasures WHERE jobs = 1 AND files = 1").fetchall() == [
        (document.pop("id"),)
    ]
    assert document == {"path": "a/1", "jobs": 1, "versions": 0, "files": 1, "events": 0}
    assert run("--shop", "a", "--yes").status == 0
    assert [file.name for file in folder.iterdir()] == ["b"]
    assert sql.execute("SELECT shop FROM jobs").fetchall() == [("b",)]


def test_a_store_that_fails_leaves_an_erasure_to_be_done(
    run: Run, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bucket_server.serve() as bucket, ExitStack() as opened:

        def open_and_close(settings: Settings) -> Store:
            store = open_store(settings)
            assert isinstance(store, SupabaseStore)
            opened.callback(store.storage.session.close)
            return store

        monkeypatch.setattr(command, "open_store", open_and_close)
        settings = {
            "WORKER_STORAGE_DIR": "",
            "SUPABASE_URL": bucket.url,
            "SUPABASE_SERVICE_ROLE_KEY": KEY,
            "SUPABASE_BUCKET_NAME": BUCKET,
        }
        bucket.bucket.objects["a/1.glb"] = bucket_server.Object(b"", "", "", {})
        shops.move(sql, shops.insert(sql, "a", "1"), "failed")
        bucket.fault = lambda method, _path: (
            bucket_server.refusal("403", "Unauthorized") if method == "DELETE" else None
        )
        failed = run("--shop", "a", "--yes", "--json", **settings)
        assert (failed.status, failed.stdout) == (os.EX_TEMPFAIL, "")
        assert "It has begun and failed" in failed.stderr
        assert "run the command again" in failed.stderr
        assert sql.execute("SELECT shop FROM jobs").fetchall() == [("a",)]
        bucket.fault = lambda _method, _path: None
        assert run("--shop", "a", "--yes", **settings).status == 0
        assert bucket.bucket.objects == {}
    # The second run has ended what the first one began.
    assert sql.execute("SELECT count(*) FROM worker.erasures WHERE done_at IS NULL").fetchone() == (0,)


def test_a_job_that_does_not_stop_is_named(
    run: Run, engine: Engine, sql: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "WAIT_S", 0.5)
    put(tmp_path / "store", "a/1.glb")
    shops.insert(sql, "a", "1")
    job = queue.claim(engine, worker="host:1", lease_s=600)
    assert job
    stopped = run("--shop", "a", "--yes")
    assert stopped.status == os.EX_TEMPFAIL
    assert f"These jobs still run: {job.id} at host:1." in stopped.stderr
    assert (tmp_path / "store/a/1.glb").exists()
    assert queue.renew(engine, job, lease_s=600), "it was asked to stop"


def test_a_running_daemon_does_it_while_its_job_runs_and_nothing_stays(
    start_daemon: StartDaemon, run: Run, sql: psycopg.Connection, held: gates.Gates
) -> None:
    daemon = start_daemon(WORKER_LEASE_S="6")
    for variant in (None, "4"):
        shops.insert(sql, "a", "1", variant, image_urls=[held.url])
    until(lambda: sql.execute("SELECT max(progress) >= 10 FROM jobs").fetchone() == (True,))
    done = run("--shop", "a", "--yes", "--json")
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["jobs"] == 2
    held.photos.set()
    assert sql.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    assert daemon.stop() == 0
    assert not list(daemon.files.rglob("*.glb"))
    assert not daemon.events("lane_error")
