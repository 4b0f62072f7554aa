"""The real daemon and a backend that is down, dies with an answer under way, or writes webhooks into the row itself."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psycopg
import pytest
import receiver
from conftest import Daemon, StartDaemon, until
from psycopg.types.json import Jsonb
from receiver import SECRET, Answer, Backend
from sqlalchemy.engine import Engine
from standardwebhooks import Webhook
from test_docs import code

from worker.jobs import queue

PutPhoto = Callable[[str, bytes], str]

KEYS = {"jobId", "status", "seq", "progress", "stage", "modelUrl", "errorMessage", "errorCode", "metadata"}
"""What a webhook had before there were reviews."""

ENDED = "SELECT count(*) = 0 FROM jobs WHERE completed_at IS NULL"
UNDELIVERED = "SELECT count(*) FROM worker.outbox WHERE delivered_at IS NULL"


@pytest.fixture
def backend() -> Iterator[Backend]:
    with receiver.serve() as server:
        yield server


def enqueue(engine: Engine, product: str, url: str, **metadata: Any) -> str:
    job = queue.enqueue(
        engine, shop="a", product_id=product, image_urls=[url], quality="fast", metadata=metadata
    )
    return str(job)


def scalar(sql: psycopg.Connection, statement: str) -> Any:
    row = sql.execute(statement.encode()).fetchone()
    assert row
    return row[0]


def ended(sql: psycopg.Connection) -> None:
    until(lambda: scalar(sql, ENDED), 60, "all jobs to end")


def kill(daemon: Daemon) -> None:
    daemon.process.kill()
    daemon.process.wait()


def tried_again(daemon: Daemon, tried: int) -> bool:
    return len(daemon.events("webhook_retry_scheduled")) > tried


def check(backend: Backend, ends: dict[str, str]) -> None:
    """Each job's events, in order, with one end by its id; all genuine. `ends` says how the jobs ended."""
    for webhook in backend.got:
        assert Webhook(SECRET).verify(webhook.body, webhook.headers) == webhook.event
    received: dict[str, dict[str, dict[str, Any]]] = {job: {} for job in ends}
    bodies: dict[str, bytes] = {}
    for webhook in backend.seen:
        assert bodies.setdefault(webhook.id, webhook.body) == webhook.body, "other bytes under the same id"
    for webhook in backend.got:
        received[webhook.event["jobId"]].setdefault(webhook.id, webhook.event)
    for job, events in received.items():
        seqs = [event["seq"] for event in events.values()]
        assert seqs == sorted(set(seqs))
        states = [event["status"] for event in events.values()]
        assert states[0] == "processing"
        assert states[-1] == ends[job]
        assert Counter(states)[ends[job]] == 1


def test_a_backend_that_was_down_for_ten_minutes_gets_every_job_s_events(
    start_daemon: StartDaemon, engine: Engine, sql: psycopg.Connection, photos: PutPhoto, mug: bytes
) -> None:
    with receiver.serve() as first:
        port = first.server_port  # nobody listens there from here on
    daemon = start_daemon(BACKEND_URL=f"http://127.0.0.1:{port}", WEBHOOK_SECRET=SECRET)
    good, bad = photos("mug.png", mug), photos("text.png", b"no photo")
    ends = {enqueue(engine, str(n), bad if n else good): "failed" if n else "completed" for n in range(6)}
    ended(sql)
    until(lambda: daemon.events("webhook_retry_scheduled"))
    assert scalar(sql, "SELECT count(*) FROM worker.outbox WHERE delivered_at IS NOT NULL") == 0

    # Ten minutes, in which it is tried now and then.
    for _ in range(4):
        tried = len(daemon.events("webhook_retry_scheduled"))
        sql.execute("UPDATE worker.outbox SET next_attempt_at = next_attempt_at - interval '150 s'")
        sql.execute("NOTIFY worker_webhooks")
        until(partial(tried_again, daemon, tried))
    with receiver.serve(port) as backend:
        ends[enqueue(engine, "late", bad)] = "failed"
        sql.execute("UPDATE worker.outbox SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")
        sql.execute("NOTIFY worker_webhooks")
        until(lambda: scalar(sql, ENDED) and scalar(sql, UNDELIVERED) == 0, 60, "all webhooks")
        check(backend, ends)
    assert daemon.stop() == 0


def test_kill_9_between_commit_and_send_and_between_send_and_mark_has_the_same_end(
    start_daemon: StartDaemon,
    engine: Engine,
    sql: psycopg.Connection,
    photos: PutPhoto,
    mug: bytes,
    backend: Backend,
) -> None:
    """The backend holds its answers, so that each kill strikes where it should."""

    def hold(webhook: receiver.Webhook, _: BaseHTTPRequestHandler) -> Answer | None:
        held.append(webhook)
        gate.wait(60)
        return None

    def hold_the_end(webhook: receiver.Webhook, handler: BaseHTTPRequestHandler) -> Answer | None:
        return hold(webhook, handler) if webhook.event["status"] == "completed" else (200, {})

    def daemon_dies() -> None:
        """Its events are nobody's any more, as they are after SENDING_S."""
        kill(daemon)
        gate.set()
        sql.execute(
            "UPDATE worker.outbox SET next_attempt_at = now() - interval '1 s' WHERE sending_token IS NOT NULL"
        )

    variables = {"BACKEND_URL": backend.url, "WEBHOOK_SECRET": SECRET}
    held: list[receiver.Webhook] = []
    gate = threading.Event()
    backend.reply = hold
    daemon = start_daemon(**variables)
    job = enqueue(engine, "1", photos("mug.png", mug))
    ended(sql)
    # Its first event is sent and not marked, and its end is committed and not sent.
    until(lambda: held)
    assert scalar(sql, "SELECT attempts FROM worker.outbox WHERE terminal") == 0
    daemon_dies()

    held, gate = [], threading.Event()
    backend.reply = hold_the_end
    daemon = start_daemon(**variables, ready=False)
    until(lambda: held)
    # Now its end is sent and not marked.
    assert scalar(sql, "SELECT delivered_at FROM worker.outbox WHERE terminal") is None
    daemon_dies()

    backend.reply = lambda _, __: (200, {})
    daemon = start_daemon(**variables, ready=False)
    until(lambda: scalar(sql, UNDELIVERED) == 0, what="all webhooks")
    kill(daemon)
    check(backend, {job: "completed"})
    assert [webhook.id for webhook in backend.seen].count(held[0].id) == 2
    assert scalar(sql, "SELECT attempts FROM jobs") == 1, "no finished job is done again"


def test_the_existing_backend_that_writes_what_it_is_told_into_the_same_row_does_no_harm(
    start_daemon: StartDaemon,
    engine: Engine,
    sql: psycopg.Connection,
    database_url: str,
    photos: PutPhoto,
    mug: bytes,
    backend: Backend,
) -> None:
    """Its handler writes up to 2 s late, before or after its answer, sometimes twice, through the view of the docs."""
    sql.execute(code("sql").encode())
    dice = random.Random(5)
    writers: list[threading.Thread] = []
    raised: list[Exception] = []

    def write(event: dict[str, Any], delay_s: float) -> None:
        time.sleep(delay_s)
        try:
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute(
                    "UPDATE generation_jobs SET status = %s, model_url = %s, error_message = %s, metadata = %s,"
                    " updated_at = now() WHERE id = %s",
                    [
                        event["status"],
                        event.get("modelUrl"),
                        event.get("errorMessage"),
                        Jsonb(event["metadata"] | {f"seen_{event['status']}": True}),
                        event["jobId"],
                    ],
                )
        except psycopg.Error as error:
            raised.append(error)

    def handle(webhook: receiver.Webhook, _: BaseHTTPRequestHandler) -> Answer:
        times = dice.choice([1, 1, 2])
        late = [dice.choice([0, 0.2, 1, 2]) for _ in range(times)]
        for delay_s in late:
            writer = threading.Thread(target=write, args=[webhook.event, delay_s])
            writers.append(writer)
            writer.start()
        if dice.random() < 0.3:
            writers[-1].join()
        return dice.choices([(200, {}), (500, {"retry-after": "1"})], [5, 1])[0]

    backend.reply = handle
    daemon = start_daemon(BACKEND_URL=backend.url, WEBHOOK_SECRET=SECRET)
    good, bad = photos("mug.png", mug), photos("text.png", b"no photo")
    ends = {}
    for n, (url, end) in enumerate(
        [(good, "completed"), (bad, "failed"), (good, "completed"), (bad, "failed")]
    ):
        ends[enqueue(engine, str(n), url, order=n, stock=1)] = end
        # What the backend does elsewhere with its own keys must not be undone by a late write.
        sql.execute(
            """UPDATE generation_jobs SET metadata = metadata || '{"stock": 2}' WHERE status <> 'pending'"""
        )
    ended(sql)
    sql.execute("""UPDATE generation_jobs SET metadata = metadata || '{"stock": 3, "checked": true}'""")
    rows = "SELECT id::text, status::text, model_url, error_code, progress, metadata -> 'worker' FROM jobs ORDER BY id"
    right = sql.execute(rows.encode()).fetchall()
    until(lambda: scalar(sql, UNDELIVERED) == 0, 60, "all webhooks")
    for writer in writers:
        writer.join()

    assert raised == []
    assert sql.execute(rows.encode()).fetchall() == right
    assert {job: status for job, status, *_ in right} == ends
    found = {
        job: {k: v for k, v in metadata.items() if k != "worker"}
        for job, metadata in sql.execute("SELECT id::text, metadata FROM jobs").fetchall()
    }
    assert found == {
        job: {"order": n, "stock": 3, "checked": True, "seen_processing": True, f"seen_{end}": True}
        for n, (job, end) in enumerate(ends.items())
    }
    check(backend, ends)
    assert {key for event in backend.events for key in event} <= KEYS
    for _, status, url, *_ in right:
        if status == "completed":
            version = Path(url.removeprefix("file://").partition("?")[0])
            assert version.read_bytes() == version.parent.with_suffix(".glb").read_bytes(), "it is published"
    assert daemon.stop() == 0
