"""What the threads of a daemon know of the database, and what it says of that. Real outages: tests/test_outages.py."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from conftest import HOST, until
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from worker import database
from worker.core import threads
from worker.database import monitor
from worker.database.monitor import DatabaseMonitor
from worker.jobs import hosts, queue


@pytest.fixture
def down() -> threading.Event:
    return threading.Event()


@pytest.fixture
def watched(engine: Engine, down: threading.Event) -> Iterator[DatabaseMonitor]:
    def probe() -> None:
        if down.is_set():
            raise psycopg.OperationalError("connection refused")
        database.probe(engine.url)

    yield DatabaseMonitor(engine, probe)
    down.clear()


def terminate(sql: psycopg.Connection) -> None:
    sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def events(logs: list[Any]) -> list[str]:
    return [line["event"] for line in logs]


def test_many_threads_lose_the_database_with_one_line_and_get_it_back_with_one(
    engine: Engine, sql: psycopg.Connection, watched: DatabaseMonitor, down: threading.Event
) -> None:
    def work() -> None:
        while not done.is_set():
            try:
                hosts.check_in(engine, HOST)
                connected.add(threading.get_ident())
            except DBAPIError:
                watched.wait(0.1)

    done = threading.Event()
    connected: set[int] = set()
    with capture_logs() as logs:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(connected) == 4)
        down.set()
        terminate(sql)
        until(lambda: not watched.available)
        down.clear()
        assert watched.wait(60)
        connected.clear()
        until(lambda: len(connected) == 4)
        done.set()
        for thread in threads:
            thread.join()
    assert events(logs) == ["database_lost", "database_recovered"]


def test_a_read_only_server_is_left_like_a_dead_one(
    engine: Engine, sql: psycopg.Connection, watched: DatabaseMonitor, database_url: str
) -> None:
    """After a failover the old connection ends at a standby; a later one finds the new primary."""
    name = database_url.rpartition("/")[2]
    sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    engine.dispose()
    with capture_logs() as logs:
        with pytest.raises(DBAPIError) as error:
            queue.claim(engine, worker="w", lease_s=30)
        assert monitor.is_connection_lost(error.value.orig)
        assert not watched.wait(1)
        sql.execute(f"SET default_transaction_read_only = off; ALTER DATABASE {name} RESET ALL".encode())
        assert watched.wait(60)
        assert queue.claim(engine, worker="w", lease_s=30) is None
    assert events(logs) == ["database_lost", "database_recovered"]


def test_a_wrong_password_is_tried_seldom(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def probe() -> None:
        tries.append(1)
        raise psycopg.OperationalError('FATAL:  password authentication failed for user "worker"')

    monkeypatch.setattr(monitor, "REFUSED_S", (0.5, 300.0))
    wrong = database.connect(engine.url.set(password="wrong"))
    seen = DatabaseMonitor(wrong, probe)
    with capture_logs() as logs:
        with pytest.raises(DBAPIError):
            hosts.check_in(wrong, HOST)
        until(lambda: tries)
        time.sleep(1)
    ours = [line for line in logs if "password authentication failed" in line.get("reason", "")]
    assert events(ours) == ["database_lost"]
    assert len(tries) == 1
    assert not seen.available


def test_a_statement_that_is_never_answered_is_given_up(
    engine: Engine, sql: psycopg.Connection, watched: DatabaseMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.database.connection.ANSWER_S", 0.5)
    with sql.transaction():
        sql.execute("LOCK TABLE jobs")
        with pytest.raises(DBAPIError, match="no answer within"):
            hosts.check_in(engine, HOST)
    assert watched.wait(60)
    assert not hosts.check_in(engine, HOST).due


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (psycopg.OperationalError("connection refused"), True),
        (psycopg.errors.AdminShutdown(), True),
        (psycopg.errors.ReadOnlySqlTransaction(), True),
        (psycopg.errors.TooManyConnections(), True),
        (psycopg.errors.SerializationFailure(), False),
        (psycopg.errors.UndefinedTable(), False),
        (psycopg.errors.QueryCanceled(), False),
        (ValueError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_means_that_the_database_is_away(error: BaseException, *, is_lost: bool) -> None:
    assert monitor.is_connection_lost(error) is is_lost


def test_a_daemon_that_gets_no_thread_does_not_wait_for_ever(
    engine: Engine, sql: psycopg.Connection, watched: DatabaseMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on threads is played: root has none."""
    begin = threads.start_thread
    refused = set[str]()

    def scarce(target: Callable[[], object]) -> None:
        if target.__name__ not in refused:
            refused.add(target.__name__)
            raise RuntimeError("can't start new thread")
        begin(target)

    monkeypatch.setattr(threads, "start_thread", scarce)
    for _ in range(2):
        assert _reached(engine)
        terminate(sql)
        assert not _reached(engine)
        assert watched.wait(60)
    assert refused == {"_watch", "_try"}
    assert _reached(engine)


def test_a_daemon_whose_watch_over_an_outage_ends_does_not_wait_for_ever(
    engine: Engine,
    sql: psycopg.Connection,
    watched: DatabaseMonitor,
    down: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", ended.append)
    hosts.check_in(engine, HOST)
    down.set()
    terminate(sql)
    with capture_logs() as logs:
        with monkeypatch.context() as scarce:
            scarce.setattr(monitor, "jitter", None)  # as memory is: what it wants is not to be had
            with pytest.raises(DBAPIError):
                hosts.check_in(engine, HOST)
            until(lambda: ended)
        assert watched.wait(60), "who tries next finds out"
    assert _reached(engine)
    assert events(logs) == ["database_lost"]


def _reached(engine: Engine) -> bool:
    try:
        hosts.check_in(engine, HOST)
    except DBAPIError:
        return False
    return True
