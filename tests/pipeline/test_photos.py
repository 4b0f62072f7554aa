"""Untrusted photos, through the real daemon."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import StartDaemon, until
from sqlalchemy.engine import Engine

from worker.jobs import queue
from worker.local.server import DevServer


def test_a_daemon_in_production_asks_no_host_that_it_was_not_allowed_and_tells_no_secret(
    start_daemon: StartDaemon,
    engine: Engine,
    site: DevServer,
    photos: Callable[[str, bytes], str],
    mug: bytes,
) -> None:
    daemon = start_daemon(WORKER_PHOTO_LOOPBACK="", SUPABASE_URL="")
    inside = photos("mug.png", mug)
    refused = {
        f"{inside}?token=planted": "photo_url_refused",
        f"https://127.0.0.1:{site.server_port}/mug.png?token=planted": "photo_url_refused",
        "https://127.0.0.1/mug.png#planted": "photo_host_refused",
        "https://evil.example/mug.png?sig=planted": "photo_host_refused",
        "https://cdn.shopify.com.evil.example/mug.png?planted": "photo_host_refused",
        "https://me:planted@cdn.shopify.com/mug.png": "photo_url_refused",
        "https://me:plan/planted@cdn.shopify.com/mug.png": "photo_url_refused",
        "http://cdn.shopify.com/mug.png?token=planted": "photo_url_refused",
        "https://cdn.shopify.com:8443/mug.png?token=planted": "photo_url_refused",
    }
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=list(refused))
    row = until(lambda: next(r for r in queue.get_jobs(engine, [job])), what="the row")
    until(lambda: queue.get_jobs(engine, [job])[0]["completed_at"], what="the job to end")
    assert daemon.stop() == 0

    row = queue.get_jobs(engine, [job])[0]
    assert (row["status"], row["error_code"], row["attempts"]) == ("failed", "photo_url_refused", 1)
    reported = row["report"]["photos"]
    assert [photo["error_code"] for photo in reported] == list(refused.values())
    assert all(photo["error_message"].endswith((".", "…")) for photo in reported)
    assert reported[4]["url"] == "https://cdn.shopify.com.evil.example/mug.png"
    for text in (
        json.dumps(row["report"]),
        row["error_message"],
        daemon.log.read_text(),
        site.journal.read_text(),
    ):
        assert "planted" not in text
    until(lambda: not daemon.leftovers())


@pytest.fixture
def memory_disk() -> Iterator[Path]:
    """A folder on a file system that nobody else fills meanwhile, but for the databases of the tests beside this one."""
    if not Path("/dev/shm").is_dir() or shutil.disk_usage("/dev/shm").free < 500_000_000:
        pytest.skip("no /dev/shm with 500 MB")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


def test_a_full_disk_stops_the_claiming_until_there_is_room(
    memory_disk: Path,  # first, so that it goes after the daemon that uses it
    start_daemon: StartDaemon,
    engine: Engine,
    sql: psycopg.Connection,
) -> None:
    free_mb = shutil.disk_usage(memory_disk).free // 1_000_000
    with (memory_disk / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, 400_000_000)
    daemon = start_daemon(
        WORKER_TEMP_DIR=str(memory_disk),
        WORKER_STORAGE_DIR=str(memory_disk / "store"),  # another disk may have less room than this one
        WORKER_MIN_FREE_MB=str(free_mb - 200),
        WORKER_POLL_S="0.1",
    )
    said = daemon.wait_for("no_space")
    assert said["free_mb"] < said["needed_mb"]
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=["https://a.example/photo.jpg"])
    sql.execute("UPDATE jobs SET priority = 1")  # and nothing else happens to the row
    assert queue.get_jobs(engine, [job])[0]["status"] == "pending"
    (memory_disk / "ballast").unlink()
    daemon.wait_for("disk_recovered")
    until(lambda: queue.get_jobs(engine, [job])[0]["completed_at"])
    assert len(daemon.events("no_space")) == len(daemon.events("disk_recovered")) == 1
    assert daemon.events("job_claimed")[0]["timestamp"] > daemon.events("disk_recovered")[0]["timestamp"]
