"""`worker delete`: files and rows of a product, a variant, a shop, in both stores."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import bucket_server
import gates
import psycopg
import pytest
from bucket_server import BUCKET, KEY, BucketServer
from conftest import StartDaemon, until
from sqlalchemy.engine import Engine

from worker.core.errors import JobError
from worker.jobs import queue
from worker.jobs.queue import LeaseLost
from worker.ops import delete
from worker.storage import Store, paths
from worker.storage.local import LocalStore
from worker.storage.supabase import SupabaseStore

SHOP = "a.myshopify.com"
ENDINGS = (".glb", ".png", ".cutout.png", ".webp", ".usdz")


@pytest.fixture
def bucket() -> Iterator[BucketServer]:
    with bucket_server.serve() as server:
        yield server


@pytest.fixture(params=["local", "supabase"])
def store(request: pytest.FixtureRequest, tmp_path: Path, bucket: BucketServer) -> Iterator[Store]:
    if request.param == "local":
        yield LocalStore(tmp_path / "store")
        return
    supabase = SupabaseStore(bucket.url, KEY, BUCKET, wait_s=0.01)
    yield supabase
    supabase.storage.session.close()


def enqueue(engine: Engine, shop: str, product: str, variant: str | None = None) -> None:
    queue.enqueue(
        engine, shop=shop, product_id=product, variant_id=variant, image_urls=["https://a.example/x"]
    )


def left(sql: psycopg.Connection) -> set[tuple[str, str, str | None]]:
    return set(sql.execute("SELECT shop, product_id, variant_id FROM jobs").fetchall())


def test_a_variant_then_a_product_then_the_shop_and_nothing_else(
    store: Store, engine: Engine, sql: psycopg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    things: Sequence[tuple[str, str, str | None]] = [
        (SHOP, "1", None),
        (SHOP, "gid://shopify/Product/1", None),
        (SHOP, "gid://shopify/Product/1", "gid://shopify/ProductVariant/4"),
        (SHOP, "1", "44"),
        (SHOP, "12", None),
        ("b.myshopify.com", "1", None),
    ]
    for shop, product, variant in things:
        enqueue(engine, shop, product, variant)
        for ending in ENDINGS:
            store.put(paths.stem(shop, product, variant) + ending, tmp_path / "file", "image/png")

    removed = delete.delete(engine, store, f"{SHOP}/1/4", SHOP)
    assert (removed.jobs, removed.files) == (1, 5)
    assert left(sql) == {*things} - {things[2]}

    removed = delete.delete(engine, store, f"{SHOP}/1", SHOP)
    assert (removed.jobs, removed.files) == (3, 10)
    assert left(sql) == {*things[4:]}

    removed = delete.delete(engine, store, SHOP, SHOP)
    assert (removed.jobs, removed.files) == (1, 5)
    assert left(sql) == {things[5]}
    assert store.find(SHOP) == []
    assert len(store.find("b.myshopify.com")) == 5
    # Events that were not sent speak of rows that are no more.
    assert sql.execute("SELECT count(*) FROM worker.outbox").fetchone() == (0,)
    assert delete.delete(engine, store, SHOP, SHOP) == delete.Removed(jobs=0, files=0)


def test_a_running_job_keeps_everything_until_it_has_stopped(
    engine: Engine, sql: psycopg.Connection, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "file").write_bytes(b"x")
    store.put("a/1.glb", tmp_path / "file", "image/png")
    enqueue(engine, "a", "1")
    job = queue.claim(engine, worker="host:1", lease_s=600)
    assert job
    with pytest.raises(delete.StillRunning, match=r"Nothing was deleted.*host:1"):
        delete.delete(engine, store, "a/1", "a", wait_s=0)
    assert store.find("a/1") == ["a/1.glb"]
    assert queue.renew(engine, job, lease_s=600), "it was asked to stop"

    # A worker that is no more: its lease runs out, and then nobody has the job.
    sql.execute("SELECT set_config('worker.lease', %s, false)", [str(job.lease_token)])
    sql.execute("UPDATE jobs SET lease_expires_at = now()")
    assert delete.delete(engine, store, "a/1", "a", wait_s=10) == delete.Removed(jobs=1, files=1)
    with pytest.raises(LeaseLost):
        queue.complete(engine, job, model_url="late", report={})


def test_files_that_cannot_be_removed_keep_their_rows(engine: Engine, bucket: BucketServer) -> None:
    store = SupabaseStore(bucket.url, KEY, BUCKET, wait_s=0.001)
    bucket.bucket.objects["a/1.glb"] = bucket_server.Object(b"", "", "", {})
    enqueue(engine, "a", "1")
    bucket.fault = lambda method, _path: bucket_server.html(503) if method == "DELETE" else None
    with pytest.raises(JobError, match="storage_unavailable"):
        delete.delete(engine, store, "a/1", "a")
    # A server that says yes and does nothing
    bucket.fault = lambda method, _path: (
        (lambda handler, _do: handler.answer(200, [])) if method == "DELETE" else None
    )
    with pytest.raises(JobError, match="exist again"):
        delete.delete(engine, store, "a/1", "a")
    store.storage.session.close()
    assert [row["product_id"] for row in queue.list_shop_jobs(engine, "a")] == ["1"]


def worker_delete(
    *arguments: str, url: str, folder: Path, answer: str = ""
) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"DATABASE_URL": url, "WORKER_STORAGE_DIR": str(folder), "SUPABASE_URL": ""}
    return subprocess.run(
        [sys.executable, "-m", "worker", "delete", *arguments],
        env=environment,
        input=answer,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_asks_and_takes_no_empty_name_for_everything(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    (folder / "a").mkdir(parents=True)
    (folder / "a/1.glb").touch()
    enqueue(engine, "a", "1")

    def run(*arguments: str, answer: str = "") -> "subprocess.CompletedProcess[str]":
        return worker_delete(*arguments, url=database_url, folder=folder, answer=answer)

    asked = run("--shop", "a", "1", answer="n\n")
    assert asked.returncode == 1
    assert "a/1: files 1, rows 1" in asked.stderr
    assert asked.stdout == ""
    assert run("--shop", "a", "1").returncode == 1  # nobody there to answer
    assert run("--shop", "a", "", "--yes").returncode == 2
    assert run("--shop", "a", "--json").returncode == 2
    assert (folder / "a/1.glb").exists()
    done = run("--shop", "a", "gid://shopify/Product/1", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"path": "a/1", "jobs": 1, "files": 1}
    assert list(folder.iterdir()) == []


def test_a_deletion_while_a_daemon_works_leaves_nothing_behind(
    start_daemon: StartDaemon,
    engine: Engine,
    sql: psycopg.Connection,
    held: gates.Gates,
) -> None:
    daemon = start_daemon(WORKER_LEASE_S="6")
    for variant in (None, "4"):
        queue.enqueue(engine, shop="a", product_id="1", variant_id=variant, image_urls=[held.url])
    until(lambda: sql.execute("SELECT max(progress) >= 10 FROM jobs").fetchone() == (True,))
    removed = delete.delete(engine, LocalStore(daemon.files), "a", "a")
    assert removed.jobs == 2
    held.photos.set()
    assert left(sql) == set()
    assert daemon.stop() == 0
    assert not list(daemon.files.rglob("*.glb"))
    assert not daemon.events("lane_error")
