"""Erasure: everything of a shop or a product goes, whatever happens meanwhile, and nothing of another."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import bucket_server
import psycopg
import pytest
import shops
from bucket_server import FAULTS, BucketServer
from conftest import connected, until
from shelf import STEM, Dying
from shelf import shelf as shelf_of_one_product
from shops import Shelf
from sqlalchemy.engine import Engine

from worker.jobs import queue
from worker.jobs.queue import LeaseLost
from worker.storage import paths
from worker.storage.local import LocalStore
from worker.versions import erase, prune
from worker.versions import queue as versions

SHOP = "a.myshopify.com"
OTHER = "b.myshopify.com"


@pytest.fixture(autouse=True)
def no_wait_for_late_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase, "QUIET_S", 0.0)


@pytest.fixture
def bucket() -> Iterator[BucketServer]:
    with bucket_server.serve() as server:
        yield server


@pytest.fixture(params=["folder", "bucket"])
def shelf(request: pytest.FixtureRequest) -> Shelf:
    """A store of each kind."""
    found = request.getfixturevalue("folder" if request.param == "folder" else "remote")
    assert isinstance(found, Shelf)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Shelf:
    (tmp_path / "store").mkdir()
    return Shelf(tmp_path / "store", None)


@pytest.fixture
def remote(bucket: BucketServer) -> Iterator[Shelf]:
    shelf = Shelf(None, bucket)
    yield shelf
    shelf.close()


def erasures(sql: psycopg.Connection) -> list[dict[str, object]]:
    rows = sql.execute("SELECT to_jsonb(e) FROM worker.erasures e ORDER BY requested_at").fetchall()
    return [row[0] for row in rows]


def events(sql: psycopg.Connection) -> list[dict[str, object]]:
    rows = sql.execute("SELECT body FROM worker.outbox WHERE type = 'shop.erased' ORDER BY seq").fetchall()
    return [json.loads(row[0]) for row in rows]


@pytest.mark.parametrize(
    ("shop", "others"),
    [
        (SHOP, [OTHER, "a", "a.myshopify.com.au", "A.myshopify.com", "xa.myshopify.com"]),
        ("a%", ["a", "ab", "a%b", "a_", "a%/b"]),
        ("_", ["a", "__", "%", "=5F", "_."]),
        (".hidden/ü'\"\\", [".hidden", "hidden", ".hidden/ü"]),
    ],
)
def test_nothing_of_a_shop_is_left_and_all_of_the_others(
    shelf: Shelf, engine: Engine, sql: psycopg.Connection, shop: str, others: list[str]
) -> None:
    for each in others:
        shops.furnish(sql, shelf, each, products=1)
    before, files = shops.texts(sql), shelf.files()
    shops.furnish(sql, shelf, shop)
    shops.supersede(sql, shop, *others)
    its_files = shelf.files() - files
    jobs, versions, its_events = (
        sql.execute(f"SELECT count(*)::int FROM {table} WHERE shop = %s".encode(), [shop]).fetchone()
        for table in ("jobs", "worker.versions", "worker.outbox")
    )
    assert jobs
    assert versions
    assert its_events

    erasure = shops.forget(sql, shop)
    shops.finish(engine, shelf.open(), sql)

    assert shelf.files() == files
    after = shops.texts(sql)
    counts = {"jobs": jobs[0], "versions": versions[0], "files": len(its_files), "events": its_events[0]}
    [line] = erasures(sql)
    left = {key: value for key, value in line.items() if value is not None}
    assert left.pop("done_at")
    assert left.pop("requested_at")
    assert left.pop("tries")
    assert left == {"id": str(erasure), **counts}
    [event] = events(sql)
    assert event == {"erasureId": str(erasure), "seq": event["seq"], **counts}
    # All that is there was there before the shop came, but for these lines.
    new_lines = {"worker.outbox": 1, "worker.erasures": 1, "worker.superseded": len(others)}
    for table, rows in before.items():
        new = [text for text in after[table] if text not in rows]
        if table == "worker.shop_changes":  # what the shop has used, without its name
            new_lines[table] = sum(text.startswith('("",') for text in new)
        assert len(after[table]) == len(rows) + len(new), f"{table} has lost rows of others"
        assert len(new) == new_lines.get(table, 0), new
    assert sql.execute("SELECT message FROM worker.superseded WHERE message = %s", [shop]).fetchall() == []


def test_a_product_goes_with_its_variants_and_a_variant_alone(
    shelf: Shelf, engine: Engine, sql: psycopg.Connection
) -> None:
    things = [
        ("1", None),
        ("gid://shopify/Product/1", None),
        ("gid://shopify/Product/1", "gid://shopify/ProductVariant/4"),
        ("1", "v"),
        ("1", "44"),
        ("12", None),
        ("12", "1"),
        ("gid://x/2", None),
    ]
    jobs = []
    for product, variant in things:
        jobs.append(shops.insert(sql, SHOP, product, variant))
        shops.move(sql, jobs[-1], "completed")
        shops.add_version(sql, shelf, jobs[-1])
    shops.furnish(sql, shelf, OTHER)
    untouched = shelf.files()

    def left() -> set[UUID]:
        return {row[0] for row in sql.execute("SELECT id FROM jobs WHERE shop = %s", [SHOP])}

    def forgotten(product: str, variant: str | None) -> tuple[set[UUID], set[str]]:
        """Return the jobs and the files that have gone."""
        rows, files = left(), shelf.files()
        erase.begin(engine, SHOP, product, variant)
        shops.finish(engine, shelf.open(), sql)
        return rows - left(), files - shelf.files()

    rows, files = forgotten("1", "v")
    assert rows == {jobs[3]}
    assert len(files) == 10
    assert all(file.startswith((f"{SHOP}/1/v.", f"{SHOP}/1/v/")) for file in files)
    assert not [file for file in files if file.startswith(f"{SHOP}/1/v.") and file.count(".") > 4]
    rows, files = forgotten("gid://shopify/Product/1", "4")
    assert rows == {jobs[2]}
    assert {file for file in untouched if file.startswith((f"{SHOP}/1/4.", f"{SHOP}/1/4/"))} == files
    shops.forget(sql, SHOP, "gid://shopify/Product/1")
    shops.finish(engine, shelf.open(), sql)
    assert left() == set(jobs[5:])
    assert shelf.files() == {file for file in untouched if not file.startswith((f"{SHOP}/1.", f"{SHOP}/1/"))}
    assert [line["jobs"] for line in erasures(sql)] == [1, 1, 3]


def test_what_comes_after_the_call_stays(shelf: Shelf, engine: Engine, sql: psycopg.Connection) -> None:
    """Also what the same transaction inserts, and what a job stores of which the erasure does not know yet."""
    shops.furnish(sql, shelf, SHOP)
    with sql.transaction():
        before = shops.insert(sql, SHOP, "0")
        shops.forget(sql, SHOP)
        later = [shops.insert(sql, SHOP, product) for product in ("0", "1", "new")]
        shops.move(sql, later[0], "completed")
        stored = shops.add_version(sql, shelf, later[0])
        shops.move(sql, later[1], "completed")
        unpublished = shops.add_version(sql, shelf, later[1], published=False)
        if shelf.folder:
            shelf.put(f"{SHOP}/1/.v.{unpublished[-32:]}.glb.draft")
    shops.finish(engine, shelf.open(), sql)
    assert {row[0] for row in sql.execute("SELECT id FROM jobs")} == {*later} - {before}
    published = paths.stem(SHOP, "0")
    expected = {stem + ending for stem in (stored, unpublished, published) for ending in shops.ENDINGS}
    assert {file for file in shelf.files() if not file.endswith(".draft")} == expected
    assert len(shelf.files()) == len(expected) + bool(shelf.folder)
    versions = sql.execute("SELECT job_id FROM worker.versions ORDER BY job_id").fetchall()
    assert versions == sorted((job,) for job in later[:2])
    assert sql.execute("SELECT job_id FROM worker.published").fetchall() == [(later[0],)]
    kept = sql.execute("SELECT count(*) FROM worker.outbox WHERE job_id = ANY (%s)", [later]).fetchone()
    assert kept
    assert kept[0] > 0
    # It is due as before, and may be forgotten in its turn.
    assert sql.execute("SELECT id FROM worker.claim_job('w', 'h', '{default}', '', 60, NULL)").fetchone()
    sql.execute("DELETE FROM jobs WHERE status = 'processing'")
    shops.forget(sql, SHOP)
    shops.finish(engine, shelf.open(), sql)
    assert shops.traces(sql, shelf, SHOP) == []


def test_a_version_that_a_later_job_has_made_again_stays(
    shelf: Shelf, engine: Engine, sql: psycopg.Connection
) -> None:
    first = shops.insert(sql, SHOP)
    shops.move(sql, first, "completed")
    stem = shops.add_version(sql, shelf, first, content="same")
    shops.forget(sql, SHOP)
    again = shops.insert(sql, SHOP)
    shops.move(sql, again, "completed")
    assert shops.add_version(sql, shelf, again, content="same", published=False) == stem
    shops.finish(engine, shelf.open(), sql)
    assert shelf.files() == {stem + ending for ending in shops.ENDINGS}


def test_running_jobs_and_publications_are_waited_for(
    folder: Shelf, engine: Engine, sql: psycopg.Connection
) -> None:
    job_id = shops.insert(sql, SHOP)
    shops.insert(sql, SHOP)
    job = queue.claim(engine, worker="w", lease_s=600)
    assert job
    assert job.id == job_id
    shops.add_version(sql, folder, job_id)
    sql.execute("UPDATE worker.published SET token = gen_random_uuid(), next_try_at = now() + interval '1 h'")
    shops.forget(sql, SHOP)
    store = folder.open()

    def rounds() -> list[bool]:
        shops.expire(sql)
        work = erase.take(engine)
        assert work
        return [erase.carry_out(engine, store, work)]

    assert rounds() == [False]
    assert queue.renew(engine, job, lease_s=600), "it was asked to stop"
    assert len(folder.files()) == 10
    assert sql.execute("SELECT status::text FROM jobs").fetchall() == [("processing",)], "no other is claimed"
    queue.cancel(engine, job)
    assert rounds() == [False], "somebody writes the published files"
    assert len(folder.files()) == 10
    sql.execute(
        "UPDATE worker.published SET next_try_at = now() - interval '1 s'"
    )  # a daemon that is no more
    assert rounds() == [True]
    assert shops.traces(sql, folder, SHOP) == []


def test_a_job_of_a_frozen_worker_is_ended_and_its_worker_learns_of_it(
    folder: Shelf, engine: Engine, sql: psycopg.Connection
) -> None:
    shops.insert(sql, SHOP)
    job = queue.claim(engine, worker="w", lease_s=0.05)
    assert job
    shops.forget(sql, SHOP)
    shops.finish(engine, folder.open(), sql)
    assert sql.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    with pytest.raises(LeaseLost):
        queue.renew(engine, job, lease_s=60)


def test_a_row_that_is_locked_or_queued_again_meanwhile_goes_too(
    folder: Shelf, engine: Engine, sql: psycopg.Connection, database_url: str
) -> None:
    locked, again = shops.insert(sql, SHOP, "1"), shops.insert(sql, SHOP, "2")
    for job in (locked, again):
        shops.move(sql, job, "failed")
    shops.forget(sql, SHOP)
    with psycopg.connect(database_url) as app:
        app.execute("UPDATE jobs SET priority = 3 WHERE id = %s", [locked])
        work = erase.take(engine)
        assert work
        assert not erase.carry_out(engine, folder.open(), work)
        assert sql.execute("SELECT id FROM jobs").fetchall() == [(locked,)]
        app.commit()
    assert sql.execute("SELECT retry_job(%s)", [locked]).fetchone() == (True,)
    shops.finish(engine, folder.open(), sql)
    assert shops.traces(sql, folder, SHOP) == []


def test_killed_at_each_step_again_and_again(
    shelf: Shelf, engine: Engine, sql: psycopg.Connection, database_url: str
) -> None:
    """Each process goes on where the one before it was killed, and comes a step further."""
    shops.furnish(sql, shelf, OTHER)
    other = shops.texts(sql), shelf.files()
    shops.furnish(sql, shelf, SHOP, products=1)
    count = len(shelf.files() - other[1])
    erasure = shops.forget(sql, SHOP)
    engine.dispose()  # no connection of ours in the processes that begin here
    kills = 0
    every = 1 if shelf.folder else 4  # the statements are the same
    while shops.run_until_killed(database_url, shelf, kills * every):
        kills += 1
        shops.expire(sql)
    assert kills * every > 12, "each statement has two steps"
    _check_only_the_other_is_left(sql, shelf, other)
    [line] = erasures(sql)
    assert (line["id"], line["files"]) == (str(erasure), count)
    assert [event["erasureId"] for event in events(sql)] == [str(erasure)]


@pytest.mark.long
def test_killed_once_at_each_step_with_300_rows(
    shelf: Shelf, engine: Engine, sql: psycopg.Connection, database_url: str
) -> None:
    """Each time a shop with all its rows, files and events. Most steps are those of single files."""
    shops.furnish(sql, shelf, OTHER)
    first = 1 if shelf.folder else 0  # before the statements with one store, after them with the other
    for step in [*range(first, 50, 2), *range(51, 2000, 131)]:
        other = shops.texts(sql), shelf.files()
        shops.furnish(sql, shelf, SHOP, products=75)
        assert sql.execute("SELECT count(*) >= 300 FROM jobs WHERE shop = %s", [SHOP]).fetchone() == (True,)
        shops.forget(sql, SHOP)
        engine.dispose()
        killed = shops.run_until_killed(database_url, shelf, step)
        shops.expire(sql)
        shops.finish(engine, shelf.open(), sql)
        _check_only_the_other_is_left(sql, shelf, other)
        if not killed:
            break
    assert step > 100
    assert not killed


def _check_only_the_other_is_left(
    sql: psycopg.Connection, shelf: Shelf, other: tuple[dict[str, list[str]], set[str]]
) -> None:
    assert shops.traces(sql, shelf, SHOP) == []
    assert shelf.files() == other[1]
    after = shops.texts(sql)
    for table, rows in other[0].items():
        assert set(rows) <= set(after[table])


def test_shop_and_product_at_once_and_twice(shelf: Shelf, sql: psycopg.Connection, database_url: str) -> None:
    shops.furnish(sql, shelf, OTHER)
    files = shelf.files()
    shops.furnish(sql, shelf, SHOP, products=4)
    jobs = sql.execute("SELECT count(*) FROM jobs WHERE shop = %s", [SHOP]).fetchone()
    asked = [
        shops.forget(sql, SHOP),
        shops.forget(sql, SHOP, "0"),
        shops.forget(sql, SHOP),
        shops.forget(sql, SHOP, "1"),
    ]

    def work() -> bool:
        with connected(database_url) as own:
            store = shelf.open()
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                while taken := erase.take(own):
                    erase.carry_out(own, store, taken)
                if all(erase.get(own, each)["done"] for each in asked):
                    return True
                time.sleep(0.05)
        return False

    with ThreadPoolExecutor(3) as pool:
        assert [future.result() for future in [pool.submit(work) for _ in range(3)]] == [True] * 3
    assert shops.traces(sql, shelf, SHOP) == []
    assert shelf.files() == files
    found = events(sql)
    assert sorted(str(each) for each in asked) == sorted(str(event["erasureId"]) for event in found)
    assert jobs == (sum(int(str(event["jobs"])) for event in found),)


@pytest.mark.parametrize("fault", [name for name in FAULTS if "hang" not in name and name != "slow"])
def test_a_store_that_fails_during_the_removal(
    bucket: BucketServer, remote: Shelf, engine: Engine, sql: psycopg.Connection, fault: str
) -> None:
    """A fault that passes is waited out, one that stays keeps the erasure open until the store is well again."""
    shelf = remote
    shops.furnish(sql, shelf, OTHER, products=1)
    files = shelf.files()
    shops.furnish(sql, shelf, SHOP, products=1)
    erasure = shops.forget(sql, SHOP)
    bucket.fault = lambda method, _path: FAULTS[fault] if method == "DELETE" else None
    work = erase.take(engine)
    assert work
    assert not erase.carry_out(engine, shelf.open(), work)
    state = erase.get(engine, erasure)
    assert (state["done"], state["taken"]) == (False, False)
    assert state["last_error"]
    assert "model" not in state["last_error"], "the store's own reason, not a merchant's sentence"
    assert sql.execute("SELECT count(*) FROM jobs WHERE shop = %s", [SHOP]).fetchone() != (0,)
    bucket.fail_once_each(FAULTS[fault], FAULTS[fault], method="DELETE")
    shops.finish(engine, shelf.open(), sql)
    assert shops.traces(sql, shelf, SHOP) == []
    assert shelf.files() == files


def test_a_store_that_says_yes_and_does_nothing(
    bucket: BucketServer, remote: Shelf, engine: Engine, sql: psycopg.Connection
) -> None:
    shelf = remote
    shops.furnish(sql, shelf, SHOP, products=1)
    erasure = shops.forget(sql, SHOP)
    bucket.fault = lambda method, _path: bucket_server.says([]) if method == "DELETE" else None
    work = erase.take(engine)
    assert work
    assert not erase.carry_out(engine, shelf.open(), work)
    assert "exist again" in erase.get(engine, erasure)["last_error"]


def test_an_app_that_refuses_the_deletion_is_named_and_tried_again(
    folder: Shelf, engine: Engine, sql: psycopg.Connection
) -> None:
    job = shops.insert(sql, SHOP)
    shops.move(sql, job, "failed")
    sql.execute("CREATE TABLE orders (job uuid REFERENCES jobs)")
    sql.execute("INSERT INTO orders VALUES (%s)", [job])
    erasure = shops.forget(sql, SHOP)
    work = erase.take(engine)
    assert work
    assert not erase.carry_out(engine, folder.open(), work)
    assert "orders" in erase.get(engine, erasure)["last_error"]
    sql.execute("DROP TABLE orders")
    shops.finish(engine, folder.open(), sql)
    assert shops.traces(sql, folder, SHOP) == []


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("forget_shop(NULL)", "shop must have 1 to 255 characters"),
        ("forget_shop('')", "shop must have 1 to 255 characters"),
        ("forget_shop('  ')", "shop must have 1 to 255 characters"),
        ("forget_shop(repeat('a', 256))", "shop must have 1 to 255 characters"),
        ("forget_product(NULL, '1')", "shop must have 1 to 255 characters"),
        ("forget_product('a', NULL)", "product_id must have 1 to 255 characters"),
        ("forget_product('a', ' ')", "product_id must have 1 to 255 characters"),
        ("worker.begin_erasure('a', NULL, '4')", "variant_id must have"),
    ],
)
def test_a_call_that_names_nothing_erases_nothing(sql: psycopg.Connection, call: str, problem: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=problem):
        sql.execute(f"SELECT {call}".encode())
    assert erasures(sql) == []


def test_a_call_of_a_transaction_that_is_rolled_back_erases_nothing(sql: psycopg.Connection) -> None:
    with sql.transaction(force_rollback=True):
        shops.forget(sql, SHOP)
    assert erasures(sql) == []


def test_a_shop_that_is_not_known_is_forgotten_at_once(
    folder: Shelf, engine: Engine, sql: psycopg.Connection
) -> None:
    folder.put(f"{SHOP}/1.glb")  # of rows that were deleted long ago
    erasure = shops.forget(sql, SHOP)
    shops.finish(engine, folder.open(), sql)
    assert folder.files() == set()
    assert [(event["erasureId"], event["files"]) for event in events(sql)] == [(str(erasure), 1)]


def test_whoever_has_lost_an_erasure_changes_nothing_more(
    folder: Shelf, engine: Engine, sql: psycopg.Connection
) -> None:
    shops.furnish(sql, folder, SHOP, products=1)
    shops.forget(sql, SHOP)
    before, files = shops.texts(sql), folder.files()
    work = erase.take(engine)
    assert work
    sql.execute("UPDATE worker.erasures SET token = %s", [uuid4()])
    assert not erase.carry_out(engine, folder.open(), work)
    assert {**shops.texts(sql), "worker.erasures": []} == {**before, "worker.erasures": []}
    assert folder.files() == files


def test_a_file_that_arrives_late_is_removed_too(
    folder: Shelf, engine: Engine, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was killed may have sent a file which the store has not written yet."""
    monkeypatch.setattr(erase, "QUIET_S", 600.0)
    lost = shops.insert(sql, SHOP)
    shops.move(sql, lost, "lost")
    shops.set_columns(sql, lost, lease_expires_at="now")
    shops.add_version(sql, folder, lost)
    shops.forget(sql, SHOP)
    for late in ("1.glb", "1/v.0.glb"):
        work = erase.take(engine)
        assert work
        assert not erase.carry_out(engine, folder.open(), work)
        assert folder.files() == set()
        assert erase.take(engine) is None
        folder.put(f"{SHOP}/{late}")
        shops.expire(sql)
    sql.execute("UPDATE worker.erasures SET quiet_at = now()")
    shops.finish(engine, folder.open(), sql)
    assert shops.traces(sql, folder, SHOP) == []


def test_a_later_publication_that_was_killed_holds_nothing_up(
    folder: Shelf, engine: Engine, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase, "QUIET_S", 600.0)
    shops.forget(sql, SHOP)
    later = shops.insert(sql, SHOP)
    shops.move(sql, later, "completed")
    shops.add_version(sql, folder, later)
    sql.execute(
        "UPDATE worker.published SET token = gen_random_uuid(), next_try_at = '1999-01-01', written = NULL"
    )
    work = erase.take(engine)
    assert work
    assert erase.carry_out(engine, folder.open(), work)
    assert all("/v." in file for file in folder.files()), "what lies at the path may be older"
    assert versions.take_publication(engine, lease_s=60)


def test_what_a_frozen_worker_stores_too_late_is_removed(
    folder: Shelf, engine: Engine, sql: psycopg.Connection
) -> None:
    shops.insert(sql, SHOP)
    job = queue.claim(engine, worker="w", lease_s=0.05)
    assert job
    stem, hashes = paths.stem(SHOP, "1"), {".glb": "0" * 64}
    digest = paths.version_digest(hashes)
    assert versions.begin(engine, job, digest=digest, stem=stem, files=hashes, result_key=None)
    shops.forget(sql, SHOP)
    shops.finish(engine, folder.open(), sql)
    folder.put(f"{paths.version_stem(stem, digest)}.glb")
    versions.abandon(engine, job, digest=digest, stem=stem, files=hashes)
    doomed = versions.take_doomed(engine, lease_s=60)
    assert doomed
    assert prune.remove(engine, folder.open(), doomed, lease_s=60, check=lambda: None)
    assert shops.traces(sql, folder, SHOP) == []


def test_what_a_frozen_daemon_publishes_too_late_is_removed(
    tmp_path: Path, engine: Engine, sql: psycopg.Connection
) -> None:
    with shelf_of_one_product("folder", tmp_path, engine, sql) as place:
        place.name(place.add("old"))

        class Frozen(Dying):
            def put(self, path: str, *rest: Any, **options: Any) -> str:
                if path == f"{STEM}.glb":
                    sql.execute("UPDATE worker.published SET next_try_at = now()")
                    shops.forget(sql, "a.example")
                    shops.finish(engine, place.store, sql)
                    assert place.files() == {}
                return super().put(path, *rest, **options)

        assert place.publish(Frozen(place.store, -1)) is False
        assert place.files() == {}


def test_what_a_frozen_eraser_removes_too_late_is_published_again(
    folder: Shelf, engine: Engine, sql: psycopg.Connection
) -> None:
    first = shops.insert(sql, SHOP)
    shops.move(sql, first, "completed")
    shops.add_version(sql, folder, first)
    shops.forget(sql, SHOP)
    work = erase.take(engine)
    assert work

    class Frozen(LocalStore):
        """Thaws when another daemon has ended the erasure and a later job has published."""

        def remove(self, paths: Sequence[str], _check: Callable[[], None] = lambda: None) -> None:
            shops.expire(sql)
            shops.finish(engine, folder.open(), sql)
            later = shops.insert(sql, SHOP)
            shops.move(sql, later, "completed")
            shops.add_version(sql, folder, later)
            super().remove(paths, lambda: None)

    assert folder.folder
    assert not erase.carry_out(engine, Frozen(folder.folder), work)
    assert sql.execute("SELECT written, next_try_at <= now() FROM worker.published").fetchone() == (
        None,
        True,
    )


def test_while_it_is_not_done_its_paths_are_closed(engine: Engine, sql: psycopg.Connection) -> None:
    def closed(product: str, variant: str | None = None, shop: str = SHOP) -> bool:
        row = sql.execute(
            "SELECT worker.is_being_erased(%(shop)s, worker.last_part(%(product)s),"
            " worker.storage_path(%(shop)s, %(product)s, %(variant)s))",
            {"shop": shop, "product": product, "variant": variant},
        ).fetchone()
        assert row
        return bool(row[0])

    assert not closed("1")
    product = shops.forget(sql, SHOP, "gid://shopify/Product/1")
    assert closed("1")
    assert closed("gid://shopify/Product/1", "7")
    assert not closed("12")
    assert not closed("1", shop=OTHER)
    erase.begin(engine, SHOP, "2", "gid://shopify/ProductVariant/3")
    assert closed("2", "3")
    assert not closed("2")
    assert not closed("2", "33")
    shops.forget(sql, SHOP)
    assert closed("12")
    assert erase.get(engine, product)["done"] is False


def test_the_next_erasure_is_looked_for_by_time(engine: Engine, sql: psycopg.Connection) -> None:
    first, second = shops.forget(sql, "a"), shops.forget(sql, "b")
    taken = [erase.take(engine), erase.take(engine)]
    assert [work.id for work in taken if work] == [first, second]
    assert erase.take(engine) is None
    shops.expire(sql)
    work = erase.take(engine, second)
    assert work
    assert work.id == second
    assert work.tries == 2
    assert until(lambda: erase.take(engine, first))
