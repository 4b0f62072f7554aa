"""Threads where memory is short."""

import _thread
import sys
import threading
from collections.abc import Callable

import psycopg
import pytest
from conftest import HOST, until
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from worker.core import threads
from worker.database.monitor import DatabaseMonitor
from worker.jobs import hosts, queue
from worker.jobs.lease import Lease

Starter = Callable[[Callable[[], object], tuple[()]], int]


@pytest.fixture
def unborn(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What new threads should have run, none of which takes its first step: for that there was no memory."""
    targets: list[Callable[[], object]] = []

    def start(target: Callable[[], object], *_: object, **__: object) -> int:
        targets.append(target)
        return 0

    monkeypatch.setattr(_thread, "start_new_thread", start)
    name = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"
    monkeypatch.setattr(threading, name, start)
    monkeypatch.setattr(threads, "START_S", 0.1)
    return targets


def test_a_thread_runs_beside_us() -> None:
    here, there = threading.get_ident(), list[int]()
    threads.start_thread(lambda: there.append(threading.get_ident()))
    until(lambda: there)
    assert there != [here]


def test_a_thread_that_does_not_begin_in_time_is_none_later_either(
    unborn: list[Callable[[], object]],
) -> None:
    done: list[str] = []
    with pytest.raises(RuntimeError):
        threads.start_thread(lambda: done.append("too late"))
    unborn[0]()
    assert not done


@pytest.mark.usefixtures("unborn")
def test_a_lane_goes_on_where_the_thread_of_a_lease_does_not_begin(engine: Engine) -> None:
    queue.enqueue(engine, shop="a", product_id="1", image_urls=["http://a/b"])
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    with pytest.raises(RuntimeError), Lease(engine, job, 30):
        pass


@pytest.mark.usefixtures("unborn")
def test_a_lane_goes_on_where_the_watch_over_an_outage_does_not_begin(
    engine: Engine, sql: psycopg.Connection
) -> None:
    monitor = DatabaseMonitor(engine, lambda: None)
    hosts.check_in(engine, HOST)
    sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with pytest.raises(DBAPIError):
        hosts.check_in(engine, HOST)
    assert monitor.available, "who tries next finds out"
