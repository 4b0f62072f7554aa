"""What a daemon does for the queue as a whole, and when it does it next."""

import threading
import time
from typing import Any

import psycopg
import pytest
from conftest import HOST, until
from sqlalchemy.engine import Engine

from worker.core.settings import Settings
from worker.database.monitor import DatabaseMonitor
from worker.jobs import queue
from worker.jobs.upkeep import Upkeep
from worker.jobs.wakeup import Listener, Wakeup


@pytest.fixture
def keeper(engine: Engine) -> Upkeep:
    settings = Settings()
    monitor = DatabaseMonitor(engine, lambda: None)
    listener = Listener(
        settings, engine, monitor, on_insert=lambda: None, on_cancel=lambda _: None, on_event=lambda: None
    )
    listener.alive = True
    return Upkeep(
        settings,
        engine,
        HOST,
        wakeup=Wakeup(),
        listener=listener,
        monitor=monitor,
        wake_sender=lambda: None,
    )


def claim(engine: Engine) -> Any:
    queue.enqueue(engine, shop="a", product_id="1", image_urls=["http://a/b"])
    return queue.claim(engine, worker="w", lease_s=3)


def test_where_notifications_arrive_it_looks_seldom_and_else_every_second_and_then_less(
    keeper: Upkeep,
) -> None:
    assert 8 <= keeper.run_once() <= 10
    keeper.listener.alive = False
    waits = [keeper.run_once() for _ in range(10)]
    assert waits[0] <= 1.3
    assert 4 <= waits[-1] <= 5


def test_a_lost_job_is_looked_for_when_its_lease_runs_out_and_rescued_then(
    keeper: Upkeep, engine: Engine, sql: psycopg.Connection
) -> None:
    assert claim(engine)
    assert 0 < keeper.run_once() < 3.4
    with sql.transaction():
        sql.execute("SELECT set_config('worker.lease', 'queue', true)")
        sql.execute("UPDATE jobs SET lease_expires_at = now() - interval '1 s'")
    keeper.run_once()
    assert sql.execute("SELECT status::text FROM jobs").fetchone() == ("pending",)
    assert keeper.wakeup.wait(0), "a lane is woken"


def test_a_lost_job_that_somebody_s_transaction_holds_keeps_no_other_from_a_lane(
    keeper: Upkeep, engine: Engine, sql: psycopg.Connection, database_url: str
) -> None:
    lost = claim(engine)
    with sql.transaction():
        sql.execute("SELECT set_config('worker.lease', 'queue', true)")
        sql.execute("UPDATE jobs SET lease_expires_at = now() - interval '1 s'")
    queue.enqueue(engine, shop="a", product_id="2", image_urls=["http://a/b"])
    woken: list[bool] = []
    lane = threading.Thread(target=lambda: woken.append(keeper.wakeup.wait(60)))
    with psycopg.connect(database_url) as person:
        person.execute("UPDATE jobs SET priority = 1 WHERE id = %s", [lost.id])
        lane.start()
        until(lambda: keeper.wakeup.waiting)
        keeper.run_once()
        lane.join()
    assert woken == [True]


def test_after_an_outage_who_finished_a_job_writes_it_before_it_is_rescued(
    keeper: Upkeep, engine: Engine, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert claim(engine)
    with sql.transaction():
        sql.execute("SELECT set_config('worker.lease', 'queue', true)")
        sql.execute("UPDATE jobs SET lease_expires_at = now() - interval '1 s'")
    monkeypatch.setattr(keeper.monitor, "recovered_at", time.monotonic())
    assert keeper.run_once() <= 1, "but soon"
    assert sql.execute("SELECT status::text FROM jobs").fetchone() == ("processing",)


@pytest.mark.parametrize(("backend", "kept"), [(None, False), ("http://127.0.0.1:9", True)])
def test_without_a_backend_the_events_that_wait_for_one_do_not_pile_up(
    keeper: Upkeep, engine: Engine, sql: psycopg.Connection, *, backend: str | None, kept: bool
) -> None:
    keeper.settings = Settings().model_copy(update={"backend_url": backend, "keep_jobs_days": 1})
    queue.complete(engine, claim(engine), model_url="x", report={})
    with sql.transaction():
        sql.execute("SELECT set_config('worker.lease', 'queue', true)")
        sql.execute("UPDATE jobs SET completed_at = now() - interval '3 d'")
    sql.execute("UPDATE worker.outbox SET created_at = now() - interval '3 d'")
    keeper.prune()
    assert sql.execute("SELECT EXISTS (SELECT FROM worker.outbox)").fetchone() == (kept,)
    assert sql.execute("SELECT EXISTS (SELECT FROM jobs)").fetchone() == (kept,), "until its events are sent"
