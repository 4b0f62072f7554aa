import psycopg
import pytest
from conftest import until
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs

from worker.core.stages import Stage
from worker.database.monitor import DatabaseMonitor
from worker.jobs import queue
from worker.jobs.lease import Lease
from worker.jobs.queue import LeaseLost


def claim(engine: Engine) -> queue.Job:
    queue.enqueue(engine, shop="a", product_id="1", image_urls=["http://a/b"])
    job = queue.claim(engine, worker="w", lease_s=1)
    assert job
    return job


def test_a_job_is_kept_past_its_first_lease(engine: Engine, sql: psycopg.Connection) -> None:
    job = claim(engine)
    assert queue.renew(engine, job, lease_s=3) is False
    with Lease(engine, job, 3) as lease:
        first = sql.execute("SELECT lease_expires_at FROM jobs").fetchone()
        until(lambda: sql.execute("SELECT clock_timestamp() > %s", first).fetchone() == (True,))
        assert queue.rescue(engine) == []
        assert not lease.lost


def test_a_lease_that_was_taken_away_is_noticed(engine: Engine, sql: psycopg.Connection) -> None:
    with Lease(engine, claim(engine), 0.3) as lease:
        sql.execute("DELETE FROM jobs")
        until(lambda: lease.lost)
        with pytest.raises(LeaseLost):
            lease.renew()


def test_a_wish_to_cancel_is_noticed(engine: Engine) -> None:
    job = claim(engine)
    with Lease(engine, job, 0.3) as lease:
        queue.request_cancel(engine, job.id)
        until(lambda: lease.cancelled)


def test_a_wish_to_cancel_that_somebody_tells_of_is_noticed_at_once(engine: Engine) -> None:
    job = claim(engine)
    with Lease(engine, job, 300) as lease:
        queue.request_cancel(engine, job.id)
        lease.renew_now()
        until(lambda: lease.cancelled)


def test_a_wish_to_cancel_is_noticed_in_seconds_where_nobody_tells(engine: Engine) -> None:
    job = claim(engine)
    with Lease(engine, job, 300, cancel_push_works=lambda: False) as lease:
        queue.request_cancel(engine, job.id)
        until(lambda: lease.cancelled)


def test_reports_are_written_in_order_before_the_lease_is_renewed(
    engine: Engine, sql: psycopg.Connection
) -> None:
    written = []
    with Lease(engine, claim(engine), 30, on_report=lambda: written.append(1)) as lease:
        for stage in (Stage.DOWNLOADING, Stage.FRAMED, Stage.GENERATING):
            lease.report(stage)
        lease.renew()
        assert sql.execute("SELECT progress, stage FROM jobs").fetchone() == (50, "generating")
    assert len(written) == 3


def test_a_lease_that_ran_out_with_nobody_there_to_take_it_is_ours_again(
    engine: Engine, sql: psycopg.Connection
) -> None:
    with sql.transaction(), Lease(engine, claim(engine), 1) as lease:
        sql.execute("LOCK TABLE jobs")
        until(lambda: lease.lost)
        sql.execute("ROLLBACK")
        lease.renew()
        assert not lease.lost


def test_a_worker_cut_off_from_the_database_gives_up_in_time(engine: Engine, sql: psycopg.Connection) -> None:
    """The table is locked, so that the renewal hangs, as on a connection that is half open."""
    job = claim(engine)
    with sql.transaction(), Lease(engine, job, 1) as lease:
        sql.execute("LOCK TABLE jobs")
        until(lambda: lease.lost)
    assert queue.renew(engine, job, lease_s=30) is False, "nobody had taken it meanwhile"


def test_a_row_that_somebody_has_locked_is_no_outage_and_stays_ours(
    engine: Engine, database_url: str, sql: psycopg.Connection
) -> None:
    for function in ("renew_lease", "report_progress"):  # a lease of the test is short, too
        sql.execute(f"ALTER FUNCTION worker.{function} SET lock_timeout = '0.3s'".encode())
    job = claim(engine)
    monitor = DatabaseMonitor(engine, lambda: None)
    with capture_logs() as logs, Lease(engine, job, 1.5) as lease:
        with psycopg.connect(database_url, application_name="an-app") as other:
            other.execute("SELECT FROM jobs FOR UPDATE")
            until(lambda: [line for line in logs if line["event"] == "job_row_locked"])
            lapsed = "SELECT lease_expires_at < clock_timestamp() FROM jobs"
            until(lambda: sql.execute(lapsed).fetchone() == (True,))
            assert queue.rescue(engine) == []
            lease.renew_now()
            assert not lease.lost
            assert monitor.available
            pid = other.info.backend_pid
        until(lambda: sql.execute(lapsed).fetchone() == (False,))
        assert not lease.lost
        queue.complete(engine, job, model_url="http://m/1.glb", report={})
    (line,) = [line for line in logs if line["event"] == "job_row_locked"]
    assert (line["pid"], line["application"]) == (pid, "an-app")
    assert line["open_s"] > 0
    assert not [line for line in logs if line["event"] == "database_lost"]
