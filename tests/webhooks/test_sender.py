"""The outbox and its sender against a real server."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy.engine import Engine
from standardwebhooks import Webhook

from worker.errors import JobError
from worker.jobs import queue
from worker.settings import Settings
from worker.webhooks.sender import Sender

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


class Backend(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []  # given first; then 200
        self.got: list[tuple[str, bytes, dict[str, str]]] = []


class Handler(BaseHTTPRequestHandler):
    server: Backend

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status, headers = self.server.answers.pop(0) if self.server.answers else (200, {})
        if status == 200:
            self.server.got.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def backend() -> Iterator[Backend]:
    server = Backend()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def sender(engine: Engine, backend: Backend) -> Sender:
    return Sender(
        engine,
        Settings().model_copy(
            update={
                "backend_url": f"http://127.0.0.1:{backend.server_port}/",
                "webhook_secret": SecretStr(SECRET),
            }
        ),
    )


def start_job(engine: Engine, product: str = "1") -> queue.Job:
    queue.enqueue(engine, shop="a", product_id=product, image_urls=["http://a/b"], metadata={"mine": 1})
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    return job


def report(engine: Engine, job: queue.Job, progress: int) -> None:
    queue.report(engine, job, progress=progress, stage=f"at {progress}", lease_s=30)


def due_now(sql: psycopg.Connection) -> None:
    sql.execute("UPDATE worker.outbox SET next_attempt_at = now(), sending_until = NULL")


def drain(sender: Sender) -> None:
    while sender.send_one():
        pass


def bodies(backend: Backend) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body, _ in backend.got]


def test_events_arrive_in_order_signed_and_in_camel_case(
    engine: Engine, sender: Sender, backend: Backend
) -> None:
    job = start_job(engine)
    drain(sender)
    report(engine, job, 40)
    drain(sender)
    queue.complete(engine, job, model_url="https://m/1.glb", report={"engine": "relief"})
    drain(sender)
    assert [path for path, _, _ in backend.got] == ["/api/models/webhook/update"] * 3
    events = bodies(backend)
    assert [(e["status"], e["progress"]) for e in events] == [
        ("processing", 5),
        ("processing", 40),
        ("completed", 100),
    ]
    assert events[-1] == {
        "jobId": str(job.id),
        "status": "completed",
        "seq": events[-1]["seq"],
        "progress": 100,
        "stage": "completed",
        "modelUrl": "https://m/1.glb",
        "metadata": {"mine": 1, "worker": {"engine": "relief"}},
    }
    assert len({e["seq"] for e in events}) == 3
    for _, body, headers in backend.got:
        assert Webhook(SECRET).verify(body, headers)


def test_a_failure_tells_why(engine: Engine, sender: Sender, backend: Backend) -> None:
    queue.fail(engine, start_job(engine), JobError("no_object"), report={})
    drain(sender)
    last = bodies(backend)[-1]
    assert (last["status"], last["errorCode"], last["errorMessage"]) == (
        "failed",
        "no_object",
        JobError("no_object").message,
    )


def test_progress_that_was_not_sent_is_one_event_and_the_end_is_another(
    engine: Engine, sender: Sender, backend: Backend
) -> None:
    job = start_job(engine)
    for progress in (10, 40, 50):
        report(engine, job, progress)
    queue.complete(engine, job, model_url="https://m/1.glb", report={})
    drain(sender)
    assert [e["progress"] for e in bodies(backend)] == [50, 100]


def test_a_renewal_is_no_event(engine: Engine, sender: Sender, backend: Backend) -> None:
    job = start_job(engine)
    drain(sender)
    queue.renew(engine, job, lease_s=30)
    drain(sender)
    assert len(backend.got) == 1


def test_a_backend_that_is_down_gets_it_later_with_the_same_id(
    engine: Engine, sql: psycopg.Connection, sender: Sender, backend: Backend
) -> None:
    job = start_job(engine)
    queue.complete(engine, job, model_url="https://m/1.glb", report={})
    backend.answers = [(503, {}), (429, {"retry-after": "100"})]
    drain(sender)
    wait = "SELECT extract(epoch FROM min(next_attempt_at) - now())::float FROM worker.outbox WHERE delivered_at IS NULL AND attempts > 0"
    assert sql.execute("SELECT count(*) FROM worker.outbox WHERE delivered_at IS NULL").fetchone() == (2,)
    due_now(sql)
    drain(sender)
    found = sql.execute(wait).fetchone()
    assert found
    assert 95 < found[0] <= 100
    first = sql.execute("SELECT id::text FROM worker.outbox ORDER BY seq LIMIT 1").fetchone()
    due_now(sql)
    drain(sender)
    assert [e["status"] for e in bodies(backend)] == ["processing", "completed"]
    assert (backend.got[0][2]["webhook-id"],) == first


def test_an_event_that_waits_holds_up_its_own_job_alone(
    engine: Engine, sender: Sender, backend: Backend
) -> None:
    first = start_job(engine, "1")
    backend.answers = [(500, {})]
    drain(sender)
    queue.complete(engine, first, model_url="x", report={})
    second = start_job(engine, "2")
    drain(sender)
    assert {e["jobId"] for e in bodies(backend)} == {str(second.id)}


def test_a_backend_that_refuses_for_good_is_left_in_peace(
    engine: Engine, sql: psycopg.Connection, sender: Sender, backend: Backend
) -> None:
    job = start_job(engine)
    backend.answers = [(410, {})]
    drain(sender)
    queue.complete(engine, job, model_url="x", report={})
    drain(sender)
    assert [e["status"] for e in bodies(backend)] == ["completed"], "a dead event holds up none after it"
    assert sql.execute("SELECT last_error FROM worker.outbox WHERE dead_at IS NOT NULL").fetchone() == (
        "the backend answered 410",
    )


def test_other_refusals_are_tried_five_times(
    engine: Engine, sql: psycopg.Connection, sender: Sender, backend: Backend
) -> None:
    start_job(engine)
    backend.answers = [
        (302, {"location": "http://127.0.0.1:9/"}),
        (404, {}),
        (404, {}),
        (404, {}),
        (404, {}),
        (404, {}),
    ]
    for _ in range(7):
        drain(sender)
        due_now(sql)
    assert len(backend.answers) == 1
    assert sql.execute("SELECT attempts, dead_at IS NOT NULL FROM worker.outbox").fetchone() == (5, True)


def test_several_senders_share_the_outbox(engine: Engine, sender: Sender, backend: Backend) -> None:
    jobs = [start_job(engine, str(n)) for n in range(30)]
    for job in jobs:
        queue.complete(engine, job, model_url="x", report={})
    threads = [threading.Thread(target=drain, args=[sender]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drain(sender)
    seen: dict[str, list[int]] = {}
    for event in bodies(backend):
        seen.setdefault(event["jobId"], []).append(event["progress"])
    assert seen == {str(job.id): [5, 100] for job in jobs}


def test_the_thread_sends_when_nudged_and_what_is_left_when_stopped(
    engine: Engine, sender: Sender, backend: Backend
) -> None:
    sender.start()
    job = start_job(engine)
    sender.nudge()
    end = time.monotonic() + 10
    while not backend.got:
        assert time.monotonic() < end
        time.sleep(0.01)
    queue.complete(engine, job, model_url="x", report={})
    sender.stop(10)
    assert [e["progress"] for e in bodies(backend)] == [5, 100]
