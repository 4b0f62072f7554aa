import threading
import time

import psycopg
import pytest
from conftest import until
from pydantic import SecretStr
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs

from worker import database
from worker.core.settings import Settings
from worker.database.monitor import DatabaseMonitor
from worker.jobs import queue
from worker.jobs import wakeup as module
from worker.jobs.wakeup import Listener, Wakeup
from worker.local.postgres import Postgres

INSERT = "INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a', '1', '{http://a/b}')"


def test_a_wake_up_while_nobody_waits_is_kept_and_used_once() -> None:
    wakeup = Wakeup()
    wakeup.wake()
    wakeup.wake()
    began = time.monotonic()
    assert wakeup.wait(60)
    assert time.monotonic() - began < 30
    assert not wakeup.wait(0.01)


def test_a_wake_up_is_for_one_lane_and_the_end_for_all() -> None:
    wakeup = Wakeup()
    woken: list[bool] = []
    threads = [threading.Thread(target=lambda: woken.append(wakeup.wait(60))) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: wakeup.waiting)
    wakeup.wake()
    until(lambda: woken)
    time.sleep(0.1)
    assert woken == [True]
    wakeup.wake_all()
    for thread in threads:
        thread.join()
    assert woken == [True] * 4


class Heard:
    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.inserted = 0
        self.cancelled: list[str] = []
        self.monitor = DatabaseMonitor(engine, lambda: database.probe(engine.url))
        self.listener = Listener(
            settings,
            engine,
            self.monitor,
            on_insert=self.insert,
            on_cancel=self.cancelled.append,
            on_event=lambda: None,
        )
        self.listener.start()

    def insert(self) -> None:
        self.inserted += 1


@pytest.fixture
def heard(database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Heard:
    monkeypatch.setattr(module, "RETRY_S", (0.2, 0.2))
    monkeypatch.setattr(module, "ECHO_EVERY_S", 0.5)
    settings = Settings().model_copy(update={"database_url": SecretStr(database_url)})
    return Heard(settings, engine)


def test_inserts_and_cancels_are_heard_as_long_as_the_echo_is(
    heard: Heard, engine: Engine, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: heard.inserted == 1)
    assert heard.listener.alive
    sql.execute(INSERT)
    until(lambda: heard.inserted == 2)
    sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    until(lambda: heard.inserted == 3, what="the listener to come back")
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    sql.execute(INSERT)
    sql.execute("UPDATE jobs SET cancel_requested_at = now()")  # nobody works on the second one
    until(lambda: heard.cancelled == [str(job.id)])

    # As behind a transaction pooler, where LISTEN succeeds and nothing is ever heard.
    with capture_logs() as logs:
        monkeypatch.setattr(module, "ECHO_WITHIN_S", 0.1)
        monkeypatch.setattr("worker.jobs.queue.notify", lambda *_: None)
        until(lambda: not heard.listener.alive)
        time.sleep(1)
    said = [line["event"] for line in logs if line["event"] in {"listening", "not_listening"}]
    assert said == ["not_listening"]


def test_who_listens_sees_an_outage_first_and_comes_back_with_its_end(
    postgres: Postgres, database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is inserted right after a short outage must not wait for the next poll."""
    monkeypatch.setattr(module, "RETRY_S", (60, 60))
    heard = Heard(Settings().model_copy(update={"database_url": SecretStr(database_url)}), engine)
    until(lambda: heard.inserted == 1)
    name = database_url.rpartition("/")[2]
    with psycopg.connect(postgres.url(), autocommit=True) as admin, capture_logs() as logs:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        until(lambda: not heard.listener.alive and not heard.monitor.available)
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        until(lambda: heard.inserted == 2, what="the listener to come back")
    assert {line["event"] for line in logs} == {
        "not_listening",
        "database_lost",
        "database_recovered",
        "listening",
    }
