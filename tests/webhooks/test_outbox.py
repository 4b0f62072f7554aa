"""What is in the outbox, who may take it, and what people do with the dead."""

import json
import threading
from typing import Any
from uuid import UUID

import psycopg
import pytest
from conftest import until
from psycopg.types.json import Jsonb
from sqlalchemy.engine import Engine
from typer.testing import CliRunner, Result

from worker.cli.app import app
from worker.jobs import queue
from worker.webhooks import outbox
from worker.webhooks.outbox import Event


def start_job(engine: Engine, product: str = "1", **metadata: Any) -> queue.Job:
    queue.enqueue(engine, shop="a", product_id=product, image_urls=["http://a/b"], metadata=metadata)
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    return job


def take(engine: Engine) -> Event:
    event = outbox.take(engine, sending_s=30)
    assert event
    return event


def queued_events(sql: psycopg.Connection) -> list[tuple[str, int]]:
    rows = sql.execute(
        "SELECT body::jsonb ->> 'status', (body::jsonb -> 'progress')::int FROM worker.outbox ORDER BY seq"
    )
    return rows.fetchall()


def test_progress_that_nobody_began_to_send_is_one_event_and_the_end_is_another(
    engine: Engine, sql: psycopg.Connection
) -> None:
    job = start_job(engine)
    for progress in (10, 40, 50):
        queue.report(engine, job, progress=progress, stage="x", lease_s=30)
    queue.complete(engine, job, model_url="https://m/1.glb", report={})
    assert queued_events(sql) == [("processing", 50), ("completed", 100)]


def test_what_was_taken_once_keeps_its_bytes(engine: Engine, sql: psycopg.Connection) -> None:
    job = start_job(engine)
    first = take(engine)
    outbox.retry_later(engine, first, wait_s=0, refusals=0, reason="down")
    queue.report(engine, job, progress=10, stage="x", lease_s=30)
    queue.report(engine, job, progress=40, stage="x", lease_s=30)
    again = take(engine)
    assert (again.id, again.body, again.attempts) == (first.id, first.body, 2)
    assert queued_events(sql) == [("processing", 5), ("processing", 40)]


def test_a_renewal_is_no_event(engine: Engine, sql: psycopg.Connection) -> None:
    job = start_job(engine)
    queue.renew(engine, job, lease_s=30)
    assert queued_events(sql) == [("processing", 5)]


def test_progress_that_comes_while_its_forerunner_is_being_taken_is_an_event_of_its_own(
    engine: Engine, database_url: str, sql: psycopg.Connection
) -> None:
    job = start_job(engine)
    with psycopg.connect(database_url) as taker:
        statement = outbox.QUERIES["take"].encode()
        taken = taker.execute(statement, {"sending_s": 30}).fetchone()
        assert taken
        reporter = threading.Thread(
            target=lambda: queue.report(engine, job, progress=40, stage="x", lease_s=30)
        )
        reporter.start()
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        until(lambda: sql.execute(blocked).fetchone() == (1,), what="the report to wait for the taker")
        taker.commit()
        reporter.join()
    assert queued_events(sql) == [("processing", 5), ("processing", 40)]
    assert outbox.take(engine, sending_s=30) is None, "one event of a job is under way"


def test_progress_that_is_replaced_while_its_forerunner_is_being_ended_becomes_due(
    engine: Engine, database_url: str, sql: psycopg.Connection
) -> None:
    job = start_job(engine)
    first = take(engine)
    queue.report(engine, job, progress=10, stage="x", lease_s=30)
    with psycopg.connect(database_url) as reporter:
        values = {"id": job.id, "token": job.lease_token, "progress": 40, "stage": "x", "lease_s": 30}
        reporter.execute(queue.QUERIES["report"].encode(), values)
        sender = threading.Thread(target=lambda: outbox.delivered(engine, first))
        sender.start()
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        until(lambda: sql.execute(blocked).fetchone() == (1,), what="the sender to wait for the reporter")
        reporter.commit()
        sender.join()
    assert json.loads(take(engine).body)["progress"] == 40


def test_a_token_that_is_not_the_event_s_any_more_settles_nothing(
    engine: Engine, sql: psycopg.Connection
) -> None:
    start_job(engine)
    frozen = take(engine)
    sql.execute("UPDATE worker.outbox SET next_attempt_at = now() - interval '1 s'")
    owner = take(engine)
    assert owner.id == frozen.id
    outbox.delivered(engine, frozen)
    outbox.dead_letter(engine, frozen, refusals=5, reason="no")
    outbox.retry_later(engine, frozen, wait_s=0, refusals=1, reason="later")
    row = sql.execute("SELECT sending_token, delivered_at, dead_at, last_error FROM worker.outbox").fetchone()
    assert row == (owner.token, None, None, None)
    outbox.delivered(engine, owner)
    assert sql.execute("SELECT delivered_at IS NOT NULL FROM worker.outbox").fetchone() == (True,)


def test_due_in_is_that_of_the_first_event_of_its_job(engine: Engine) -> None:
    assert outbox.due_in(engine) is None
    job = start_job(engine)
    queue.complete(engine, job, model_url="x", report={})
    due = outbox.due_in(engine)
    assert due is not None
    assert due <= 0
    event = take(engine)
    due = outbox.due_in(engine)
    assert due is not None
    assert 10 < due <= 30
    outbox.retry_later(engine, event, wait_s=500, refusals=0, reason="down")
    due = outbox.due_in(engine)
    assert due is not None
    assert 400 < due <= 500


def test_what_others_write_wakes_the_senders_and_what_a_daemon_writes_does_not(
    engine: Engine, sql: psycopg.Connection, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute("LISTEN worker_webhooks")
        queue.complete(engine, start_job(engine), model_url="x", report={})
        queue.enqueue(engine, shop="a", product_id="2", image_urls=["http://a/b"])
        sql.execute("NOTIFY worker_webhooks, 'first'")
        sql.execute("UPDATE jobs SET cancel_requested_at = now() WHERE status = 'pending'")
        sql.execute("NOTIFY worker_webhooks, 'last'")
        heard = [notification.payload for notification in listener.notifies(timeout=60, stop_after=3)]
        assert (heard[0], heard[2]) == ("first", "last")


def dead_letter(engine: Engine) -> UUID:
    event = take(engine)
    outbox.dead_letter(engine, event, refusals=5, reason="the backend answered 404")
    return event.id


def worker(database_url: str, *arguments: str) -> Result:
    return CliRunner(env={"DATABASE_URL": database_url, "COLUMNS": "160"}).invoke(
        app, ["webhooks", *arguments], catch_exceptions=False
    )


def test_the_dead_are_listed_and_sent_again_in_their_order_as_they_were(
    engine: Engine, database_url: str
) -> None:
    job = start_job(engine)
    first = dead_letter(engine)
    queue.complete(engine, job, model_url="x", report={})
    second = dead_letter(engine)

    listed = json.loads(worker(database_url, "list", "--json").stdout)
    assert (listed["waiting"], listed["oldest"], listed["dead"]) == (0, None, 2)
    assert [(e["id"], e["status"], e["reason"], e["overtaken"]) for e in listed["events"]] == [
        (str(second), "completed", "the backend answered 404", False),
        (str(first), "processing", "the backend answered 404", False),
    ]
    people = worker(database_url, "list").stderr
    assert str(first)[:8] in people
    assert "2 dead" in people
    one = worker(database_url, "replay", str(first)[:8], "--json")
    assert json.loads(one.stdout) == {str(first): True}
    assert dead_letter(engine) == first

    sent = worker(database_url, "replay", "--all", "--json")
    assert (json.loads(sent.stdout), sent.exit_code) == ({str(first): True, str(second): True}, 0)
    queue.enqueue(engine, shop="a", product_id="2", image_urls=["http://a/b"])
    for event in (first, second):
        taken = take(engine)
        assert (taken.id, taken.refusals) == (event, 0)
        outbox.delivered(engine, taken)


def test_a_dead_event_that_was_overtaken_is_not_sent_again(engine: Engine, database_url: str) -> None:
    job = start_job(engine)
    overtaken = dead_letter(engine)
    queue.complete(engine, job, model_url="x", report={})
    outbox.delivered(engine, take(engine))
    assert outbox.dead(engine, 10)[0]["overtaken"]
    for arguments in ([str(overtaken)], [str(UUID(int=0))]):
        found = worker(database_url, "replay", *arguments, "--json")
        assert (json.loads(found.stdout), found.exit_code) == ({arguments[0]: False}, 1)
    assert outbox.replay(engine, None) == set()
    assert outbox.take(engine, sending_s=30) is None


def test_replayed_progress_keeps_its_bytes_beside_newer_progress(
    engine: Engine, sql: psycopg.Connection
) -> None:
    job = start_job(engine)
    event = take(engine)
    outbox.dead_letter(engine, event, refusals=5, reason="no")
    queue.report(engine, job, progress=40, stage="x", lease_s=30)
    assert outbox.replay(engine, [event.id]) == {event.id}
    queue.report(engine, job, progress=50, stage="x", lease_s=30)
    assert take(engine).body == event.body
    assert queued_events(sql) == [("processing", 5), ("processing", 50)]


def test_replay_wants_to_know_which(database_url: str) -> None:
    assert worker(database_url, "replay").exit_code == 2


def metadata(sql: psycopg.Connection) -> dict[str, Any]:
    row = sql.execute("SELECT metadata FROM jobs").fetchone()
    assert row
    return dict(row[0])


def write_back(sql: psycopg.Connection, status: str, metadata: object) -> None:
    """As a backend's handler does with a webhook."""
    sql.execute("UPDATE jobs SET status = %s, metadata = %s", [status, Jsonb(metadata)])


def test_a_webhook_written_back_undoes_nothing_that_the_backend_has_changed_since(
    engine: Engine, sql: psycopg.Connection
) -> None:
    job = start_job(engine, order=7, notified=False)
    queue.complete(engine, job, model_url="x", report={"engine": "relief"})
    bodies = [json.loads(row[0]) for row in sql.execute("SELECT body FROM worker.outbox ORDER BY seq")]
    sql.execute("""UPDATE jobs SET metadata = metadata || '{"notified": true, "note": "new"}'""")
    for body in [*bodies, *bodies]:
        write_back(sql, body["status"], body["metadata"])
    assert metadata(sql) == {"order": 7, "notified": True, "note": "new", "worker": {"engine": "relief"}}
    # What a handler itself adds or changes in the same statement is kept.
    write_back(sql, "completed", bodies[-1]["metadata"] | {"seen": 1, "order": 8})
    assert metadata(sql) == {
        "order": 8,
        "notified": True,
        "note": "new",
        "seen": 1,
        "worker": {"engine": "relief"},
    }
    # A change without a status is the backend's own, whatever it says.
    sql.execute("""UPDATE jobs SET metadata = metadata || '{"notified": false}'""")
    assert metadata(sql)["notified"] is False


@pytest.mark.parametrize("written", [None, [], "text", 5, {}])
def test_metadata_that_is_no_object_is_no_error_to_the_backend(
    engine: Engine, sql: psycopg.Connection, written: object
) -> None:
    start_job(engine, order=7)
    write_back(sql, "failed", written)
    assert metadata(sql) == {"order": 7}
    sql.execute("UPDATE jobs SET status = 'failed', metadata = NULL")
    assert metadata(sql) == {"order": 7}


@pytest.mark.usefixtures("superuser")
def test_neither_the_worker_s_role_nor_a_backend_s_needs_more_rights(
    engine: Engine, sql: psycopg.Connection
) -> None:
    """The trigger reads the outbox for whoever may write the row."""
    start_job(engine, order=7)
    sql.execute("CREATE ROLE backend; GRANT SELECT, UPDATE ON jobs TO backend")
    sql.execute("CREATE POLICY backend ON jobs TO backend USING (true)")
    try:
        for role in ("worker", "backend"):
            sql.execute(f"SET ROLE {role}".encode())
            write_back(sql, "completed", {"order": 7, f"by_{role}": True})
        assert metadata(sql) == {"order": 7, "by_worker": True, "by_backend": True}
        sql.execute("SET ROLE worker")
        for name, parameters in (("take", {"sending_s": 30}), ("due_in", {}), ("replay", {"ids": None})):
            sql.execute(outbox.QUERIES[name].encode(), parameters)
    finally:
        sql.execute(
            "RESET ROLE; DROP POLICY backend ON jobs; REVOKE ALL ON jobs FROM backend; DROP ROLE backend"
        )


@pytest.mark.parametrize("waiting", [1_000, 10_000])
def test_a_take_costs_the_same_whatever_waits(engine: Engine, sql: psycopg.Connection, waiting: int) -> None:
    """As while a backend is down: each job's first event waits for its next attempt, and one more behind it. The planner
    still knows the outbox as it was, empty.
    """
    sql.execute("ALTER TABLE worker.outbox SET (autovacuum_enabled = off)")
    sql.execute("ANALYZE worker.outbox")
    sql.execute(
        "INSERT INTO worker.outbox (type, shop, job_id, terminal, body, next_attempt_at)"
        " SELECT 'job.updated', 'a', md5((n / 2)::text)::uuid, true, '{}', CASE n %% 2 WHEN 0 THEN now() + interval '1 h' END"
        " FROM generate_series(0, %s) AS n",
        [2 * waiting - 1],
    )
    start_job(engine)
    with engine.connect() as connection:
        for ask in ("due_in", "take", "take"):  # one that finds an event, and one that finds none
            plan = connection.exec_driver_sql(
                "EXPLAIN (ANALYZE, BUFFERS, FORMAT json) " + outbox.QUERIES[ask], {"sending_s": 30}
            ).scalar()
            assert plan
            assert plan[0]["Plan"]["Shared Hit Blocks"] < 60, ask


def test_a_settlement_reads_no_other_job_s_events(engine: Engine, sql: psycopg.Connection) -> None:
    """Also if its plan was made while the outbox was empty."""
    sql.execute("ALTER TABLE worker.outbox SET (autovacuum_enabled = off)")
    sql.execute("ANALYZE worker.outbox")
    jobs = [start_job(engine, str(n)) for n in range(2)]
    queue.complete(engine, jobs[0], model_url="x", report={})
    sql.execute(
        "INSERT INTO worker.outbox (type, shop, job_id, terminal, body, next_attempt_at)"
        " SELECT 'job.updated', 'a', gen_random_uuid(), true, '{}', now() FROM generate_series(1, 1000)"
    )
    before = index_entries_read(engine, sql)
    queue.complete(engine, jobs[1], model_url="x", report={})
    assert index_entries_read(engine, sql) - before < 10


def index_entries_read(engine: Engine, sql: psycopg.Connection) -> int:
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    row = sql.execute(
        "SELECT sum(idx_tup_read)::int FROM pg_stat_user_indexes WHERE relid = 'worker.outbox'::regclass"
    ).fetchone()
    assert row
    return int(row[0])


def next_attempts(sql: psycopg.Connection) -> list[str]:
    """What each event that is not done waits for, in their order."""
    return [
        row[0]
        for row in sql.execute(
            "SELECT CASE WHEN next_attempt_at IS NULL THEN 'another' WHEN sending_token IS NOT NULL THEN 'its answer'"
            " WHEN next_attempt_at > now() THEN 'its time' ELSE 'nothing' END"
            " FROM worker.outbox WHERE delivered_at IS NULL AND dead_at IS NULL ORDER BY seq"
        )
    ]


def test_only_the_first_event_of_a_job_may_go(engine: Engine, sql: psycopg.Connection) -> None:
    job = start_job(engine)
    event = take(engine)
    queue.report(engine, job, progress=40, stage="x", lease_s=30)
    queue.complete(engine, job, model_url="x", report={})
    assert next_attempts(sql) == ["its answer", "another", "another"]
    outbox.retry_later(engine, event, wait_s=500, refusals=0, reason="down")
    assert next_attempts(sql) == ["its time", "another", "another"]
    assert outbox.take(engine, sending_s=30) is None
    sql.execute("UPDATE worker.outbox SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")
    outbox.dead_letter(engine, take(engine), refusals=5, reason="no")
    assert next_attempts(sql) == ["nothing", "another"]
    outbox.delivered(engine, take(engine))
    assert next_attempts(sql) == ["nothing"]
    assert outbox.replay(engine, None) == set(), "a later event was delivered"


def test_a_replayed_event_goes_first_and_not_beside_one_that_is_under_way(
    engine: Engine, sql: psycopg.Connection
) -> None:
    job = start_job(engine)
    first = dead_letter(engine)
    queue.report(engine, job, progress=40, stage="x", lease_s=30)
    queue.complete(engine, job, model_url="x", report={})
    event = take(engine)
    assert outbox.replay(engine, [first]) == set(), "a later event may arrive at any moment"
    outbox.retry_later(engine, event, wait_s=500, refusals=0, reason="down")
    assert outbox.replay(engine, [first]) == {first}
    assert next_attempts(sql) == ["nothing", "another", "another"]


def test_the_end_of_an_event_and_the_writing_of_the_next_do_not_miss_each_other(
    engine: Engine, database_url: str, sql: psycopg.Connection
) -> None:
    """Whichever of the two commits first, the other has to see it."""
    job = start_job(engine)
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    event = take(engine)
    with psycopg.connect(database_url) as writer:
        writer.execute("SELECT set_config('worker.lease', %s, true)", [str(job.lease_token)])
        writer.execute("UPDATE jobs SET progress = 40 WHERE id = %s", [job.id])
        ending = threading.Thread(target=lambda: outbox.delivered(engine, event))
        ending.start()
        until(lambda: sql.execute(blocked).fetchone() == (1,), 30, "the end to wait for the writer")
        writer.commit()
        ending.join()
    assert next_attempts(sql) == ["nothing"]
    event = take(engine)
    with psycopg.connect(database_url) as ender:
        assert ender.execute(
            "SELECT worker.end_event(%s, %s, false, 0, NULL)", [event.seq, event.token]
        ).fetchone() == (True,)
        writing = threading.Thread(
            target=lambda: queue.report(engine, job, progress=50, stage="x", lease_s=30)
        )
        writing.start()
        until(lambda: sql.execute(blocked).fetchone() == (1,), 30, "the writer to wait for the end")
        ender.commit()
        writing.join()
    assert next_attempts(sql) == ["nothing"]


def write_shop_event(sql: psycopg.Connection, shop: str = "a", kind: str = "batch.finished") -> UUID:
    row = sql.execute("SELECT worker.write_shop_event(%s, %s, %s)", [shop, kind, Jsonb({"n": 1})]).fetchone()
    assert row
    return UUID(str(row[0]))


def test_an_event_of_a_shop_comes_after_all_that_were_written_before_it(
    engine: Engine, sql: psycopg.Connection
) -> None:
    jobs = [start_job(engine, product=str(n)) for n in range(2)]
    events = [take(engine), take(engine)]
    end = write_shop_event(sql)
    erased = write_shop_event(sql, kind="shop.erased")
    elsewhere = write_shop_event(sql, "b")
    assert take(engine).id == elsewhere
    outbox.delivered(engine, events[1])
    queue.complete(engine, jobs[1], model_url="x", report={})  # written later: it does not hold them up
    later = take(engine)
    assert (later.job_id, outbox.take(engine, sending_s=30)) == (jobs[1].id, None)
    outbox.dead_letter(engine, events[0], refusals=5, reason="no")
    event = take(engine)
    assert (event.id, event.type, event.job_id, event.terminal) == (end, "batch.finished", None, True)
    assert json.loads(event.body) == {"shop": "a", "seq": event.seq, "n": 1}
    assert outbox.take(engine, sending_s=30) is None, "two events of a shop go one after the other"
    outbox.delivered(engine, event)
    assert take(engine).id == erased


@pytest.mark.parametrize("how", ["deleted", "pruned"])
def test_an_event_that_is_gone_holds_nothing_up(engine: Engine, sql: psycopg.Connection, how: str) -> None:
    job = start_job(engine)
    take(engine)
    queue.complete(engine, job, model_url="x", report={})
    end = write_shop_event(sql)
    if how == "deleted":
        sql.execute("DELETE FROM jobs")
    else:
        sql.execute("UPDATE worker.outbox SET created_at = now() - interval '3 days' WHERE NOT terminal")
        assert queue.prune(engine, "unsendable", days=2, batch=10) == 1
        assert next_attempts(sql) == ["nothing", "another"]
        outbox.delivered(engine, take(engine))
    assert take(engine).id == end
