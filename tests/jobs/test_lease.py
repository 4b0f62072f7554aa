import time

import psycopg
import pytest
from conftest import until
from sqlalchemy.engine import Engine

from worker.jobs import queue
from worker.jobs.lease import Lease
from worker.jobs.queue import LeaseLost


def claim(engine: Engine) -> queue.Job:
    queue.enqueue(engine, shop="a", product_id="1", image_urls=["http://a/b"])
    job = queue.claim(engine, worker="w", lease_s=1)
    assert job
    return job


def test_a_job_is_kept_past_its_first_lease(engine: Engine) -> None:
    with Lease(engine, claim(engine), 1) as lease:
        time.sleep(1.6)
        assert queue.rescue(engine) == []
        assert not lease.lost


def test_a_lease_that_was_taken_away_is_noticed(engine: Engine, sql: psycopg.Connection) -> None:
    with Lease(engine, claim(engine), 0.3) as lease:
        sql.execute("DELETE FROM jobs")
        until(lambda: lease.lost)
        with pytest.raises(LeaseLost):
            lease.report(10, "downloading")


def test_a_wish_to_cancel_is_noticed(engine: Engine) -> None:
    job = claim(engine)
    with Lease(engine, job, 0.3) as lease:
        queue.ask_to_cancel(engine, job.id)
        until(lambda: lease.cancelled)


def test_a_worker_cut_off_from_the_database_gives_up_in_time(engine: Engine, sql: psycopg.Connection) -> None:
    """The table is locked, so that the renewal hangs, as on a connection that is half open."""
    job = claim(engine)
    with sql.transaction(), Lease(engine, job, 1) as lease:
        sql.execute("LOCK TABLE jobs")
        until(lambda: lease.lost, 5)
    assert queue.renew(engine, job, lease_s=30) is False, "nobody had taken it meanwhile"
