"""Daemons that are killed while they publish or remove a version: the next one completes it from the bucket."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import bucket_server
import psycopg
import pytest
from bucket_server import BUCKET, BucketServer, Fault
from conftest import Daemon, StartDaemon, until
from shelf import STEM, Shelf, shelf
from sqlalchemy.engine import Engine

from worker.jobs import queue

OBJECT = f"/storage/v1/object/{BUCKET}"
ENDINGS = (".cutout.png", ".png", ".glb")


@pytest.fixture
def place(tmp_path: Path, engine: Engine, sql: psycopg.Connection) -> Iterator[Shelf]:
    with shelf("bucket", tmp_path, engine, sql) as made:
        yield made


class Trap:
    """Kills a daemon with SIGKILL at a request to the bucket, before or after the bucket does it."""

    def __init__(self, bucket: BucketServer, method: str, path: str, *, after: bool) -> None:
        self.bucket = bucket
        self.method = method
        self.path = path
        self.after = after
        self.daemon: Daemon | None = None
        self.sprung = threading.Event()
        bucket.fault = self._watch

    def _watch(self, method: str, path: str) -> Fault | None:
        meant = (method, path) == (self.method, self.path) and not self.sprung.is_set()
        return self._spring if meant and self.daemon else None

    def _spring(self, handler: bucket_server.Handler, do: Callable[[], object]) -> None:
        assert self.daemon
        if self.after:
            do()
        self.daemon.process.kill()
        self.daemon.process.wait()
        self.sprung.set()
        handler.drop()


def cells(*requests: tuple[str, str], short: int | None = None) -> list[object]:
    """Each request, before and after it is done; at most one of them in the short form, since test_publish.py has all steps."""
    all_cells = [(*request, after) for request in requests for after in (False, True)]
    return [
        pytest.param(*cell, marks=() if n == short else pytest.mark.long) for n, cell in enumerate(all_cells)
    ]


def start(start_daemon: StartDaemon, bucket: BucketServer) -> Daemon:
    return start_daemon(
        WORKER_STORAGE_DIR="",
        SUPABASE_URL=bucket.url,
        SUPABASE_SERVICE_ROLE_KEY=bucket.key,
        WORKER_LEASE_S="3",
        WORKER_POLL_S="0.5",
    )


def check_what_is_stored(place: Shelf, digest: str) -> None:
    """Each published file is that of the version that the database names, and no file belongs to nothing."""
    until(lambda: place.state()[:2] == (digest, digest), what="the publication")
    files = place.files()
    stored = place.sql.execute("SELECT files FROM worker.versions WHERE digest = %s", [digest]).fetchone()
    assert stored
    assert place.published() == {ending: files[f"{STEM}/v.{digest}{ending}"] for ending in stored[0]}
    assert set(files) == place.owned()


PUTS = [("POST", f"{OBJECT}/{STEM}{ending}") for ending in ENDINGS]
GETS = [f"{STEM}/v.{{digest}}{ending}" for ending in ENDINGS]


@pytest.mark.parametrize(("method", "path", "after"), cells(*PUTS, ("DELETE", OBJECT), short=5))
def test_a_daemon_that_is_killed_after_its_job_leaves_the_publication_to_another(
    place: Shelf,
    start_daemon: StartDaemon,
    photos: object,
    mug: bytes,
    method: str,
    path: str,
    *,
    after: bool,
) -> None:
    assert callable(photos)
    assert place.bucket
    old = place.add("old", (".png", ".usdz", ".glb"))
    place.name(old)
    assert place.publish() is True
    trap = Trap(place.bucket, method, path, after=after)
    trap.daemon = start(start_daemon, place.bucket)
    job = queue.enqueue(
        place.engine, shop="a.example", product_id="1", image_urls=[photos("mug.png", mug)], quality="fast"
    )
    assert trap.sprung.wait(60)
    row = place.sql.execute(
        "SELECT status::text, attempts, version FROM jobs WHERE id = %s", [job]
    ).fetchone()
    assert row
    assert row[:2] == ("completed", 1)
    files = place.files()
    for ending, data in place.published().items():
        assert data in {f"old{ending}".encode(), files.get(f"{STEM}/v.{row[2]}{ending}")}, "whole"
    daemon = start(start_daemon, place.bucket)
    check_what_is_stored(place, row[2])
    assert daemon.wait_for("version_published")["version"] == row[2]
    assert not daemon.events("job_claimed")


@pytest.mark.parametrize(
    ("method", "path", "after"),
    cells(
        *(("GET", f"/storage/v1/object/info/{BUCKET}/{path}") for path in GETS),
        *(("GET", f"{OBJECT}/{path}") for path in GETS),
        *PUTS,
        ("DELETE", OBJECT),
    ),
)
def test_a_daemon_that_is_killed_while_it_completes_a_publication_leaves_it_to_another(
    place: Shelf, start_daemon: StartDaemon, method: str, path: str, *, after: bool
) -> None:
    assert place.bucket
    place.name(place.add("old"))
    assert place.publish() is True
    digest = place.add("new", ENDINGS)
    trap = Trap(place.bucket, method, path.format(digest=digest), after=after)
    trap.daemon = start(start_daemon, place.bucket)
    place.name(digest)
    assert trap.sprung.wait(60)
    start(start_daemon, place.bucket)
    check_what_is_stored(place, digest)


@pytest.mark.parametrize(
    ("method", "path", "after"),
    cells(("POST", f"/storage/v1/object/list/{BUCKET}"), ("DELETE", OBJECT)),
)
def test_a_daemon_that_is_killed_while_it_removes_a_version_leaves_it_to_another(
    place: Shelf, start_daemon: StartDaemon, method: str, path: str, *, after: bool
) -> None:
    assert place.bucket
    kept = place.add("kept")
    place.name(kept)
    assert place.publish() is True
    gone = place.add("gone")
    trap = Trap(place.bucket, method, path, after=after)
    trap.daemon = start(start_daemon, place.bucket)
    place.doom(gone)
    assert trap.sprung.wait(60)
    start(start_daemon, place.bucket)
    until(lambda: place.sql.execute("SELECT count(*) FROM worker.versions").fetchone() == (1,))
    check_what_is_stored(place, kept)
