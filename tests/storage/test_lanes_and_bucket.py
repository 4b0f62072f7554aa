"""Real rows and real lanes, the real supabase client, and a bucket that fails in every way that was seen."""

import hashlib
import itertools
import queue as queues
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import bucket_server
import psycopg
import pytest
import tiny
from bucket_server import BUCKET, FAULTS, KEY, BucketServer, Fault
from conftest import StartDaemon, files_below, until
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs

from worker.compute.process import Child
from worker.compute.protocol import Done, Progress, Result, Work
from worker.core import settings
from worker.daemon.admission import Admission
from worker.daemon.context import LaneContext, Stop
from worker.daemon.filework import FileWork
from worker.daemon.lane import Lane
from worker.daemon.removal import remove_tree
from worker.daemon.scratch import Scratch
from worker.database.monitor import DatabaseMonitor
from worker.jobs import queue
from worker.jobs.wakeup import Wakeup
from worker.storage import paths
from worker.storage.supabase import SupabaseStore


@pytest.fixture
def bucket() -> Iterator[BucketServer]:
    with bucket_server.serve() as server:
        yield server


def one_in_three() -> Callable[[str, str], Fault]:
    """Of three answers the first goes wrong, in each way in turn."""
    turns, ways = itertools.count(), itertools.cycle(FAULTS.values())
    fine: Fault = lambda handler, do: handler.answer(200, do())  # noqa: E731
    return lambda _method, _path: next(ways) if next(turns) % 3 == 0 else fine


class QuickChild(Child):
    """Makes a model in no time, so that many jobs get to the bucket."""

    running = True
    outdated = False
    pid = None
    padding = b""  # makes the model larger

    def __init__(self, configured: settings.Settings, device: str) -> None:
        super().__init__(configured, device)
        self.results = queues.SimpleQueue[Result]()

    def work(self, work: Work) -> None:
        product = work.image_urls[0].rpartition("/")[2]
        for name in ("cutout.png", "poster.png", "model.glb"):
            (work.folder / name).write_bytes(content(product, name, self.padding))
        self.results.put(Done(job_id=work.job_id, report={"seconds": {}, "preset_reason": product}))

    def receive(self, timeout: float) -> Progress | Result | None:
        try:
            return self.results.get(timeout=timeout)
        except queues.Empty:
            return None

    def interrupt(self) -> None:
        pass

    def kill(self) -> None:
        pass


FILES = {".glb": "model.glb", ".png": "poster.png", ".cutout.png": "cutout.png"}


def content(product: str, name: str, padding: bytes = b"") -> bytes:
    payload = f"{name} of {product} ".encode() * 5000 + padding
    return tiny.glb(payload) if name.endswith(".glb") else tiny.png(payload)


def digest_of(product: str) -> str:
    """The name of the version that a QuickChild makes."""
    return paths.version_digest(
        {ending: hashlib.sha256(content(product, name)).hexdigest() for ending, name in FILES.items()}
    )


def rows(sql: psycopg.Connection) -> list[tuple[Any, ...]]:
    return sql.execute("SELECT product_id, status::text, model_url, error_code FROM jobs").fetchall()


@contextmanager
def lanes(
    count: int,
    store: SupabaseStore,
    engine: Engine,
    folder: Path,
    child: type[QuickChild] = QuickChild,
    wakeup: Wakeup | None = None,
) -> Iterator[FileWork]:
    """They work until the context ends, and so does the thread that completes publications."""
    stop, wakeup, scratch = Stop(), wakeup or Wakeup(), Scratch(folder)
    scratch.open()
    admission = Admission(store, scratch, None, 0)
    context = LaneContext(
        settings=settings.load(),
        engine=engine,
        store=store,
        admission=admission,
        scratch=scratch,
        monitor=DatabaseMonitor(engine, lambda: None),
        stop=stop,
        wake_sender=lambda: None,
        cancel_push_works=lambda: False,
    )
    threads = [Lane(f"cpu.{n}", child(context.settings, "cpu"), wakeup, context) for n in range(count)]
    files = FileWork(context.settings, engine, store, scratch, context.monitor)
    for thread in (*threads, files):
        thread.start()
    try:
        yield files
    finally:
        files.stop(60)
        stop.drain(0)
        wakeup.wake()
        for lane in threads:
            lane.join()
        scratch.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_POLL_S", "0.1")
    monkeypatch.setattr("worker.daemon.admission.LONGEST_S", 1.0)
    monkeypatch.setenv("WORKER_TURNTABLE", "false")


@pytest.mark.usefixtures("quick")
def test_twenty_jobs_through_a_bucket_that_fails_one_answer_in_three_in_every_way(
    bucket: BucketServer, engine: Engine, sql: psycopg.Connection, tmp_path: Path
) -> None:
    store = SupabaseStore(bucket.url, KEY, BUCKET, timeout_s=1, wait_s=0.02)
    bucket.fault = one_in_three()
    for n in range(20):
        queue.enqueue(
            engine, shop="a.myshopify.com", product_id=str(n), image_urls=[f"https://a.example/{n}"]
        )

    def all_published() -> bool:
        # What has to be tried again need not wait for it here.
        sql.execute("UPDATE jobs SET run_after = now() WHERE status = 'pending' AND run_after > now()")
        sql.execute(
            "UPDATE worker.published SET next_try_at = now() WHERE token IS NULL AND next_try_at > now()"
        )
        files.wake()
        published = (
            "SELECT count(*) = 20 FROM worker.published WHERE written = digest AND next_try_at IS NULL"
        )
        return sql.execute(published).fetchone() == (True,)

    with lanes(3, store, engine, tmp_path / "tmp") as files:
        until(all_published, 60, "all jobs to end, and their models to be published")
    store.storage.session.close()

    expected = {
        f"{stem}{ending}": content(str(n), name)
        for n in range(20)
        for stem in (f"a.myshopify.com/{n}", f"a.myshopify.com/{n}/v.{digest_of(str(n))}")
        for ending, name in FILES.items()
    }
    assert {path: stored.content for path, stored in bucket.bucket.objects.items()} == expected
    assert len(bucket.requests) > 3 * len(FAULTS)
    for product, status, url, error in rows(sql):
        path = f"a.myshopify.com/{product}/v.{digest_of(product)}.glb"
        assert (status, error) == ("completed", None)
        assert url == f"{bucket.url}/storage/v1/object/public/{BUCKET}/{path}"
        digest = hashlib.sha256(content(product, "model.glb")).hexdigest()
        assert bucket.bucket.objects[path].metadata == {"sha256": digest}
    ends = sql.execute("SELECT job_id FROM worker.outbox WHERE terminal").fetchall()
    assert Counter(Counter(ends).values()) == {1: 20}


@pytest.mark.usefixtures("quick")
def test_the_next_job_is_held_while_the_folders_of_the_last_one_are_deleted(
    bucket: BucketServer,
    engine: Engine,
    sql: psycopg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deleting, over = threading.Event(), threading.Event()

    def delete_slowly(folder: Path) -> None:
        deleting.set()
        over.wait(60)
        remove_tree(folder)

    monkeypatch.setattr("worker.daemon.scratch.remove_tree", delete_slowly)
    monkeypatch.setenv("WORKER_LEASE_S", "3")
    store = SupabaseStore(bucket.url, KEY, BUCKET, timeout_s=1, wait_s=0.02)
    for n in range(2):
        queue.enqueue(engine, shop="a", product_id=str(n), image_urls=[f"https://a.example/{n}"])

    def expires_at() -> datetime:
        found = sql.execute("SELECT lease_expires_at FROM jobs WHERE status = 'processing'").fetchone()
        assert found
        return cast("datetime", found[0])

    with lanes(1, store, engine, tmp_path / "tmp"):
        try:
            assert deleting.wait(60)
            claimed_until = expires_at()
            until(lambda: expires_at() > claimed_until, 15, "the next job's lease to be renewed")
        finally:
            over.set()
        until(lambda: [row[1] for row in rows(sql)] == ["completed"] * 2)
    store.storage.session.close()
    assert files_below(tmp_path / "tmp") == []


class UnheardChild(QuickChild):
    """Its first word does not come through, say because memory is short. Until it is killed it goes on all the same."""

    unheard = iter([True])

    def receive(self, timeout: float) -> Progress | Result | None:
        if next(self.unheard, False):
            raise MemoryError
        return super().receive(timeout)

    def kill(self) -> None:
        self.results = queues.SimpleQueue[Result]()


@pytest.mark.usefixtures("quick")
def test_what_a_child_says_of_a_job_that_was_given_up_is_not_taken_for_the_next_one_s(
    bucket: BucketServer,
    engine: Engine,
    sql: psycopg.Connection,
    tmp_path: Path,
) -> None:
    store = SupabaseStore(bucket.url, KEY, BUCKET, timeout_s=1, wait_s=0.02)
    for n in range(2):
        queue.enqueue(engine, shop="a", product_id=str(n), image_urls=[f"https://a.example/{n}"])

    def all_completed() -> bool:
        sql.execute("UPDATE jobs SET run_after = now() WHERE status = 'pending' AND run_after > now()")
        return {row[1] for row in rows(sql)} == {"completed"}

    with lanes(1, store, engine, tmp_path / "tmp", UnheardChild):
        until(all_completed)
    store.storage.session.close()
    said = sql.execute(
        "SELECT product_id, metadata #>> '{worker,preset_reason}', attempts FROM jobs ORDER BY 1"
    ).fetchall()
    assert said == [("0", "0", 2), ("1", "1", 1)]


class HijackedChild(QuickChild):
    """Leaves a link to a file of the daemon's user in place of its first model."""

    kills = 0

    def work(self, work: Work) -> None:
        super().work(work)
        if not HijackedChild.kills:
            (work.folder / "model.glb").rename(work.folder / "other.glb")
            (work.folder / "model.glb").symlink_to(work.folder / "other.glb")

    def kill(self) -> None:
        HijackedChild.kills += 1


@pytest.mark.usefixtures("quick")
def test_a_child_that_leaves_a_link_is_ended_and_the_lane_goes_on(
    bucket: BucketServer, engine: Engine, sql: psycopg.Connection, tmp_path: Path
) -> None:
    store = SupabaseStore(bucket.url, KEY, BUCKET, timeout_s=1, wait_s=0.02)
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=["https://a.example/1"])
    wakeup = Wakeup()
    with lanes(1, store, engine, tmp_path / "tmp", HijackedChild, wakeup), capture_logs() as lines:
        until(lambda: rows(sql)[0][3] == "internal_error")
        assert (HijackedChild.kills, bucket.bucket.objects) == (1, {})
        sql.execute("UPDATE jobs SET run_after = now()")
        wakeup.wake()  # as the upkeep does for a job that is due
        until(lambda: rows(sql)[0][1] == "completed")
    store.storage.session.close()
    assert queue.get_jobs(engine, [job])[0]["attempts"] == 2
    said = [line["reason"] for line in lines if line["event"] == "child_file_refused"]
    assert len(said) == 1
    assert said[0].startswith("model.glb: ")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("why", ["down", "key"])
def test_while_the_bucket_does_not_work_no_job_loses_its_attempts(
    bucket: BucketServer, engine: Engine, sql: psycopg.Connection, tmp_path: Path, why: str
) -> None:
    store = SupabaseStore(bucket.url, KEY, BUCKET, timeout_s=1, wait_s=0.001)
    wrong = FAULTS["503 of a gateway"] if why == "down" else bucket_server.refusal("403", "Unauthorized")
    bucket.fault = lambda _method, _path: wrong
    for n in range(5):
        queue.enqueue(engine, shop="a", product_id=str(n), image_urls=[f"https://a.example/{n}"])
    with lanes(1, store, engine, tmp_path / "tmp"), capture_logs() as lines:
        until(lambda: len([line for line in lines if line["event"] == "store_unavailable"]) >= 2)
        code = "storage_unavailable" if why == "down" else "storage_denied"
        counted = "SELECT status::text, attempts, error_code, count(*) FROM jobs GROUP BY 1, 2, 3 ORDER BY 2"
        assert sql.execute(counted).fetchall() == [("pending", 0, None, 4), ("pending", 1, code, 1)]
        bucket.fault = lambda _method, _path: None
        sql.execute("UPDATE jobs SET run_after = now()")
        until(lambda: {row[1] for row in rows(sql)} == {"completed"})
    store.storage.session.close()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("why", ["size", "type"])
def test_a_job_whose_model_is_refused_leaves_the_files_of_the_model_before_it(
    bucket: BucketServer, engine: Engine, tmp_path: Path, why: str
) -> None:
    store = SupabaseStore(bucket.url, KEY, BUCKET, timeout_s=1, wait_s=0.001)
    before = bucket_server.Object(b"the model before", "", "", {})
    bucket.bucket.objects = dict.fromkeys(["a/1.glb", "a/1.png", "a/1.cutout.png"], before)
    if why == "size":
        # Only the model, which is stored last, is too large.
        bucket.bucket.file_size_limit = max(len(content("1", n)) for n in ("cutout.png", "poster.png")) + 1
        QuickChild.padding = b"x" * bucket.bucket.file_size_limit
    else:
        bucket.bucket.allowed_mime_types = ["image/png"]
    try:
        job = queue.enqueue(engine, shop="a", product_id="1", image_urls=["https://a.example/1"])
        with lanes(1, store, engine, tmp_path / "tmp"):
            until(lambda: queue.get_jobs(engine, [job])[0]["completed_at"])
    finally:
        QuickChild.padding = b""
    store.storage.session.close()
    (row,) = queue.get_jobs(engine, [job])
    assert (row["status"], row["error_code"]) == (
        "failed",
        "storage_too_large" if why == "size" else "storage_refused",
    )
    assert bucket.uploads() == []
    assert set(map(id, bucket.bucket.objects.values())) == {id(before)}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("moment", ["before the first file is stored", "while files are stored"])
def test_a_cancel_leaves_what_is_published_as_it_was(
    bucket: BucketServer, engine: Engine, tmp_path: Path, moment: str
) -> None:
    store = SupabaseStore(bucket.url, KEY, BUCKET, timeout_s=5, wait_s=0.001)
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=["https://a.example/1"])
    version = f"a/1/v.{digest_of('1')}"
    last_request = {
        "before the first file is stored": ("GET", f"/bucket/{BUCKET}"),
        "while files are stored": ("POST", f"/{version}.png"),
    }[moment]

    def cancel(method: str, path: str) -> Fault | None:
        if method == last_request[0] and path.endswith(last_request[1]):
            queue.request_cancel(engine, job)
        return None

    bucket.fault = cancel
    with lanes(1, store, engine, tmp_path / "tmp"):
        until(lambda: queue.get_jobs(engine, [job])[0]["completed_at"])
    store.storage.session.close()
    assert queue.get_jobs(engine, [job])[0]["status"] == "cancelled"
    stored = [path for path in bucket.uploads() if not path.startswith(f"{version}.")]
    assert stored == []
    assert bool(bucket.uploads()) == (moment == "while files are stored")


def test_after_one_failed_upload_the_store_is_checked_at_once_and_a_long_outage_costs_seconds(
    bucket: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("worker.daemon.admission.time.monotonic", lambda: now[0])
    store = SupabaseStore(bucket.url, KEY, BUCKET, timeout_s=1, wait_s=0.001)
    scratch = Scratch(tmp_path)
    gate = Admission(store, scratch, None, 0)
    gate.close()
    assert gate.check(), "the store works, and nothing waits"

    bucket.fault = lambda _method, _path: FAULTS["503 of a gateway"]
    gate.close()
    for _ in range(60):
        now[0] += 1
        assert not gate.check()
    bucket.fault = lambda _method, _path: None
    asked = now[0]
    while not gate.check():
        now[0] += 1
    assert now[0] - asked <= 10
    scratch.close()
    store.storage.session.close()


def supabase(bucket: BucketServer, **others: str) -> dict[str, str]:
    return {
        "WORKER_STORAGE_DIR": "",
        "SUPABASE_URL": bucket.url,
        "SUPABASE_SERVICE_ROLE_KEY": bucket.key,
        "WORKER_LEASE_S": "3",
        "WORKER_POLL_S": "0.5",
        **others,
    }


@pytest.mark.long  # the kill matrix has its short form
def test_the_daemon_itself_killed_between_upload_and_commit_then_through_a_failing_private_bucket(
    bucket: BucketServer,
    start_daemon: StartDaemon,
    engine: Engine,
    sql: psycopg.Connection,
    photos: Callable[[str, bytes], str],
    mug: bytes,
    tmp_path: Path,
) -> None:
    bucket.key = "sb_secret_planted-key"
    photo = photos("mug.png", mug) + "?token=planted-photo-token"

    # Held where everything is uploaded and nothing is committed: at the row's step to 95.
    sql.execute("""
        CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_advisory_lock(7); PERFORM pg_advisory_unlock(7); RETURN NEW;
        END $$""")
    sql.execute(
        "CREATE TRIGGER a_hold BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.progress = 95) EXECUTE FUNCTION hold()"
    )
    sql.execute("SELECT pg_advisory_lock(7)")
    first = start_daemon(**supabase(bucket))
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=[photo], quality="fast")
    waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    held = until(lambda: sql.execute(waiting).fetchone(), 60, "the upload's end")
    first.process.kill()
    first.process.wait()
    sql.execute("SELECT pg_terminate_backend(%s)", held)
    sql.execute("DROP TRIGGER a_hold ON jobs")
    sql.execute("SELECT pg_advisory_unlock(7)")
    (left,) = bucket.uploads(".glb")
    assert left.startswith("a/1/v.")
    assert queue.get_jobs(engine, [job])[0]["status"] == "processing"
    bucket.bucket.objects["a/1.glb"] = bucket_server.Object(b"an older model", "", "", {})

    bucket.bucket.public = False
    second = start_daemon(
        **supabase(
            bucket,
            SUPABASE_SERVICE_ROLE_KEY="",
            SUPABASE_SECRET_KEY=bucket.key,
            WORKER_SIGNED_URL_S="3600",
            WORKER_STORAGE_TIMEOUT_S="1",
            WORKER_LEASE_S="10",
        )
    )
    bucket.fault = one_in_three()
    variant = queue.enqueue(
        engine, shop="a", product_id="1", variant_id="4", image_urls=[photo], quality="fast"
    )
    jobs = [job, variant]

    def all_ended() -> bool:
        sql.execute("UPDATE jobs SET run_after = now() WHERE status = 'pending' AND run_after > now()")
        return all(row["completed_at"] for row in queue.get_jobs(engine, jobs))

    until(all_ended, 90, "all jobs to end")
    published = "SELECT count(*) = 2 FROM worker.published WHERE written = digest"
    until(lambda: sql.execute(published).fetchone() == (True,), 90, "the models to be published")
    for stem, row in zip(("a/1", "a/1/4"), queue.get_jobs(engine, jobs), strict=True):
        model = bucket.bucket.objects[f"{stem}.glb"]
        digest = hashlib.sha256(model.content).hexdigest()
        assert row["status"] == "completed", row
        assert model.content.startswith(b"glTF")
        assert model.metadata == {"sha256": digest}
        start = f"{bucket.url}/storage/v1/object/sign/{BUCKET}/"
        version, _, query = row["model_url"].removeprefix(start).partition("?")
        assert query.startswith("token=")
        assert bucket.bucket.objects[version].content == model.content
        assert {path for path in bucket.bucket.objects if path.startswith(f"{stem}.")} == {
            f"{stem}.glb",
            f"{stem}.png",
            f"{stem}.cutout.png",
        }
    assert queue.get_jobs(engine, [job])[0]["attempts"] == 2
    assert second.stop() == 0
    assert second.events("storage_retry")

    # The key, and the tokens of addresses, are in no log and in no file.
    token = queue.get_jobs(engine, [job])[0]["model_url"].partition("token=")[2][:40]
    log = first.log.read_text() + second.log.read_text()
    for secret in ("planted", token, "token="):
        assert secret not in log
    assert not [path for path in (tmp_path / "tmp").rglob("*") if path.is_file() and path.name != ".lock"]
    dump = sql.execute("SELECT to_jsonb(jobs) - 'image_urls' FROM jobs").fetchall()
    assert "planted" not in str(dump)


def test_a_start_waits_for_a_bucket_that_is_down_and_ends_where_it_is_wrong(
    bucket: BucketServer, start_daemon: StartDaemon
) -> None:
    bucket.fault = lambda _method, _path: FAULTS["503 of a gateway"]
    daemon = start_daemon(ready=False, **supabase(bucket))
    assert "503" in daemon.wait_for("storage_unreachable")["reason"]
    bucket.bucket.public = False
    bucket.fault = lambda _method, _path: None
    assert daemon.process.wait(60) == 78
    last = daemon.log.read_text().splitlines()[-1]
    assert last.startswith('error: The bucket "3d-models" is private')
    assert daemon.events("child_ready") == []
