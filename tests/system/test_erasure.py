"""Erasure with the real daemon: a shop is forgotten while its jobs run, and what is frozen or killed meanwhile leaves nothing."""

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bucket_server
import gates
import psycopg
import pytest
import shops
from bucket_server import BUCKET, KEY, Fault, Handler
from conftest import StartDaemon, until
from shops import Shelf
from sqlalchemy.engine import Engine

from worker.versions import erase

SHOP, OTHER = "a.myshopify.com", "b.myshopify.com"
TABLES = ("public.jobs", "worker.attempts", "worker.versions", "worker.published", "worker.shop_limits")


def is_done(sql: psycopg.Connection) -> bool:
    return sql.execute("SELECT bool_and(done_at IS NOT NULL) FROM worker.erasures").fetchone() == (True,)


def test_a_shop_is_forgotten_while_its_jobs_run_and_the_daemon_is_killed(
    start_daemon: StartDaemon, sql: psycopg.Connection, tmp_path: Path, held: gates.Gates
) -> None:
    settings = {
        "WORKER_LEASE_S": "3",
        "WORKER_POOLS": "here",  # the other rows stay as they are
        "WORKER_WEBHOOK_EVENTS": "job.updated,shop.erased",
        "WORKER_LANES": "2",
    }
    shelf = Shelf(tmp_path / "store", None)
    shops.furnish(sql, shelf, OTHER)
    for (lost,) in sql.execute("SELECT id FROM jobs WHERE status = 'processing'").fetchall():
        shops.set_columns(sql, lost, lease_expires_at="9998-01-01")
    rows, files = shops.texts(sql), shelf.files()
    shops.furnish(sql, shelf, SHOP)

    first = start_daemon(**settings)
    for product in ("x", "y"):
        shops.insert(sql, SHOP, product, image_urls=[held.url], pool="here")
    until(lambda: sql.execute("SELECT count(*) FROM jobs WHERE progress = 10").fetchone() == (2,))
    erasure = shops.forget(sql, SHOP)
    until(lambda: sql.execute("SELECT tries > 0 FROM worker.erasures").fetchone() == (True,))
    first.process.kill()
    first.process.wait()
    second = start_daemon(**settings)
    until(lambda: is_done(sql), 120)
    held.photos.set()

    # A forecast that was being made meanwhile names the shop until the next one, seconds later.
    until(lambda: not shops.traces(sql, shelf, SHOP))
    assert {file for file in shelf.files() if not file.startswith(".")} == files
    left = shops.texts(sql)
    for table in TABLES:
        assert left[table] == rows[table]
    done = second.wait_for("erasure_done")
    assert done["erasure"] == str(erasure)
    assert SHOP not in json.dumps([*second.events("erasure_begun"), done])
    received = until(lambda: _webhooks(tmp_path, "erasureId"))
    assert {event["erasureId"] for event in received} == {str(erasure)}
    assert {event["jobs"] for event in received} == {done["jobs"]}
    assert second.stop() == 0
    assert not second.events("file_work_failed")


def _webhooks(folder: Path, key: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (folder / "webhooks.jsonl").read_text().splitlines())
    bodies = (
        json.loads(line["body"]) if isinstance(line.get("body"), str) else line.get("body", line)
        for line in lines
    )
    return [body for body in bodies if key in body]


def test_what_a_frozen_daemon_stores_after_the_end_is_removed(
    start_daemon: StartDaemon,
    engine: Engine,
    sql: psycopg.Connection,
    photos: Callable[[str, bytes], str],
    mug: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(erase, "QUIET_S", 0.0)
    arrived, go_on = threading.Event(), threading.Event()

    def hold(handler: Handler, do: Callable[[], Any]) -> None:
        arrived.set()
        go_on.wait()
        handler.answer(200, do())

    def fault(method: str, path: str) -> Fault | None:
        return hold if method == "POST" and path.endswith(".glb") and "/v." in path else None

    with bucket_server.serve() as bucket:
        daemon = start_daemon(
            WORKER_STORAGE_DIR="",
            SUPABASE_URL=bucket.url,
            SUPABASE_SERVICE_ROLE_KEY=KEY,
            SUPABASE_BUCKET_NAME=BUCKET,
            WORKER_LEASE_S="3",
        )
        shelf = Shelf(None, bucket)
        bucket.fault = fault
        shops.insert(sql, SHOP, image_urls=[photos("mug.png", mug)])
        assert arrived.wait(60)
        daemon.process.send_signal(signal.SIGSTOP)
        shops.forget(sql, SHOP)
        until(lambda: sql.execute("SELECT lease_expires_at < now() FROM jobs").fetchone() == (True,))
        shops.finish(engine, shelf.open(), sql)
        assert shops.traces(sql, shelf, SHOP) == []
        go_on.set()
        until(lambda: bucket.bucket.objects)
        daemon.process.send_signal(signal.SIGCONT)
        daemon.wait_for("lease_lost")
        until(lambda: not bucket.bucket.objects)
        until(lambda: not shops.traces(sql, shelf, SHOP))
        shelf.close()
        assert daemon.stop() == 0
