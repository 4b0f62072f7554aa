"""The end of an attempt. `ENDS` is a table with the statement, the metric's label and the log event of each outcome."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from logging import ERROR, INFO, WARNING
from typing import Any, NamedTuple

import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from worker.core import metrics
from worker.core.errors import JobError, one_line
from worker.daemon.storing import Version
from worker.database.monitor import is_transient
from worker.jobs import queue
from worker.jobs.queue import Claimer, Completion, Job, LeaseLost

log = structlog.get_logger()


class Outcome(Enum):
    """The ways in which an attempt can end."""

    COMPLETED = auto()
    FAILED = auto()
    RETRY_SCHEDULED = auto()  # it failed, and the statement that settled it found attempts left
    CANCELLED = auto()
    RELEASED = auto()  # the daemon stops first; the attempt does not count
    LOST = auto()
    ABANDONED = auto()


@dataclass(frozen=True, kw_only=True)
class Ending:
    """An outcome with what belongs to it."""

    outcome: Outcome
    report: Mapping[str, Any]  # for the row
    model_url: str = ""  # of COMPLETED, with the six below
    version: Version | None = None  # that the URL names
    wants_review: bool = False  # it is not published before somebody approves it
    publishing_s: float = 60  # how long the publication is ours, if there is one
    claimer: Claimer | None = None  # takes the next job with the end of this one
    to_publish: str | None = None  # its path, once the job is completed
    next: Job | None = None  # taken with the end
    error: JobError | None = None  # of FAILED and RETRY_SCHEDULED
    until: str = ""  # of RETRY_SCHEDULED: when the job is due again


def _complete(engine: Engine, job: Job, ending: Ending) -> Ending:
    completion = Completion(
        model_url=ending.model_url,
        report=ending.report,
        digest=ending.version.digest if ending.version else None,
        wants_review=ending.wants_review,
        publishing_s=ending.publishing_s,
    )
    if ending.claimer is None:
        return replace(ending, to_publish=queue.complete(engine, job, **completion))
    to_publish, following = queue.complete_and_claim(engine, job, ending.claimer, **completion)
    return replace(ending, to_publish=to_publish, next=following)


def _fail(engine: Engine, job: Job, ending: Ending) -> Ending:
    """The statement decides if the job is tried again."""
    error = ending.error or JobError("internal_error")
    row = queue.fail(engine, job, error, report=ending.report)
    match row["status"]:
        case "pending":
            outcome, until = Outcome.RETRY_SCHEDULED, row["run_after"].isoformat()
        case "cancelled":
            outcome, until = Outcome.CANCELLED, ""
        case _:
            outcome, until = Outcome.FAILED, ""
    return Ending(outcome=outcome, report=ending.report, error=error, until=until)


def _cancel(engine: Engine, job: Job, ending: Ending) -> Ending:
    queue.cancel(engine, job)
    return ending


def _release(engine: Engine, job: Job, ending: Ending) -> Ending:
    queue.release(engine, job)
    return ending


def _write_nothing(_engine: Engine, _job: Job, ending: Ending) -> Ending:
    return ending


class End(NamedTuple):
    """A line of the table."""

    write: Callable[[Engine, Job, Ending], Ending]
    metric: str  # the label `outcome` of modelworker_jobs_total
    level: int
    event: str
    meaning: str = ""


ENDS: Mapping[Outcome, End] = {
    Outcome.COMPLETED: End(_complete, "completed", INFO, "job_completed"),
    Outcome.FAILED: End(_fail, "failed", ERROR, "job_failed"),
    Outcome.RETRY_SCHEDULED: End(_fail, "retry_scheduled", WARNING, "job_retry_scheduled"),
    Outcome.CANCELLED: End(_cancel, "cancelled", INFO, "job_cancelled"),
    Outcome.RELEASED: End(_release, "released", INFO, "job_released"),
    Outcome.LOST: End(
        _write_nothing, "lost", WARNING, "lease_lost", "another worker has the job, or its row is gone"
    ),
    Outcome.ABANDONED: End(
        _write_nothing,
        "lost",
        WARNING,
        "job_abandoned",
        "the database did not come back before the daemon had to stop; another worker takes the job when its lease expires",
    ),
}


def settle(engine: Engine, job: Job, ending: Ending, wait_for_database: Callable[[], bool]) -> Ending:
    """Write the job's end to its row. Returns how it ended there.

    A result that cost minutes of a GPU is kept until the database is back: `wait_for_database` returns True when it is,
    and False if the daemon must stop first. A result that the database refuses for good is a failure of the attempt. After any
    error the end is written without a claim, which may be the reason.

    Raises: sqlalchemy's DBAPIError if the database refuses that too.
    """
    refused = False
    while True:
        try:
            return ENDS[ending.outcome].write(engine, job, ending)
        except LeaseLost:
            return Ending(outcome=Outcome.LOST, report=ending.report)
        except DBAPIError as error:
            if is_transient(error):
                if not wait_for_database():
                    return Ending(outcome=Outcome.ABANDONED, report=ending.report)
            elif ending.claimer is None:
                if refused:
                    raise
                refused = True
                log.error("result_refused", outcome=ending.outcome.name, reason=one_line(error))  # noqa: TRY400 - it names itself
                ending = Ending(outcome=Outcome.FAILED, report={}, error=JobError("internal_error"))
            ending = replace(ending, claimer=None)


def record(ending: Ending, *, seconds: float) -> None:
    """Count the end and log it; `seconds` since the claim."""
    end = ENDS[ending.outcome]
    failed = ending.outcome in {Outcome.FAILED, Outcome.RETRY_SCHEDULED}
    error = ending.error if failed else None
    metrics.ended(end.metric, error.code if error else "")
    fields = {
        "meaning": end.meaning,
        "model_url": ending.model_url.partition("?")[0],  # in a private bucket's URL the query is a token
        "code": error.code if error else "",
        "reason": error.message if error and ending.outcome is Outcome.FAILED else "",
        "until": ending.until,
    }
    log.log(end.level, end.event, seconds=seconds, **{name: value for name, value in fields.items() if value})
