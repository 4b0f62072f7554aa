"""The table of an attempt's ends: for each outcome what the row, the metric and the log then hold."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs

from worker.core.errors import JobError
from worker.daemon import settlement
from worker.daemon.settlement import ENDS, Ending, Outcome
from worker.jobs import queue
from worker.jobs.queue import Claimer, Job

URL = "https://models.example/a/1.glb?token=planted"


@pytest.fixture
def job(engine: Engine) -> Job:
    queue.enqueue(engine, shop="a", product_id="1", image_urls=["https://a/a.png"])
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    return job


def ending(outcome: Outcome, error: str | None = None) -> Ending:
    return Ending(
        outcome=outcome,
        report={"engine": "e"},
        model_url=URL if outcome is Outcome.COMPLETED else "",
        error=JobError(error) if error else None,
    )


def away() -> bool:
    raise AssertionError("the database is there")


def use_up_attempts(sql: psycopg.Connection) -> None:
    sql.execute("UPDATE jobs SET max_attempts = 1")


def request_cancel(sql: psycopg.Connection) -> None:
    sql.execute("UPDATE jobs SET cancel_requested_at = now()")


def take_away(sql: psycopg.Connection) -> None:
    sql.execute("DELETE FROM jobs")


def nothing(_sql: psycopg.Connection) -> None:
    pass


FAILED = ending(Outcome.FAILED, "photo_unreachable")


@pytest.mark.parametrize(
    ("before", "wanted", "outcome", "row", "metric", "logged"),
    [
        (nothing, ending(Outcome.COMPLETED), Outcome.COMPLETED, ("completed", 1, None), ("completed", ""), {"model_url": URL[:-14]}),
        (nothing, FAILED, Outcome.RETRY_SCHEDULED, ("pending", 1, "photo_unreachable"), ("retry_scheduled", "photo_unreachable"), {"code": "photo_unreachable"}),
        (use_up_attempts, FAILED, Outcome.FAILED, ("failed", 1, "photo_unreachable"), ("failed", "photo_unreachable"), {"code": "photo_unreachable", "reason": JobError("photo_unreachable").message}),
        (nothing, ending(Outcome.FAILED, "no_object"), Outcome.FAILED, ("failed", 1, "no_object"), ("failed", "no_object"), {"code": "no_object", "reason": JobError("no_object").message}),
        (request_cancel, FAILED, Outcome.CANCELLED, ("cancelled", 1, None), ("cancelled", ""), {}),
        (request_cancel, ending(Outcome.CANCELLED), Outcome.CANCELLED, ("cancelled", 1, None), ("cancelled", ""), {}),
        (nothing, ending(Outcome.RELEASED), Outcome.RELEASED, ("pending", 0, None), ("released", ""), {}),
        (nothing, ending(Outcome.LOST), Outcome.LOST, ("processing", 1, None), ("lost", ""), {"meaning": ENDS[Outcome.LOST].meaning}),
        (take_away, ending(Outcome.COMPLETED), Outcome.LOST, None, ("lost", ""), {"meaning": ENDS[Outcome.LOST].meaning}),
    ],
    ids=lambda value: value.name if isinstance(value, Outcome) else "",
)  # fmt: skip
def test_each_end_is_written_counted_and_logged(
    engine: Engine,
    sql: psycopg.Connection,
    job: Job,
    before: Callable[[psycopg.Connection], None],
    wanted: Ending,
    outcome: Outcome,
    row: tuple[Any, ...] | None,
    metric: tuple[str, str],
    logged: dict[str, str],
) -> None:
    before(sql)
    labels = dict(zip(("outcome", "code"), metric, strict=True))
    counted = REGISTRY.get_sample_value("modelworker_jobs_total", labels) or 0
    with capture_logs() as lines:
        ended = settlement.settle(engine, job, wanted, away)
        settlement.record(ended, seconds=1.5)
    assert ended.outcome is outcome
    assert sql.execute("SELECT status::text, attempts, error_code FROM jobs").fetchone() == row
    assert REGISTRY.get_sample_value("modelworker_jobs_total", labels) == counted + 1
    (line,) = lines
    due = line.pop("until", None)
    assert (due is not None) == (outcome is Outcome.RETRY_SCHEDULED)
    assert line == {"event": ENDS[outcome].event, "log_level": line["log_level"], "seconds": 1.5} | logged


def test_a_result_waits_for_the_database_and_is_abandoned_only_if_the_daemon_must_stop(
    engine: Engine, sql: psycopg.Connection, job: Job
) -> None:
    backends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    sql.execute(backends)
    ended = settlement.settle(engine, job, ending(Outcome.COMPLETED), lambda: False)
    assert ended.outcome is Outcome.ABANDONED
    assert ENDS[ended.outcome].metric == "lost"
    assert sql.execute("SELECT status::text FROM jobs").fetchone() == ("processing",)

    waits: list[bool] = []

    def wait() -> bool:
        waits.append(True)
        return True

    with engine.connect():  # one to break
        pass
    sql.execute(backends)
    ended = settlement.settle(engine, job, ending(Outcome.COMPLETED), wait)
    assert ended.outcome is Outcome.COMPLETED
    assert waits == [True]


def test_an_end_takes_the_next_job_along_and_is_written_without_it_if_the_claim_fails(
    engine: Engine, sql: psycopg.Connection, job: Job
) -> None:
    following = queue.enqueue(engine, shop="a", product_id="2", image_urls=["https://a/a.png"])
    refused = queue.enqueue(engine, shop="a", product_id="3", image_urls=["https://a/a.png"])
    claimer = Claimer(worker="w", lease_s=30)
    ended = settlement.settle(engine, job, replace(ending(Outcome.COMPLETED), claimer=claimer), away)
    assert ended.outcome is Outcome.COMPLETED
    assert ended.next
    assert ended.next.id == following

    sql.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE internal_error USING MESSAGE = 'no claims'; END $$"
    )
    sql.execute(
        "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW"
        " WHEN (NEW.status = 'processing' AND OLD.status = 'pending') EXECUTE FUNCTION refuse()"
    )
    with capture_logs() as lines:
        ended = settlement.settle(
            engine, ended.next, replace(ending(Outcome.COMPLETED), claimer=claimer), away
        )
    assert (ended.outcome, ended.next, lines) == (Outcome.COMPLETED, None, [])
    assert sql.execute("SELECT id FROM jobs WHERE status = 'pending'").fetchall() == [(refused,)]
    assert sql.execute("SELECT count(*) FROM jobs WHERE status = 'completed'").fetchone() == (2,)


def test_a_result_that_the_database_refuses_is_a_failure_and_not_a_lost_lease(
    engine: Engine, sql: psycopg.Connection, job: Job
) -> None:
    sql.execute("ALTER TABLE jobs ADD CONSTRAINT refuse CHECK (status <> 'completed')")
    with capture_logs() as lines:
        ended = settlement.settle(engine, job, ending(Outcome.COMPLETED), away)
    assert ended.outcome is Outcome.RETRY_SCHEDULED
    assert sql.execute("SELECT status::text, error_code FROM jobs").fetchone() == (
        "pending",
        "internal_error",
    )
    assert [line["event"] for line in lines] == ["result_refused"]
