"""The sender against a real server."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import certificates
import forward_proxy
import psycopg
import pytest
import receiver
from conftest import until
from pydantic import SecretStr
from receiver import SECRET, Answer, Backend
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from standardwebhooks import Webhook

from worker.core.errors import JobError
from worker.core.settings import ConfigError, Settings
from worker.jobs import queue
from worker.webhooks import outbox
from worker.webhooks import sender as sending
from worker.webhooks.sender import Sender

MakeSender = Callable[..., Sender]


@pytest.fixture
def backend() -> Iterator[Backend]:
    with receiver.serve() as server:
        yield server


@pytest.fixture
def make_sender(engine: Engine, backend: Backend) -> MakeSender:
    def make(**settings: object) -> Sender:
        found = {"backend_url": backend.url + "/", "webhook_secret": SecretStr(SECRET)} | settings
        return Sender(engine, Settings().model_copy(update=found))

    return make


@pytest.fixture
def sender(make_sender: MakeSender) -> Sender:
    return make_sender()


def start_job(engine: Engine, product: str = "1") -> queue.Job:
    queue.enqueue(engine, shop="a", product_id=product, image_urls=["http://a/b"], metadata={"mine": 1})
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    return job


def report(engine: Engine, job: queue.Job, progress: int) -> None:
    queue.report(engine, job, progress=progress, stage=f"at {progress}", lease_s=30)


def complete(engine: Engine, job: queue.Job) -> None:
    queue.complete(engine, job, model_url="https://m/1.glb", report={"engine": "relief"})


def due_now(sql: psycopg.Connection) -> None:
    sql.execute(
        "UPDATE worker.outbox SET next_attempt_at = now(), sending_token = NULL WHERE next_attempt_at IS NOT NULL"
    )


def drain(sender: Sender) -> None:
    """What is due is sent, as by a daemon that stops."""
    sender.stopping.set()
    sender.run()


def test_events_arrive_in_order_signed_and_in_camel_case(
    engine: Engine, sender: Sender, backend: Backend
) -> None:
    job = start_job(engine)
    drain(sender)
    report(engine, job, 40)
    drain(sender)
    complete(engine, job)
    drain(sender)
    assert [webhook.path for webhook in backend.got] == ["/api/models/webhook/update"] * 3
    assert [(e["status"], e["progress"]) for e in backend.events] == [
        ("processing", 5),
        ("processing", 40),
        ("completed", 100),
    ]
    last = backend.events[-1]
    assert last == {
        "jobId": str(job.id),
        "status": "completed",
        "seq": last["seq"],
        "progress": 100,
        "stage": "completed",
        "modelUrl": "https://m/1.glb",
        "metadata": {"mine": 1, "worker": {"engine": "relief"}},
    }
    assert len({e["seq"] for e in backend.events}) == 3
    for webhook in backend.got:
        assert Webhook(SECRET).verify(webhook.body, webhook.headers) == webhook.event
        assert webhook.headers["content-type"] == "application/json"
        assert webhook.headers["user-agent"].startswith("shop-model-worker/")
        assert "authorization" not in webhook.headers


def test_a_failure_tells_why(engine: Engine, sender: Sender, backend: Backend) -> None:
    queue.fail(engine, start_job(engine), JobError("no_object"), report={})
    drain(sender)
    last = backend.events[-1]
    assert (last["status"], last["errorCode"], last["errorMessage"]) == (
        "failed",
        "no_object",
        JobError("no_object").message,
    )


def test_a_bearer_token_goes_along_where_one_is_set(
    engine: Engine, make_sender: MakeSender, backend: Backend
) -> None:
    start_job(engine)
    drain(make_sender(webhook_bearer_token=SecretStr("abc.def"), webhook_secret=None))
    assert backend.got[0].headers["authorization"] == "Bearer abc.def"
    assert "webhook-signature" not in backend.got[0].headers


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("webhook_bearer_token", SecretStr("planted with spaces")),
        ("webhook_bearer_token", SecretStr("planted\nheader: x")),
        ("webhook_bearer_token", SecretStr("plantéd")),
        ("backend_url", "ftp://planted"),
        ("backend_url", "planted"),
        ("backend_url", "https://user:planted@backend.example"),
        ("backend_url", "https://backend.example/?token=planted"),
        ("backend_url", "https://backend.example:planted/"),
        ("webhook_secret", SecretStr("planted!")),
    ],
)
def test_a_malformed_setting_is_named_and_not_repeated(
    make_sender: MakeSender, setting: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=r"WEBHOOK_SECRET|WORKER_WEBHOOK_BEARER_TOKEN|BACKEND_URL") as error:
        make_sender(**{setting: value})
    assert "plant" not in str(error.value)


def test_a_backend_that_is_down_gets_it_later_with_the_same_id_and_bytes(
    engine: Engine, sql: psycopg.Connection, sender: Sender, backend: Backend
) -> None:
    job = start_job(engine)
    backend.answers = [(503, {}), (429, {"retry-after": "100"})]
    drain(sender)
    report(engine, job, 40)
    complete(engine, job)
    assert sql.execute("SELECT count(*) FROM worker.outbox WHERE delivered_at IS NULL").fetchone() == (3,)
    due_now(sql)
    drain(sender)
    wait = sql.execute(
        "SELECT extract(epoch FROM next_attempt_at - now())::float FROM worker.outbox ORDER BY seq LIMIT 1"
    ).fetchone()
    assert wait
    assert 60 < wait[0] <= 100
    due_now(sql)
    drain(sender)
    assert [e["progress"] for e in backend.events] == [5, 40, 100]
    tries = backend.seen[:3]
    assert len({(webhook.id, webhook.body) for webhook in tries}) == 1
    assert len({webhook.id for webhook in backend.got}) == 3


def test_an_event_that_waits_holds_up_its_own_job_alone(
    engine: Engine, sender: Sender, backend: Backend
) -> None:
    first = start_job(engine, "1")
    backend.answers = [(500, {})]
    drain(sender)
    complete(engine, first)
    second = start_job(engine, "2")
    drain(sender)
    assert {e["jobId"] for e in backend.events} == {str(second.id)}


def test_a_backend_that_refuses_for_good_is_left_in_peace(
    engine: Engine, sql: psycopg.Connection, sender: Sender, backend: Backend
) -> None:
    job = start_job(engine)
    backend.answers = [(410, {})]
    drain(sender)
    complete(engine, job)
    drain(sender)
    assert [e["status"] for e in backend.events] == ["completed"], "a dead event holds up none after it"
    assert sql.execute("SELECT last_error FROM worker.outbox WHERE dead_at IS NOT NULL").fetchone() == (
        "the backend answered 410",
    )


def test_other_refusals_are_tried_five_times_and_no_redirect_is_followed(
    engine: Engine, sql: psycopg.Connection, sender: Sender, backend: Backend
) -> None:
    start_job(engine)
    with receiver.serve() as elsewhere:
        # What is no refusal does not count.
        backend.answers = [(503, {}), (302, {"location": elsewhere.url}), *[(404, {})] * 5]
        for _ in range(8):
            drain(sender)
            due_now(sql)
        assert elsewhere.seen == []
    assert len(backend.answers) == 1
    assert sql.execute("SELECT attempts, refusals, dead_at IS NOT NULL FROM worker.outbox").fetchone() == (
        6,
        5,
        True,
    )


def endless_body(_: receiver.Webhook, handler: BaseHTTPRequestHandler) -> Answer | None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65536)


def dripping_body(_: receiver.Webhook, handler: BaseHTTPRequestHandler) -> Answer | None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.05)


def dripping_headers(_: receiver.Webhook, handler: BaseHTTPRequestHandler) -> Answer | None:
    while True:
        handler.wfile.write(b"H")
        time.sleep(0.05)


def hung_up(_: receiver.Webhook, handler: BaseHTTPRequestHandler) -> Answer | None:
    handler.connection.close()
    return None


def nonsense(_: receiver.Webhook, handler: BaseHTTPRequestHandler) -> Answer | None:
    handler.wfile.write(b"220 smtp.example ready\r\n\r\n")
    return None


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (endless_body, None),
        (dripping_body, "no whole answer within"),
        (dripping_headers, "no whole answer within"),
        (hung_up, "RemoteProtocolError|ReadError"),
        (nonsense, "RemoteProtocolError"),
    ],
)
def test_an_answer_is_read_to_64_kb_and_for_a_bounded_time(
    engine: Engine,
    sql: psycopg.Connection,
    sender: Sender,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    reply: Callable[[receiver.Webhook, BaseHTTPRequestHandler], Answer | None],
    reason: str | None,
) -> None:
    monkeypatch.setattr(sending, "TOTAL_S", 0.5)
    backend.reply = reply
    start_job(engine)
    drain(sender)
    row = sql.execute("SELECT delivered_at IS NOT NULL, last_error ~ %s FROM worker.outbox", [reason])
    assert row.fetchone() == ((True, None) if reason is None else (False, True))
    assert len(backend.seen) == 1


def test_nobody_listens(engine: Engine, sql: psycopg.Connection, make_sender: MakeSender) -> None:
    start_job(engine)
    drain(make_sender(backend_url="http://127.0.0.1:9"))
    row = sql.execute("SELECT attempts, refusals, last_error ~ '^ConnectError' FROM worker.outbox").fetchone()
    assert row == (1, 0, True)


def test_several_senders_share_the_outbox_without_doubling(
    engine: Engine, make_sender: MakeSender, backend: Backend
) -> None:
    jobs = [start_job(engine, str(n)) for n in range(30)]
    for job in jobs:
        complete(engine, job)
    threads = [threading.Thread(target=drain, args=[make_sender()]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drain(make_sender())
    seen: dict[str, list[int]] = {}
    for event in backend.events:
        seen.setdefault(event["jobId"], []).append(event["progress"])
    assert seen == {str(job.id): [5, 100] for job in jobs}
    assert len(backend.seen) == 60


def test_a_slow_answer_holds_up_no_other_job_and_one_event_of_a_job_is_under_way(
    engine: Engine, make_sender: MakeSender, backend: Backend
) -> None:
    slow = [start_job(engine, f"slow {n}") for n in range(2)]
    gate = threading.Event()
    under_way: list[str] = []

    def reply(webhook: receiver.Webhook, _: BaseHTTPRequestHandler) -> Answer:
        job = webhook.event["jobId"]
        assert job not in under_way
        under_way.append(job)
        if job in {str(held.id) for held in slow}:
            gate.wait(60)
        under_way.remove(job)
        return 200, {}

    backend.reply = reply
    senders = [make_sender(), make_sender()]
    for sender in senders:
        sender.start()
    until(lambda: len(under_way) == 2)
    for job in slow:
        complete(engine, job)
    others = [start_job(engine, str(n)) for n in range(5)]
    for job in others:
        complete(engine, job)
    for sender in senders:
        sender.wake()
    until(lambda: len(backend.got) == 10, what="the other jobs' events")
    assert {e["jobId"] for e in backend.events} == {str(job.id) for job in others}
    gate.set()
    until(lambda: len(backend.got) == 14, what="the slow jobs'")
    for held in slow:
        assert [e["progress"] for e in backend.events if e["jobId"] == str(held.id)] == [5, 100]
    for sender in senders:
        sender.stop(60)
        assert not sender.is_alive()


def test_a_sender_that_was_overtaken_marks_nothing(
    engine: Engine, sql: psycopg.Connection, make_sender: MakeSender, backend: Backend
) -> None:
    start_job(engine)
    gate = threading.Event()
    backend.reply = lambda _, __: (200 if gate.wait(60) else 500, {})
    frozen = make_sender()
    frozen.start()
    until(lambda: backend.seen)
    due_now(sql)
    backend.answers = [(500, {})]
    drain(make_sender())
    gate.set()
    frozen.stop(60)
    row = sql.execute("SELECT attempts, delivered_at, last_error FROM worker.outbox").fetchone()
    assert row == (2, None, "the backend answered 500")


def test_it_sends_when_nudged_and_what_is_left_when_stopped(
    engine: Engine, sender: Sender, backend: Backend
) -> None:
    sender.start()
    job = start_job(engine)
    sender.wake()
    until(lambda: backend.got)
    complete(engine, job)
    sender.stop(60)
    assert [e["progress"] for e in backend.events] == [5, 100]


def test_it_wakes_by_itself_when_a_retry_is_due(engine: Engine, sender: Sender, backend: Backend) -> None:
    backend.answers = [(503, {})]
    start_job(engine)
    sender.start()
    until(lambda: backend.got)
    sender.stop(60)
    assert len(backend.seen) == 2


def test_while_it_is_idle_it_asks_the_database_twice_a_minute(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(outbox, "take", lambda *_, **__: asked.append("take"))
    monkeypatch.setattr(outbox, "due_in", lambda *_: asked.append("due_in"))
    sender.start()
    until(lambda: len(asked) == 2)
    time.sleep(1.5)  # nothing is to happen
    assert asked == ["take", "due_in"]
    assert sending.IDLE_S == 60
    sender.stop(60)


def test_a_database_that_is_away_is_told_once_and_nothing_is_lost(
    engine: Engine,
    sender: Sender,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sending, "AWAY_S", 0.1)
    start_job(engine)
    away = threading.Event()
    away.set()
    tries = []
    take = outbox.take

    def sometimes(engine: Engine, *, sending_s: float) -> outbox.Event | None:
        tries.append(sending_s)
        if away.is_set():
            raise SQLAlchemyError("away")
        return take(engine, sending_s=sending_s)

    monkeypatch.setattr(outbox, "take", sometimes)
    sender.start()
    until(lambda: len(tries) > 2)
    away.clear()
    until(lambda: backend.got)
    sender.stop(60)
    log = capsys.readouterr().out
    assert (log.count("webhooks_paused"), log.count("webhooks_resumed")) == (1, 1)


def test_every_event_says_its_type_and_other_types_are_sent_to_those_who_ask(
    engine: Engine, sql: psycopg.Connection, backend: Backend, make_sender: MakeSender
) -> None:
    start_job(engine)
    write = """SELECT worker.write_shop_event('a', 'batch.finished', '{"batch": "monday"}')"""
    sql.execute(write)
    drain(make_sender())
    (first,) = backend.seen
    assert first.headers["webhook-type"] == "job.updated"
    assert "type" not in first.event
    assert outbox.counts(engine)["waiting"] == 0, "what the backend has not asked for waits for nobody"

    sql.execute(write)
    drain(make_sender(webhook_events=("job.updated", "batch.finished"), webhook_type_in_body=True))
    received = backend.seen[-1]
    assert len(backend.seen) == 2
    assert received.headers["webhook-type"] == received.event["type"] == "batch.finished"
    assert received.event["batch"] == "monday"
    assert "jobId" not in received.event
    Webhook(SECRET).verify(received.body, received.headers)


def test_the_backend_s_own_authority_and_a_proxy_are_found_in_the_environment_and_no_log_has_the_password(
    engine: Engine,
    sql: psycopg.Connection,
    make_sender: MakeSender,
    backend: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    issued = certificates.issue(tmp_path, "backend.test")
    backend.socket = issued.context().wrap_socket(backend.socket, server_side=True)
    start_job(engine)
    with forward_proxy.serve(backend.server_port, "us", "planted-right") as proxy:
        address = f"127.0.0.1:{proxy.server_port}"
        monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority))
        monkeypatch.setenv("HTTPS_PROXY", f"http://us:planted-wrong@{address}")
        drain(make_sender(backend_url="https://backend.test"))
        (reason,) = sql.execute("SELECT last_error FROM worker.outbox").fetchall()[0]
        assert reason.startswith("ProxyError: 407")
        monkeypatch.setenv("HTTPS_PROXY", f"http://us:planted-right@{address}")
        due_now(sql)
        drain(make_sender(backend_url="https://backend.test"))
        assert proxy.asked == ["CONNECT backend.test:443"]
    assert [event["status"] for event in backend.events] == ["processing"]
    assert "planted" not in capsys.readouterr().out + reason


def test_an_answer_with_a_malformed_header_is_an_answer(
    engine: Engine, sql: psycopg.Connection, sender: Sender, backend: Backend
) -> None:
    backend.answers = [(204, {"X Cache Status": "MISS"})]
    start_job(engine)
    drain(sender)
    assert sql.execute("SELECT delivered_at IS NOT NULL, attempts FROM worker.outbox").fetchall() == [
        (True, 1)
    ]


@pytest.mark.parametrize("end", ["", "/", sending.PATH, sending.PATH + "/"])
def test_backend_url_may_be_the_whole_url_of_the_webhooks(end: str) -> None:
    for start in ("https://b.example", "https://b.example/shop"):
        assert sending.webhook_url(start + end) == start + sending.PATH
