"""Jobs whose result is known: the same photos, made the same way, for the same shop.

The models of the tests' daemons have a random colour, so two models with the same bytes are one that was made once.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import UUID

import bucket_server
import psycopg
import pytest
from bucket_server import BUCKET, BucketServer, Handler
from conftest import NUMBERS, Daemon, launch, new_database, until
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from worker.local.postgres import Postgres
from worker.local.server import DevServer, serve_folder

OBJECT = f"/storage/v1/object/{BUCKET}/"
STORED = 3  # files of a model: no turntable, no USDZ


@dataclass
class Made:
    """A job that is done."""

    row: dict[str, Any]
    content: bytes

    @property
    def id(self) -> UUID:
        return UUID(str(self.row["id"]))

    @property
    def url(self) -> str:
        return str(self.row["model_url"])

    @property
    def report(self) -> dict[str, Any]:
        return dict(self.row["metadata"]["worker"])

    @property
    def source(self) -> str | None:
        return self.report.get("cached")


class Backend:
    """What a backend does, and the photos of its shops."""

    def __init__(self, url: str, folder: Path, site: DevServer) -> None:
        self.sql = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        self.folder = folder
        self.site = site

    def photo(self, content: bytes) -> str:
        name = f"{next(NUMBERS)}.png"
        (self.folder / name).write_bytes(content)
        return f"{self.site.url}/{name}"

    def insert(self, *photos: str, **columns: Any) -> UUID:
        metadata = columns.pop("metadata", {})
        row = {"shop": "a", "product_id": "1", "image_urls": list(photos), "quality": "fast"} | columns
        names = ", ".join(row)
        found = self.sql.execute(
            f"INSERT INTO jobs ({names}, metadata) VALUES ({', '.join(['%s'] * len(row))}, %s) RETURNING id".encode(),
            [*row.values(), Jsonb(metadata)],
        ).fetchone()
        assert found
        return UUID(str(found["id"]))

    def row(self, job: UUID) -> dict[str, Any]:
        row = self.sql.execute("SELECT * FROM jobs WHERE id = %s", [job]).fetchone()
        assert row
        return row

    def ended(self, job: UUID) -> dict[str, Any]:
        """Return the job's row; empty while it has not ended."""
        row = self.row(job)
        return row if row["completed_at"] else {}

    def done(self, job: UUID) -> Made:
        row = until(lambda: self.ended(job))
        assert row["status"] == "completed", row["error_message"]
        with urlopen(row["model_url"]) as answer:
            return Made(row, answer.read())

    def make(self, *photos: str, **columns: Any) -> Made:
        return self.done(self.insert(*photos, **columns))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("known")
    (path / "site").mkdir()
    return path


@pytest.fixture(scope="module")
def bucket() -> Iterator[BucketServer]:
    with bucket_server.serve() as server:
        yield server


@pytest.fixture(autouse=True)
def faultless(bucket: BucketServer) -> Iterator[None]:
    yield
    bucket.fault = lambda _method, _path: None


@pytest.fixture(scope="module")
def database_url(postgres: Postgres) -> Iterator[str]:
    with new_database(postgres) as url:
        yield url


@pytest.fixture(scope="module")
def backend(database_url: str, folder: Path) -> Iterator[Backend]:
    with serve_folder(folder / "site", folder / "webhooks.jsonl") as site:
        backend = Backend(database_url, folder / "site", site)
        yield backend
        backend.sql.close()


def settings(bucket: BucketServer, database_url: str, u2netp: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "SUPABASE_URL": bucket.url,
        "SUPABASE_SERVICE_ROLE_KEY": bucket.key,
        "WORKER_WEIGHTS_DIR": str(u2netp),
        "WORKER_REVIEW": "always",
        "WORKER_LEASE_S": "3",
    }


@pytest.fixture(scope="module")
def daemon(database_url: str, bucket: BucketServer, folder: Path, u2netp: Path) -> Iterator[Daemon]:
    daemon = launch(folder, 0, settings(bucket, database_url, u2netp))
    daemon.wait_for("ready")
    yield daemon
    daemon.process.kill()
    daemon.process.wait()


@pytest.fixture
def photo(mug: bytes) -> bytes:
    """A photo that no other test has: bytes after the end of a PNG belong to the file."""
    return mug + str(next(NUMBERS)).encode()


def stages(daemon: Daemon, job: UUID) -> list[str]:
    return [event["stage"] for event in daemon.events("job_progress") if event["job_id"] == str(job)]


def test_the_same_job_again_makes_nothing_and_downloads_nothing_but_the_photos(
    backend: Backend, daemon: Daemon, bucket: BucketServer, photo: bytes
) -> None:
    first = backend.make(backend.photo(photo))
    assert first.source is None
    assert "generating" in stages(daemon, first.id)
    seen = len(bucket.requests)
    again = backend.make(backend.photo(photo))
    asked = bucket.requests[seen:-1]  # the last one is our own
    assert (again.url, again.row["version"], again.content) == (
        first.url,
        first.row["version"],
        first.content,
    )
    assert again.source == str(first.id)
    assert stages(daemon, again.id) == ["downloading"]
    assert {(method, path.split("/")[4]) for method, path in asked} == {("GET", "info")}
    assert len(asked) == STORED
    assert set(again.report["seconds"]) == {"download", "upload"}
    for key in ("model", "bytes", "preset", "poster_url", "cutout_url"):
        assert again.report[key] == first.report[key]
    assert again.report["photos"][0]["url"] == again.row["image_urls"][0] != first.row["image_urls"][0]
    copies = [backend.make(backend.photo(photo), product_id=product) for product in ("1", "2", "3")]
    assert {copy.source for copy in copies} == {str(first.id)}, "the one that made it"


@pytest.mark.parametrize(
    "change",
    [
        {"content": b"!"},
        {"quality": "balanced"},
        {"metadata": {"views": {"front": 0}}},
        {"metadata": {"dimensions": {"height": 1, "unit": "m"}}},
        {"shop": "b"},
        {"refresh": True},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.usefixtures("daemon")
def test_whatever_is_different_is_made(backend: Backend, photo: bytes, change: dict[str, Any]) -> None:
    first = backend.make(backend.photo(photo))
    columns = dict(change)
    other = backend.make(backend.photo(photo + columns.pop("content", b"")), **columns)
    assert other.source is None
    assert other.content != first.content


@pytest.mark.usefixtures("daemon")
def test_a_retry_makes_it_anew_and_a_rejected_model_serves_nobody(backend: Backend, photo: bytes) -> None:
    url = backend.photo(photo)
    first = backend.make(url)
    backend.sql.execute("SELECT retry_job(%s)", [first.id])
    anew = backend.done(first.id)
    assert anew.source is None
    assert anew.content != first.content
    assert backend.make(url).source == str(first.id)

    backend.sql.execute("SELECT reject_job(%s, 'too dark')", [first.id])
    third = backend.make(url)
    assert third.source is None
    assert third.content not in {first.content, anew.content}


def test_another_product_gets_a_copy_that_is_reviewed_by_itself(
    backend: Backend, daemon: Daemon, bucket: BucketServer, photo: bytes
) -> None:
    first = backend.make(backend.photo(photo))
    backend.sql.execute("SELECT approve_job(%s)", [first.id])
    until(lambda: "a/1.glb" in bucket.bucket.objects, what="the published model")
    seen = len(bucket.requests)
    copy = backend.make(backend.photo(photo), product_id="2", variant_id="7")
    assert copy.content == first.content
    assert copy.row["version"] == first.row["version"]
    assert copy.url == first.url.replace("/a/1/", "/a/2/7/")
    assert copy.source == str(first.id)
    assert copy.row["review"] == "wanted"
    assert "generating" not in stages(daemon, copy.id)
    digest = first.row["version"]
    fetched = [path for method, path in bucket.requests[seen:] if method == "GET" and path.startswith(OBJECT)]
    assert len(fetched) == STORED
    assert all(path.startswith(f"{OBJECT}a/1/v.{digest}.") for path in fetched)
    published = backend.sql.execute("SELECT stem FROM worker.published").fetchall()
    assert "a/2/7" not in [row["stem"] for row in published]


def test_a_file_that_is_missing_is_a_miss_in_the_same_attempt(
    backend: Backend, daemon: Daemon, bucket: BucketServer, photo: bytes
) -> None:
    url = backend.photo(photo)
    first = backend.make(url)
    stem = f"a/1/v.{first.row['version']}"
    del bucket.bucket.objects[f"{stem}.png"]
    anew = backend.make(url)
    assert (anew.source, anew.row["attempts"]) == (None, 1)
    assert anew.content != first.content
    assert "generating" in stages(daemon, anew.id)


def test_a_source_that_is_pruned_while_it_is_copied_is_a_miss_too(
    backend: Backend, bucket: BucketServer, photo: bytes
) -> None:
    url = backend.photo(photo)
    first = backend.make(url)
    stem = f"a/1/v.{first.row['version']}"

    def prune(method: str, path: str) -> None:
        if method == "GET" and path == f"{OBJECT}{stem}.png":
            for name in [name for name in bucket.bucket.objects if name.startswith(stem)]:
                del bucket.bucket.objects[name]

    bucket.fault = prune
    anew = backend.make(url, product_id="3")
    assert (anew.source, anew.row["attempts"]) == (None, 1)
    assert anew.content != first.content


def test_a_source_with_other_bytes_is_a_miss_too(
    backend: Backend, bucket: BucketServer, photo: bytes
) -> None:
    url = backend.photo(photo)
    first = backend.make(url)
    model = bucket.bucket.objects[f"a/1/v.{first.row['version']}.glb"]
    model.content = model.content[:-1] + b"?"
    model.metadata = {"sha256": hashlib.sha256(model.content).hexdigest()}
    anew = backend.make(url, product_id="4")
    assert (anew.source, anew.row["attempts"]) == (None, 1)
    assert anew.content not in {first.content, model.content}


@pytest.mark.parametrize("step", ["fetch", pytest.param("put", marks=pytest.mark.long)])
def test_a_daemon_that_is_killed_while_it_copies_leaves_a_job_for_another(
    backend: Backend,
    bucket: BucketServer,
    daemon: Daemon,
    photo: bytes,
    folder: Path,
    database_url: str,
    u2netp: Path,
    step: str,
) -> None:
    """Runs last, because it kills the daemon of this file."""
    used = settings(bucket, database_url, u2netp)
    victim = daemon if daemon.process.poll() is None else launch(folder, next(NUMBERS), used)
    url = backend.photo(photo)
    first = backend.make(url)
    where = {"fetch": ("GET", f"{OBJECT}a/1/v."), "put": ("POST", f"{OBJECT}a/put/v.")}[step]
    reached, over = threading.Event(), threading.Event()

    def hold(handler: Handler, do: Callable[[], Any]) -> None:
        reached.set()
        over.wait(60)
        with suppress(OSError):
            handler.answer(200, do())

    # The second file: the first one is there already.
    count = iter(range(1000))
    bucket.fault = lambda method, path: (
        hold if method == where[0] and path.startswith(where[1]) and next(count) == 1 else None
    )
    job = backend.insert(url, product_id=step)
    assert reached.wait(60)
    victim.process.kill()
    victim.process.wait()
    over.set()
    other = launch(folder, next(NUMBERS), used | {"WORKER_REVIEW": "never"})
    try:
        copy = backend.done(job)
        assert copy.content == first.content
        assert copy.source == str(first.id)
        until(lambda: f"a/{step}.glb" in bucket.bucket.objects, what="the published model")
        assert bucket.bucket.objects[f"a/{step}.glb"].content == first.content
    finally:
        other.process.kill()
        other.process.wait()
