"""What a daemon does for the queue as a whole, and when it does it next."""

import threading
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from conftest import HOST, until
from sqlalchemy.engine import Engine

from worker.core.errors import JobError
from worker.core.settings import Settings
from worker.database.monitor import DatabaseMonitor
from worker.jobs import hosts, queue
from worker.jobs.upkeep import BATCH, Upkeep
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


def insert(sql: psycopg.Connection, *start_by: str, **columns: Any) -> None:
    """Insert a job for each start_by, given as an interval from now."""
    names = ", ".join(["shop", "product_id", "image_urls", "start_by", *columns])
    places = "".join(", %s" for _ in columns)
    for n, ahead in enumerate(start_by):
        sql.execute(
            f"INSERT INTO jobs ({names}) VALUES ('a', %s, '{{http://a/b}}', now() + %s::interval{places})".encode(),
            [str(n), ahead, *columns.values()],
        )


def test_jobs_that_have_not_begun_in_time_are_cancelled_and_a_round_is_planned_for_the_next(
    keeper: Upkeep, engine: Engine, sql: psycopg.Connection
) -> None:
    insert(sql, "3 s", "60 s", run_after="2999-01-01")
    insert(sql, *["-1 s"] * (BATCH + 2), batch="monday")
    assert hosts.check_in(engine, HOST).late
    keeper.run_once()
    assert sql.execute(
        "SELECT status::text, error_code, error_message, attempts, started_at, completed_at >= start_by, count(*)"
        " FROM jobs GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1"
    ).fetchall() == [
        ("cancelled", "expired", JobError("expired").message, 0, None, True, BATCH + 2),
        ("pending", None, None, 0, None, None, 2),
    ]
    seen = hosts.check_in(engine, HOST)
    assert not seen.late
    assert seen.seconds
    assert 0 < seen.seconds <= 3
    assert sql.execute("SELECT total, cancelled FROM batch_status").fetchone() == (BATCH + 2, BATCH + 2)
    assert sql.execute(
        "SELECT body::jsonb ->> 'status', body::jsonb ->> 'errorCode', count(*)"
        " FROM worker.outbox WHERE type = 'job.updated' GROUP BY 1, 2"
    ).fetchall() == [("cancelled", "expired", BATCH + 2)]
    keeper.run_once()
    assert sql.execute("SELECT count(*) FROM worker.outbox WHERE type = 'batch.finished'").fetchone() == (1,)


def test_a_round_says_when_the_waiting_jobs_will_start(
    keeper: Upkeep, engine: Engine, sql: psycopg.Connection
) -> None:
    for n in range(3):
        queue.enqueue(engine, shop="a", product_id=str(n), image_urls=["http://a/b"])
    sql.execute(
        "INSERT INTO worker.measured_seconds VALUES ('default', '', 'balanced', '{60, 60, 60}', 3, 60, now())"
    )
    keeper.settings = Settings(shop_concurrency=1)
    keeper.host = replace(HOST, lanes=3)
    keeper.run_once()
    waits = "SELECT round(extract(epoch FROM estimated_wait))::int FROM job_status ORDER BY 1"
    assert sql.execute(waits).fetchall() == [(0,), (60,), (120,)]
    sql.execute("DELETE FROM jobs")
    sql.execute("UPDATE worker.forecasts SET next_at = now()")
    keeper.run_once()
    assert sql.execute("SELECT count(*) FROM worker.forecasts").fetchone() == (0,)


def test_a_late_job_that_somebody_s_transaction_holds_is_looked_for_soon(
    keeper: Upkeep, sql: psycopg.Connection, database_url: str
) -> None:
    insert(sql, "-1 s")
    with psycopg.connect(database_url) as person:
        person.execute("SELECT FROM jobs FOR UPDATE")
        assert keeper.run_once() <= 1
    keeper.run_once()
    assert sql.execute("SELECT error_code FROM jobs").fetchone() == ("expired",)


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
