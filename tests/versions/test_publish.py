"""Publishing and the removal of versions: in a folder and in a bucket, ended at every step, beside others, on a bad day."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bucket_server
import psycopg
import pytest
from bucket_server import FAULTS
from conftest import until
from shelf import ALL, STEM, Dying, Killed, Shelf, shelf
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs

from worker.core.settings import Settings
from worker.daemon.filework import FileWork
from worker.daemon.scratch import Scratch
from worker.database.monitor import DatabaseMonitor
from worker.storage import CONTENT_TYPES, paths
from worker.versions import queue

WITHOUT_USDZ = tuple(ending for ending in ALL if ending != ".usdz")


@pytest.fixture(params=["folder", "bucket"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, engine: Engine, sql: psycopg.Connection
) -> Iterator[Shelf]:
    with shelf(request.param, tmp_path, engine, sql) as made:
        yield made


@pytest.fixture
def bucket_place(tmp_path: Path, engine: Engine, sql: psycopg.Connection) -> Iterator[Shelf]:
    with shelf("bucket", tmp_path, engine, sql) as made:
        yield made


def of(name: str, endings: tuple[str, ...] = ALL) -> dict[str, bytes]:
    """The files of a version that says this name."""
    return {ending: f"{name}{ending}".encode() for ending in endings}


def kill_at_each_step(
    act: Callable[[Dying], object], place: Shelf, begin: Callable[[], None]
) -> Iterator[None]:
    """End `act` before and after each of its calls to the store, from the first to the last, until it comes to its end."""
    for step in itertools.count():
        at, after = divmod(step, 2)
        begin()
        store = Dying(place.store, at, after=bool(after))
        try:
            act(store)
        except Killed:
            yield
        else:
            assert at > 5 or store.calls <= at
            return


def test_a_publication_that_was_killed_at_any_step_is_completed(place: Shelf) -> None:
    before, endings = (".png", ".usdz", ".glb"), (".png", ".glb")
    old, new = place.add("old", before), place.add("new", endings)
    steps = 0

    def begin() -> None:
        place.name(old)
        assert place.publish() is True
        place.hurry()
        place.publish()
        assert (place.published(), place.state()) == (of("old", before), (old, old, False))
        place.name(new)

    for _ in kill_at_each_step(place.publish, place, begin):
        steps += 1
        assert all(
            data in {f"old{ending}".encode(), f"new{ending}".encode()}
            for ending, data in place.published().items()
        ), "each file is whole"
        assert ".glb" in place.published()
        assert place.state() == (new, None, True)
        assert place.publish() is None, "the lease still holds"
        place.hurry()
        assert place.publish() is True
        assert (place.published(), place.state()) == (of("new", endings), (new, new, True))
        # Its first try may have left a file on the way, so all are written once more.
        place.hurry()
        assert place.publish() is True
        assert (place.published(), place.state()) == (of("new", endings), (new, new, False))
    assert steps == 2 * (2 * len(endings) + 1), "each fetch, each put and the removal"
    assert place.publish() is None


def test_published_files_are_cached_shortly_and_versions_for_a_year(bucket_place: Shelf) -> None:
    digest = bucket_place.add("one")
    bucket_place.name(digest)
    assert bucket_place.publish() is True
    assert bucket_place.bucket
    for path, stored in bucket_place.bucket.bucket.objects.items():
        version = path.startswith(paths.version_stem(STEM, digest))
        assert stored.cache_control == ("max-age=31536000" if version else "max-age=60")
        assert stored.content_type == CONTENT_TYPES[f".{path.rpartition('.')[2]}"]
    order = [path for path in bucket_place.bucket.uploads() if path.startswith(f"{STEM}.")]
    assert sorted(order) == sorted(STEM + ending for ending in ALL)
    assert order[-1] == f"{STEM}.glb"


def test_what_a_frozen_daemon_writes_too_late_is_written_over(place: Shelf) -> None:
    old, new = place.add("old"), place.add("new")
    place.name(old)

    class Frozen(Dying):
        """Thaws when another daemon has published another version, and writes its file."""

        def put(self, path: str, *rest: Any, **options: Any) -> str:
            if path == f"{STEM}.glb":
                place.hurry()
                place.name(new)
                assert place.publish() is True
                assert place.published() == of("new")
            return super().put(path, *rest, **options)

    assert place.publish(Frozen(place.store, -1)) is False
    assert place.published()[".glb"] == b"old.glb"
    assert place.state() == (new, None, True), "it has noticed"
    place.hurry()
    assert place.publish() is True
    assert place.published() == of("new")
    while place.state()[2]:
        place.hurry()
        place.publish()
    assert (place.published(), place.state()) == (of("new"), (new, new, False))


def test_what_it_writes_while_the_other_one_works_is_written_over_too(place: Shelf) -> None:
    digests = place.add("old"), place.add("new")
    place.name(digests[0])

    class Frozen(Dying):
        def put(self, path: str, *rest: Any, **options: Any) -> str:
            place.hurry()
            place.name(digests[1])
            self.other = queue.take_publication(place.engine, lease_s=60)
            return super().put(path, *rest, **options)

    store = Frozen(place.store, -1)
    assert place.publish(store) is False
    assert store.other
    assert not queue.finish_publication(place.engine, store.other), "it has to write all of them once more"
    assert place.state() == (digests[1], None, True)
    assert place.publish() is True
    assert place.published() == of("new")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_publication_goes_through_a_bucket_on_a_bad_day(bucket_place: Shelf, fault: str) -> None:
    old, new = bucket_place.add("old"), bucket_place.add("new", WITHOUT_USDZ)
    bucket_place.name(old)
    assert bucket_place.publish() is True
    bucket_place.name(new)
    assert bucket_place.bucket
    every = itertools.count()
    # The client of this store waits for a second where a server hangs.
    often = 9 if "hang" in fault else 3
    bucket_place.bucket.fault = lambda _method, _path: FAULTS[fault] if next(every) % often == 0 else None
    assert bucket_place.publish() is True
    assert bucket_place.published() == of("new", WITHOUT_USDZ)
    assert bucket_place.state() == (new, new, False)


def kill_store_at_each_step(
    place: Shelf, begin: Callable[[], None], act: Callable[[], bool | None]
) -> Iterator[bool | None]:
    """End the server before and after it does each request, and start it again when `act` is over. Yield what that returned."""
    assert place.bucket
    for step in itertools.count():
        requests = itertools.count()
        at, after = divmod(step, 2)

        def fault(_method: str, _path: str) -> bucket_server.Fault | None:
            number = next(requests)  # noqa: B023 - of this step
            if number < at:  # noqa: B023
                return None
            return bucket_server.lose_answer if number == at and after else bucket_server.reset  # noqa: B023

        begin()
        place.bucket.fault = fault
        done = act()
        place.bucket.fault = lambda _method, _path: None
        yield done
        if next(requests) <= at:
            return


def test_a_publication_during_which_the_store_was_killed_is_completed(bucket_place: Shelf) -> None:
    before, endings = (".png", ".usdz", ".glb"), (".png", ".glb")
    old, new = bucket_place.add("old", before), bucket_place.add("new", endings)

    def begin() -> None:
        bucket_place.name(old)
        bucket_place.hurry()
        assert bucket_place.publish() is True
        bucket_place.name(new)
        bucket_place.hurry()

    results = []
    for done in kill_store_at_each_step(bucket_place, begin, bucket_place.publish):
        results.append(done)
        assert all(
            data in {f"old{ending}".encode(), f"new{ending}".encode()}
            for ending, data in bucket_place.published().items()
        ), "each file is whole"
        if not done:
            assert bucket_place.state() == (new, None, True)
            bucket_place.hurry()
            assert bucket_place.publish() is True
        assert (bucket_place.published(), bucket_place.state()[:2]) == (of("new", endings), (new, new))
        assert set(bucket_place.files()) == bucket_place.owned()
    assert len(results) > 2 * (3 * len(endings) + 1), "each fetch of two requests, each put and the removal"
    assert results[-1] is True
    assert not any(results[:-2])


def test_a_removal_during_which_the_store_was_killed_is_completed(bucket_place: Shelf) -> None:
    numbers = itertools.count()

    def begin() -> None:
        bucket_place.doom(bucket_place.add(f"goes {next(numbers)}"))

    results = []
    for done in kill_store_at_each_step(bucket_place, begin, bucket_place.remove):
        results.append(done)
        if not done:
            bucket_place.hurry()
            assert bucket_place.remove() is True
        assert bucket_place.files() == {}
    assert len(results) > 6
    assert results[-1] is True


def test_a_bucket_that_is_gone_leaves_what_was_published_and_is_tried_again(bucket_place: Shelf) -> None:
    old, new = bucket_place.add("old"), bucket_place.add("new")
    bucket_place.name(old)
    assert bucket_place.publish() is True
    bucket_place.name(new)
    assert bucket_place.bucket
    wait = "SELECT extract(epoch FROM next_try_at - now())::int BETWEEN %s AND %s, last_error FROM worker.published"
    bucket_place.bucket.fault = lambda _method, _path: bucket_server.html(403)
    for shortest, longest in ((7, 15), (15, 30), (30, 60)):
        with capture_logs() as lines:
            assert bucket_place.publish() is False
        assert [(line["event"], line["version"]) for line in lines if line["event"].startswith("publi")] == [
            ("publication_failed", new)
        ]
        found = bucket_place.sql.execute(wait, [shortest, longest]).fetchone()
        assert found
        assert found[0]
        assert found[1].startswith("storage_denied")
        bucket_place.hurry()
    assert bucket_place.published() == of("old")
    bucket_place.bucket.fault = lambda _method, _path: None
    assert bucket_place.publish() is True
    assert bucket_place.published() == of("new")


@pytest.mark.parametrize("harm", ["other bytes", "no file"])
def test_a_version_that_is_not_whole_is_not_published(place: Shelf, tmp_path: Path, harm: str) -> None:
    old, new = place.add("old"), place.add("new")
    place.name(old)
    assert place.publish() is True
    glb = f"{paths.version_stem(STEM, new)}.glb"
    if harm == "no file":
        place.store.remove([glb])
    else:
        (tmp_path / "file").write_bytes(b"something else")
        place.store.put(glb, tmp_path / "file", CONTENT_TYPES[".glb"])
    place.name(new)
    assert place.publish() is False
    assert place.published() == of("old")


def test_a_removal_that_was_killed_at_any_step_is_completed(place: Shelf) -> None:
    stays = place.add("stays")
    place.name(stays)
    assert place.publish() is True
    kept = place.files()
    steps = 0
    doomed: list[str] = []

    def begin() -> None:
        doomed.append(place.add(f"goes {len(doomed)}"))
        place.doom(doomed[-1])

    for _ in kill_at_each_step(place.remove, place, begin):
        steps += 1
        row = "SELECT count(*) FROM worker.versions WHERE digest = %s"
        assert place.sql.execute(row, [doomed[-1]]).fetchone() == (1,), "its row is the last to go"
        assert place.remove() is None, "the lease still holds"
        place.hurry()
        assert place.remove() is True
        assert place.files() == kept
        assert place.sql.execute(row, [doomed[-1]]).fetchone() == (0,)
    assert steps == 6, "find, remove, find"
    assert place.remove() is None
    assert place.state() == (stays, stays, False)


def test_a_removal_that_fails_is_tried_again(bucket_place: Shelf) -> None:
    digest = bucket_place.add("goes")
    bucket_place.doom(digest)
    assert bucket_place.bucket
    bucket_place.bucket.fault = lambda _method, _path: bucket_server.html(403)
    with capture_logs() as lines:
        assert bucket_place.remove() is False
    assert "removal_failed" in {line["event"] for line in lines}
    assert bucket_place.remove() is None, "not at once"
    bucket_place.hurry()
    bucket_place.bucket.fault = lambda _method, _path: None
    assert bucket_place.remove() is True
    assert bucket_place.files() == {}


def test_old_versions_are_doomed_but_not_what_is_published_or_waits_for_a_review(place: Shelf) -> None:
    published, unused, new = (place.add(name) for name in ("published", "unused", "new"))
    waiting = place.add("waiting", stem="a.example/2")
    place.name(published)
    place.sql.execute("SELECT set_config('worker.lease', 'queue', false)")
    place.sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a.example', '2', '{http://a/b}')"
    )
    place.sql.execute(
        "UPDATE jobs SET status = 'completed', progress = 100, model_url = 'http://a/b', completed_at = now(), review = 'wanted',"
        " version = %s",
        [waiting],
    )
    place.sql.execute(
        "UPDATE worker.versions SET path = worker.storage_path('a.example', '2', NULL) WHERE digest = %s",
        [waiting],
    )
    place.sql.execute(
        "UPDATE worker.versions SET used_at = now() - interval '31 d' WHERE digest <> %s", [new]
    )
    assert queue.doom(place.engine, days=32, batch=10) == (0, False)
    assert queue.doom(place.engine, days=30, batch=10) == (1, False)
    assert queue.doom(place.engine, days=30, batch=10) == (0, False)
    assert place.remove() is True
    left = place.sql.execute("SELECT digest FROM worker.versions").fetchall()
    assert {digest for (digest,) in left} == {published, new, waiting}
    assert not [path for path in place.files() if unused in path]


def test_one_thread_does_what_is_due_and_gives_back_what_it_cannot_end(
    bucket_place: Shelf, tmp_path: Path
) -> None:
    digest, gone = bucket_place.add("one"), bucket_place.add("gone")
    scratch = Scratch(tmp_path / "scratch")
    scratch.open()
    work = FileWork(
        Settings(lease_s=60),
        bucket_place.engine,
        bucket_place.store,
        scratch,
        DatabaseMonitor(bucket_place.engine, lambda: None),
    )
    work.start()
    bucket_place.name(digest)
    bucket_place.doom(gone)
    work.wake()
    until(lambda: bucket_place.state() == (digest, digest, False), what="the publication")
    until(lambda: not [path for path in bucket_place.files() if gone in path], what="the removal")
    assert bucket_place.bucket
    other = bucket_place.add("another")
    bucket_place.bucket.requests.clear()
    bucket_place.bucket.fault = lambda _method, _path: bucket_server.busy(503, "60")
    bucket_place.name(other)
    work.wake()
    until(lambda: bucket_place.bucket and bucket_place.bucket.requests, what="a try")
    work.stop(30)
    assert not work.is_alive()
    due = "SELECT token IS NULL AND next_try_at <= now() AND last_error IS NULL FROM worker.published"
    assert bucket_place.sql.execute(due).fetchone() == (True,)
    scratch.close()
