"""The queue, as its callers see it; the rules themselves are in queries.sql."""

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.engine import Engine

from worker import database
from worker.core.errors import ERRORS, JobError

QUERIES = database.queries("worker.jobs")

Row = dict[str, Any]


class LeaseLost(Exception):
    """Another worker has the job, or its row is gone: nothing that we do for it counts any more."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A claimed row, as it was at the claim."""

    id: UUID
    lease_token: UUID
    shop: str
    product_id: str
    variant_id: str | None
    image_urls: Sequence[str]
    quality: str
    metadata: Mapping[str, Any]
    attempts: int
    max_attempts: int


@dataclass(frozen=True, kw_only=True)
class NextDue:
    """What there is to do now: for a lane (`due`), for the rescue (`expired`); and the `seconds` until the next of it."""

    due: bool
    expired: bool
    seconds: float | None


def claim(engine: Engine, *, worker: str, lease_s: float, shop_limit: int | None = None) -> Job | None:
    row = _one(
        engine, "claim", worker=worker, host=socket.gethostname(), lease_s=lease_s, shop_limit=shop_limit
    )
    return Job(**row) if row else None


def renew(engine: Engine, job: Job, *, lease_s: float) -> bool:
    """Whether somebody wants the job stopped. Raises: LeaseLost."""
    return bool(_held(engine, "renew", job, lease_s=lease_s)["cancelled"])


def report(engine: Engine, job: Job, *, progress: int, stage: str, lease_s: float) -> bool:
    """Whether somebody wants the job stopped. Raises: LeaseLost."""
    return bool(_held(engine, "report", job, progress=progress, stage=stage, lease_s=lease_s)["cancelled"])


def complete(engine: Engine, job: Job, *, model_url: str, report: Mapping[str, Any]) -> None:
    """Raises: LeaseLost."""
    _held(engine, "complete", job, model_url=model_url, report=json.dumps(report))


def fail(engine: Engine, job: Job, error: JobError, *, report: Mapping[str, Any]) -> Row:
    """The row's new `status`, pending, failed or cancelled, and `run_after`. Raises: LeaseLost."""
    return _held(
        engine,
        "fail",
        job,
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        report=json.dumps(report),
    )


def cancel(engine: Engine, job: Job) -> None:
    """Raises: LeaseLost."""
    _held(engine, "cancel", job)


def release(engine: Engine, job: Job) -> None:
    """Raises: LeaseLost."""
    _held(engine, "release", job)


def rescue(engine: Engine) -> list[Row]:
    """The jobs taken from workers that were lost."""
    return _all(engine, "rescue", message=ERRORS["worker_lost"].message)


def next_due(engine: Engine) -> NextDue:
    """Find out what there is to do now, or else when."""
    return NextDue(**_all(engine, "next_due")[0])


def notify(engine: Engine, channel: str) -> None:
    _all(engine, "notify", channel=channel)


def gauges(engine: Engine, channel: str) -> Row:
    """The whole queue in figures, which are told on the channel too."""
    return dict(_all(engine, "gauges", channel=channel)[0]["found"])


def prune(
    engine: Engine, what: Literal["jobs", "attempts", "events", "unsendable"], *, days: int, batch: int
) -> int:
    """How many of those that ended more than `days` ago are gone now, `batch` at the most; of `unsendable`, events that
    nobody was there to send.
    """
    return len(_all(engine, f"prune_{what}", days=days, batch=batch))


def enqueue(
    engine: Engine,
    *,
    shop: str,
    product_id: str,
    image_urls: Sequence[str],
    variant_id: str | None = None,
    product_handle: str | None = None,
    quality: str = "balanced",
    priority: int = 0,
    metadata: Mapping[str, Any] | None = None,
    dedupe_key: str | None = None,
) -> UUID:
    """Inserts a row as a backend does; the database's rules speak through sqlalchemy's IntegrityError."""
    row = _one(
        engine,
        "enqueue",
        shop=shop,
        product_id=product_id,
        image_urls=list(image_urls),
        variant_id=variant_id,
        product_handle=product_handle,
        quality=quality,
        priority=priority,
        metadata=json.dumps(metadata or {}),
        dedupe_key=dedupe_key,
    )
    assert row is not None  # noqa: S101 - INSERT … RETURNING gives the row
    return UUID(str(row["id"]))


def request_cancel(engine: Engine, job_id: UUID) -> bool:
    """End a waiting job, or ask a running one to stop. False where there is no unfinished job."""
    with engine.connect() as connection:
        return bool(connection.scalar(QUERIES["request_cancel"], {"id": job_id}))


def list_shop_jobs(engine: Engine, shop: str) -> list[Row]:
    """List all jobs of a shop, each with who runs it."""
    return _all(engine, "list_shop_jobs", shop=shop)


def request_cancel_all(engine: Engine, ids: Sequence[UUID]) -> None:
    """End those that wait and ask those that run to stop."""
    with engine.connect() as connection:
        connection.execute(QUERIES["request_cancel_all"], {"ids": list(ids)})


def delete(engine: Engine, ids: Sequence[UUID]) -> int:
    """How many of these had ended, and are gone with all that refers to them."""
    return len(_all(engine, "delete", ids=list(ids)))


def retry(engine: Engine, job_id: UUID) -> bool:
    """Whether there was a job that had ended."""
    with engine.connect() as connection:
        return bool(connection.scalar(QUERIES["retry"], {"id": job_id}))


def failed_since(engine: Engine, seconds: float) -> list[UUID]:
    return [row["id"] for row in _all(engine, "failed_since", seconds=seconds)]


def health(engine: Engine) -> Row:
    """How many wait, run and ended within the hour; `oldest_has_waited_s` is None where nothing is due."""
    return _all(engine, "health")[0]


def workers(engine: Engine) -> list[Row]:
    """Who has a job or had one within the hour: `worker`, `running`, `ended`, and `seen_s` ago."""
    return _all(engine, "workers")


def failures(engine: Engine) -> list[Row]:
    """The last day's `error_code`s: how many `jobs`, the latest `latest_s` ago."""
    return _all(engine, "failures")


def queue_position(engine: Engine, job_id: UUID) -> Row | None:
    """Get a waiting job's `position` and `estimated_wait_s`, each None where it is not known."""
    return _one(engine, "queue_position", id=job_id)


def recent(engine: Engine, limit: int = 10) -> list[Row]:
    """All running jobs, then up to `limit` waiting ones in their order, then up to `limit` that ended last."""
    return get_jobs(engine, [row["id"] for row in _all(engine, "recent", limit=limit)])


def get_jobs(engine: Engine, ids: Sequence[UUID]) -> list[Row]:
    """Get these jobs as they are now, in this order."""
    return _all(engine, "get_jobs", ids=list(ids))


def _all(engine: Engine, query: str, **parameters: Any) -> list[Row]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(QUERIES[query], parameters).mappings()]


def _one(engine: Engine, query: str, **parameters: Any) -> Row | None:
    """The row that a statement gives, which gives one at the most."""
    return next(iter(_all(engine, query, **parameters)), None)


def _held(engine: Engine, query: str, job: Job, **parameters: Any) -> Row:
    row = _one(engine, query, id=job.id, token=str(job.lease_token), **parameters)
    if row is None:
        raise LeaseLost(str(job.id))
    return row
