"""The queue survives what an app adds to its table: columns of any type and name, triggers, row-level security."""

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from conftest import HOST, connected, new_database
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from worker.core.errors import JobError
from worker.jobs import hosts, queue
from worker.jobs.queue import Claimer
from worker.local.postgres import Postgres
from worker.ops.dashboard import job as job_page
from worker.ops.dashboard import pages
from worker.storage.local import LocalStore
from worker.versions import erase
from worker.versions import queue as versions
from worker.webhooks import outbox


class Place(NamedTuple):
    engine: Engine
    sql: psycopg.Connection


@pytest.fixture(scope="module")
def place(postgres: Postgres) -> Iterator[Place]:
    """One database for all, so that connections and their plans live through every change of the table."""
    with (
        new_database(postgres) as url,
        connected(url) as engine,
        psycopg.connect(url, autocommit=True) as sql,
    ):
        yield Place(engine, sql)


COLUMNS = {
    "json": ("extra json", """'{"a": 1}'"""),
    "point": ("extra point", "'(1,2)'"),
    "xml": ("extra xml", "NULL"),  # the type alone: not every server is built with libxml
    "a domain": ("extra positive", "7"),
    "an array of points": ("extra point[]", "ARRAY[point '(1,2)']"),
    "a large text": ("extra text", "repeat(gen_random_uuid()::text, 100000)"),
    "generated": ("extra text GENERATED ALWAYS AS (upper(product_id)) STORED", "DEFAULT"),
    "with a default": ("extra int NOT NULL DEFAULT 3", "4"),
    "a name of ours in capitals": ('"STATUS" text', "'x'"),
    "a number that Python cannot read": ("extra numeric", "1e5000"),
}


@pytest.mark.parametrize(("column", "value"), COLUMNS.values(), ids=COLUMNS)
def test_a_column_of_the_app(place: Place, column: str, value: str) -> None:
    name = column.split(maxsplit=1)[0]
    place.sql.execute("CREATE DOMAIN positive AS int CHECK (value > 0)")
    place.sql.execute(f"ALTER TABLE jobs ADD COLUMN {column}".encode())
    try:
        _live(place, f"{name} = {value}")
    finally:
        # From now on a dropped column lies in the table, which the next cases live with.
        place.sql.execute(f"ALTER TABLE jobs DROP COLUMN {name}; DROP DOMAIN positive".encode())


def test_columns_with_the_names_of_all_parameters_variables_and_aliases(place: Place) -> None:
    """Where a name could mean a column or a parameter, SQL takes the column, and PL/pgSQL refuses."""
    functions = place.sql.execute(
        "SELECT coalesce(proargnames, '{}'), prosrc FROM pg_proc"
        " WHERE pronamespace = 'worker'::regnamespace OR pronamespace = 'public'::regnamespace"
    ).fetchall()
    names = {name for arguments, _ in functions for name in arguments}
    for _, text in functions:
        declared = re.search(r"DECLARE\n(.*?)\nBEGIN", text, re.DOTALL)
        names |= set(re.findall(r"^ +(\w+) ", declared[1], re.MULTILINE) if declared else [])
        names |= set(re.findall(r"\b(?:AS|WITH) (?:MATERIALIZED )?(\w+)\b", text))
    for module in ("worker/jobs", "worker/versions", "worker/ops/dashboard"):
        names |= {
            alias.lower() for text in _statements(module) for alias in re.findall(r"\bAS (\w+)\b", text)
        }
        names |= {"place", "named"}
    own = {
        name
        for (name,) in place.sql.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'jobs'::regclass AND NOT attisdropped"
        )
    }
    names = {name.lower() for name in names if name} - own
    assert {"job_id", "turn", "path", "level", "few", "chosen", "verdict", "place"} <= names
    added = ", ".join(f'ADD COLUMN "{name}" text' for name in sorted(names))
    place.sql.execute(f"ALTER TABLE jobs {added}".encode())
    try:
        _live(place, "turn = 'x'")
    finally:
        dropped = ", ".join(f'DROP COLUMN "{name}"' for name in sorted(names))
        place.sql.execute(f"ALTER TABLE jobs {dropped}".encode())


TRIGGERS = {
    "a clock before": ("BEFORE UPDATE", "NEW.updated_at := now(); RETURN NEW;"),
    "one that fires before ours": ("BEFORE INSERT OR UPDATE", "NEW.product_handle := upper(NEW.product_handle); RETURN NEW;"),
    "a history after": ("AFTER INSERT OR UPDATE OR DELETE", "INSERT INTO history VALUES (to_jsonb(NEW)::text); RETURN NULL;"),
}  # fmt: skip


@pytest.mark.parametrize(("when", "body"), TRIGGERS.values(), ids=TRIGGERS)
@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_a_trigger_of_the_app(place: Place, name: str, when: str, body: str) -> None:
    """Its tables have no schema in their names: the search path is the app's while our functions run."""
    place.sql.execute(
        f"""
        CREATE TABLE history (entry text);
        CREATE FUNCTION app() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
        CREATE TRIGGER {name} {when} ON jobs FOR EACH ROW EXECUTE FUNCTION app();
    """.encode()
    )
    try:
        _live(place, "product_handle = 'mug'")
    finally:
        place.sql.execute("DROP FUNCTION app CASCADE; DROP TABLE history")


@pytest.mark.parametrize(
    ("made", "undone"),
    [
        ("REPLICA IDENTITY FULL", "REPLICA IDENTITY DEFAULT"),
        ("FORCE ROW LEVEL SECURITY", "NO FORCE ROW LEVEL SECURITY"),
        ("ADD CONSTRAINT mine CHECK (length(shop) < 200)", "DROP CONSTRAINT mine"),
    ],
    ids=["replica identity", "forced row-level security", "a constraint"],
)
def test_a_setting_of_the_table(place: Place, made: str, undone: str) -> None:
    """REPLICA IDENTITY FULL, too, beside a publication and a column without equality."""
    place.sql.execute("CREATE PUBLICATION mine FOR TABLE jobs; ALTER TABLE jobs ADD COLUMN extra json")
    place.sql.execute(f"ALTER TABLE jobs {made}".encode())
    try:
        _live(place, "extra = '[]'")
    finally:
        place.sql.execute(
            f"ALTER TABLE jobs {undone}; ALTER TABLE jobs DROP COLUMN extra; DROP PUBLICATION mine".encode()
        )


def test_the_daemon_s_role_under_forced_row_level_security(place: Place) -> None:
    place.sql.execute("ALTER TABLE jobs FORCE ROW LEVEL SECURITY; TRUNCATE jobs")
    _insert(place, "1")
    try:
        with place.sql.transaction():
            place.sql.execute("SET LOCAL ROLE worker")
            assert place.sql.execute(
                "SELECT product_id FROM worker.claim_job('w', 'h', '{default}', '', 30, 1)"
            ).fetchall() == [("1",)]
            assert place.sql.execute("SELECT cancel_job(id) FROM jobs").fetchall() == [(True,)]
    finally:
        place.sql.execute("ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY")


def test_a_right_that_is_missing_is_said_and_no_row_is_passed_over_for_it(place: Place) -> None:
    place.sql.execute("TRUNCATE jobs")
    _insert(place, "1")
    with place.sql.transaction(force_rollback=True):
        place.sql.execute("REVOKE INSERT ON worker.attempts FROM worker; SET LOCAL ROLE worker")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="attempts"), place.sql.transaction():
            place.sql.execute("SELECT worker.claim_job('w', 'h', '{default}', '', 30, NULL)")


@pytest.mark.parametrize("later", ["0 s", "1 h"], ids=["all due", "one waits for its time"])
def test_a_row_that_the_app_refuses_to_have_claimed_stops_no_other(place: Place, later: str) -> None:
    """A constraint that the row breaks already, as one that was added NOT VALID; and a trigger that raises, one code or another."""
    place.sql.execute("TRUNCATE jobs")
    first, second, third, fourth = (_insert(place, str(n)) for n in range(4))
    _insert(place, "later")
    place.sql.execute("UPDATE jobs SET run_after = now() + %s::interval WHERE product_id = 'later'", [later])
    place.sql.execute(
        f"""
        ALTER TABLE jobs ADD CONSTRAINT mine CHECK (id <> '{first}') NOT VALID;
        CREATE FUNCTION app() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id = '{second}' OR NEW.product_id LIKE 'bad%' THEN RAISE 'not this one'; END IF;
            IF NEW.id = '{third}' THEN RAISE SQLSTATE 'PT403'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER app BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION app();
    """.encode()
    )
    try:
        _claim(place, fourth)
        place.sql.execute("DELETE FROM jobs")
        for n in range(5):
            _insert(place, f"bad {n}")
        with pytest.raises(DBAPIError, match="not this one"):
            queue.claim(place.engine, worker="w", lease_s=30)
    finally:
        place.sql.execute("ALTER TABLE jobs DROP CONSTRAINT mine; DROP FUNCTION app CASCADE")


def test_an_older_job_that_the_app_refuses_to_have_cancelled_stops_no_claim(place: Place) -> None:
    place.sql.execute("TRUNCATE jobs")
    older, other = _insert(place, "1"), _insert(place, "2")
    place.sql.execute(
        """
        INSERT INTO worker.superseded (path, before, message) VALUES (worker.storage_path('a', '1', NULL), now(), 'newer');
        CREATE FUNCTION app() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.status = 'cancelled' THEN RAISE SQLSTATE 'PT409'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER app BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION app();
    """
    )
    try:
        _claim(place, other)
        assert [row["status"] for row in queue.get_jobs(place.engine, [older])] == ["pending"]
    finally:
        place.sql.execute("DROP FUNCTION app CASCADE; TRUNCATE worker.superseded")


def test_an_end_waits_for_no_lock_of_the_claim_that_follows(place: Place) -> None:
    """With a row for each shop, two lanes that each end a job of one shop and claim one of the other's would wait for each other."""
    engine, sql = place
    sql.execute("""
        TRUNCATE jobs;
        CREATE TABLE counted (shop text PRIMARY KEY, changes int);
        INSERT INTO counted VALUES ('a', 0), ('b', 0), ('c', 0);
        CREATE FUNCTION app() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE counted SET changes = changes + 1 WHERE shop = NEW.shop;
            RETURN NULL;
        END $$;
        CREATE TRIGGER app AFTER UPDATE OF status ON jobs FOR EACH ROW EXECUTE FUNCTION app();
    """)
    claimer = Claimer(worker="w", lease_s=30)
    try:
        first, second, _ = (_insert(place, "1", shop) for shop in "abc")
        done = _claim(place, first)
        with sql.transaction():
            sql.execute("UPDATE counted SET changes = 0 WHERE shop = 'b'")
            assert queue.complete_and_claim(engine, done, claimer, model_url="x", report={}) == (None, None)
        done, digest = _claim(place, second), "d"
        assert versions.begin(engine, done, digest=digest, stem="b/1", files={}, result_key=None)
        path = queue.complete(engine, done, model_url="x", report={}, digest=digest)
        assert path
        work = versions.Publication.of(done, path=path, stem="b/1", digest=digest, files={})
        with sql.transaction():
            sql.execute("UPDATE counted SET changes = 0 WHERE shop = 'c'")
            assert versions.finish_publication_and_claim(engine, work, claimer) == (True, None)
    finally:
        sql.execute("DROP FUNCTION app CASCADE; DROP TABLE counted")


def test_what_the_app_does_at_the_commit_waits_for_locks_as_long_as_ever(place: Place) -> None:
    engine, sql = place
    sql.execute("""
        TRUNCATE jobs;
        CREATE TABLE seen (lock_timeout text);
        CREATE FUNCTION app() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen VALUES (current_setting('lock_timeout'));
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER app AFTER UPDATE ON jobs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app();
    """)
    claimer = Claimer(worker="w", lease_s=30)
    try:
        first, second, third = (_insert(place, str(n)) for n in range(3))
        done = _claim(place, first)
        _, done = queue.complete_and_claim(engine, done, claimer, model_url="x", report={})
        assert done
        assert done.id == second
        assert versions.begin(engine, done, digest="d", stem="a/1", files={}, result_key=None)
        path = queue.complete(engine, done, model_url="x", report={}, digest="d")
        assert path
        work = versions.Publication.of(done, path=path, stem="a/1", digest="d", files={})
        _, following = versions.finish_publication_and_claim(engine, work, claimer)
        assert following
        assert following.id == third
        assert sql.execute("SELECT DISTINCT lock_timeout FROM seen").fetchall() == [("4s",)]
    finally:
        sql.execute("DROP FUNCTION app CASCADE; DROP TABLE seen")


def _live(place: Place, change: str) -> None:
    """Lead jobs through all that can happen to them, with the app's own updates in between."""
    engine, sql = place
    sql.execute("TRUNCATE jobs")
    warnings: list[str] = []
    sql.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))

    def update() -> None:
        """What an app does, and what a late handler of a webhook writes back."""
        done = sql.execute(f"UPDATE jobs SET {change}, metadata = '{{\"seen\": true}}'".encode())
        assert done.rowcount == 3
        assert not warnings
        sql.execute("UPDATE jobs SET status = 'failed', model_url = 'x', metadata = '{\"seen\": true}'")
        assert warnings
        warnings.clear()

    first, second, third = (_insert(place, str(n)) for n in range(3))
    update()
    job = _claim(place, first)
    queue.report(engine, job, progress=40, stage="framed", lease_s=30)
    update()
    assert queue.renew(engine, job, lease_s=30) is False
    assert (
        queue.fail(engine, job, JobError("no_space"), report={"seconds": {"a": 1.0}})["status"] == "pending"
    )
    queue.release(engine, _claim(place, second))
    _review(place, _claim(place, second), update)
    lost = _claim(place, third, lease_s=-1)
    assert [row["status"] for row in queue.rescue(engine)] == ["pending"]
    job = _claim(place, third)
    assert lost.lease_token != job.lease_token
    assert queue.request_cancel(engine, third)
    queue.cancel(engine, job)
    assert queue.request_cancel(engine, first)
    assert queue.retry(engine, third, without_photo=1)
    update()
    _claim(place, third)
    rows = queue.get_jobs(engine, [first, second, third])
    assert [row["status"] for row in rows] == ["cancelled", "completed", "processing"]
    assert sql.execute("SELECT bool_and(metadata ->> 'seen' = 'true') FROM jobs").fetchone() == (True,)
    assert len(queue.recent(engine)) == 3
    for job_id in (first, second, third):
        assert job_page.story(engine, job_id)
    queue.health(engine), hosts.list_hosts(engine), queue.failures(engine), hosts.check_in(engine, HOST)
    while event := outbox.take(engine, sending_s=30):
        outbox.delivered(engine, event)
    sql.execute("DELETE FROM jobs WHERE id = %s", [third])
    erase.begin(engine, "a")
    erasure = erase.take(engine)
    assert erasure
    with tempfile.TemporaryDirectory() as folder:
        assert erase.carry_out(engine, LocalStore(Path(folder)), erasure)
    assert sql.execute("SELECT count(*) FROM jobs").fetchone() == (0,)


def _review(place: Place, job: queue.Job, update: Callable[[], None]) -> None:
    """Complete a job, decide about its model, and publish it."""
    engine, digest = place.engine, job.lease_token.hex
    assert versions.begin(engine, job, digest=digest, stem="a/1", files={}, result_key=digest)
    assert versions.find_result(engine, job, digest) is None
    queue.complete(
        engine,
        job,
        model_url="https://m/2.glb",
        report={"engine": "relief"},
        digest=digest,
        wants_review=True,
    )
    update()
    assert queue.reject(engine, job.id)
    assert queue.approve(engine, job.id)
    assert queue.publish_version(engine, job.id)
    work = versions.take_publication(engine, lease_s=30)
    assert work
    assert versions.finish_publication(engine, work)
    assert versions.doom(engine, days=30, batch=1) == (0, False)
    update()


def _insert(place: Place, product: str, shop: str = "a") -> UUID:
    return queue.enqueue(
        place.engine,
        shop=shop,
        product_id=product,
        image_urls=["https://a/b", "https://a/c"],
        product_handle="mug",
    )


def _claim(place: Place, wanted: UUID, lease_s: float = 30) -> Any:
    job = queue.claim(place.engine, worker="w", lease_s=lease_s)
    assert job
    assert job.id == wanted
    return job


def _statements(package: str) -> list[str]:
    return list((queue if package.endswith("jobs") else pages).QUERIES.values())
