"""The queue as its callers see it. The rules are in queries.sql and migrations/sql/."""

import json
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Required, TypedDict, Unpack
from uuid import UUID

import psycopg
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from worker.core.errors import ERRORS, JobError
from worker.database import Row, fetch_all, fetch_one, fetch_value, parse_json, queries, transaction
from worker.database.ids import find_beginning, shorten

QUERIES = queries("worker.jobs")

# The attributes of the type worker.claimed_job, in their order.
CLAIMED = (
    *(
        "id",
        "lease_token",
        "shop",
        "product_id",
        "variant_id",
        "image_urls",
        "quality",
        "attempts",
        "max_attempts",
    ),
    *("excluded_photos", "refresh", "dimensions", "views", "subject", "batch", "to_publish"),
)

Prunable = Literal["jobs", "attempts", "events", "unsendable", "batches"]


class LeaseLost(Exception):
    """Another worker has the job, or its row is gone. Nothing that we do for it counts any more."""


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
    excluded_photos: Sequence[int]  # indices into image_urls
    refresh: bool  # make it anew, even if the result is known
    # `metadata.dimensions` and so on, parsed: whatever the backend wrote; None where it is missing
    dimensions: Any
    views: Any
    subject: Any
    attempts: int
    max_attempts: int
    batch: str | None = None


class Claimer(TypedDict, total=False):
    """Who claims jobs, and which ones.

    worker: the name for the row's `claimed_by`, and in the register of hosts, which says if it is paused.
    lease_s: how long a job is taken for.
    shop_limit: the most jobs of one shop that may run at once; None for no limit.
    pools: those whose jobs it takes; without them, the pool `default`.
    runs: its engine; without one it takes only jobs for any engine.
    """

    worker: Required[str]
    lease_s: Required[float]
    shop_limit: int | None
    pools: Sequence[str]
    runs: str


def claim(engine: Engine, **claimer: Unpack[Claimer]) -> Job | None:
    """Take the next job. None if no job may be claimed."""
    row = _one(engine, "claim", **claim_parameters(claimer))
    return claimed_job(*row.values()) if row else None


def claim_parameters(claimer: Claimer) -> Row:
    """Return the parameters of a statement that claims."""
    return {
        "worker": claimer["worker"],
        "host": socket.gethostname(),
        "pools": list(claimer.get("pools", ["default"])),
        "runs": claimer.get("runs", ""),
        "lease_s": claimer["lease_s"],
        "shop_limit": claimer.get("shop_limit"),
    }


def claimed_job(*attributes: Any) -> Job | None:
    """Return the job in a value of the type `worker.claimed_job`. None if there is none in it."""
    row = dict(zip(CLAIMED, attributes, strict=True))
    if row["id"] is None:
        return None
    del row["to_publish"]
    for key in ("dimensions", "views", "subject"):
        row[key] = None if row[key] is None else parse_json(row[key])
    return Job(**row)


def renew(engine: Engine, job: Job, *, lease_s: float) -> bool:
    """Extend the lease to `lease_s` seconds from now. True if a cancel was requested. Raises: LeaseLost."""
    return bool(_held(engine, "renew", job, lease_s=lease_s)["cancelled"])


def report(engine: Engine, job: Job, *, progress: int, stage: str, lease_s: float) -> bool:
    """Write the progress and extend the lease. True if a cancel was requested. Raises: LeaseLost."""
    return bool(_held(engine, "report", job, progress=progress, stage=stage, lease_s=lease_s)["cancelled"])


def lock_holder(engine: Engine, job_id: UUID) -> Row | None:
    """Return who has locked a job's row: `pid`, `role`, `application`, `open_s` of its transaction; None if that is unknown."""
    return _one(engine, "lock_holder", id=job_id)


class Completion(TypedDict, total=False):
    """What the end of a completed job writes.

    digest: of the version that `worker.versions.queue.begin` entered; None if its files are not published.
    wants_review: it is not published before somebody approves it.
    publishing_s: how long its publication is the caller's; by default 60.
    """

    model_url: Required[str]
    report: Required[Mapping[str, Any]]
    digest: str | None
    wants_review: bool
    publishing_s: float


def complete(engine: Engine, job: Job, **completion: Unpack[Completion]) -> str | None:
    """Complete the job. Unless it wants a review, name its version as the published one and end older jobs for the same files.

    Returns the path (`worker.storage_path()`) of a publication that the caller now has, with the lease's token:
    `worker.versions.queue.Publication`. None if there is nothing to write, or another daemon writes it.
    Raises: LeaseLost.
    """
    path: str | None = _held(engine, "complete", job, **_completion(completion))["to_publish"]
    return path


def complete_and_claim(
    engine: Engine, job: Job, claimer: Claimer, **completion: Unpack[Completion]
) -> tuple[str | None, Job | None]:
    """Complete the job, as above, and take the next one in the same transaction unless there is something to publish first.

    Returns the path of the publication and the next job, of which one at least is None. Raises: LeaseLost.
    """
    found = fetch_value(
        engine,
        QUERIES["complete_and_claim"],
        **_holder(job),
        **_completion(completion),
        **claim_parameters(claimer),
    )
    if found is None:
        raise LeaseLost(str(job.id))
    to_publish: str | None = found[CLAIMED.index("to_publish")]
    return to_publish, claimed_job(*found)


def _completion(completion: Completion) -> Row:
    return {
        "model_url": completion["model_url"],
        "report": json.dumps(_storable(completion["report"])),
        "digest": completion.get("digest"),
        "wants_review": completion.get("wants_review", False),
        "publishing_s": completion.get("publishing_s", 60),
    }


def fail(engine: Engine, job: Job, error: JobError, *, report: Mapping[str, Any]) -> Row:
    """Settle a failed attempt. Returns the row's new `status` (pending, failed or cancelled) and `run_after`. Raises: LeaseLost."""
    return _held(
        engine,
        "fail",
        job,
        code=error.code,
        message=_storable(error.message),
        retryable=error.retryable,
        report=json.dumps(_storable(report)),
    )


def cancel(engine: Engine, job: Job) -> None:
    """Cancel a running job whose cancel was requested. Raises: LeaseLost."""
    _held(engine, "cancel", job)


def release(engine: Engine, job: Job) -> None:
    """Requeue a running job without using up the attempt. Raises: LeaseLost."""
    _held(engine, "release", job)


def rescue(engine: Engine) -> list[Row]:
    """Take the jobs whose leases have expired from their workers. Returns their rows."""
    return _all(engine, "rescue", message=ERRORS["worker_lost"].message)


def expire(engine: Engine, most: int) -> list[Row]:
    """Cancel up to `most` jobs that have not begun by their start_by. Returns the id and the shop of each."""
    return _all(engine, "expire", message=ERRORS["expired"].message, most=most)


def fold_usage(engine: Engine, most: int) -> int:
    """Add up to `most` changes of what shops have used to their days. Returns how many; 0 while another daemon does it."""
    return int(_all(engine, "fold_usage", most=most)[0]["folded"])


def fold_history(engine: Engine, *, keep_days: int | None, most: int = 300) -> int:
    """Sample the queue and add what has ended to its history. Returns how many parts of five minutes were computed."""
    return int(_all(engine, "fold_history", most=most, days=keep_days)[0]["folded"])


def notify(engine: Engine, channel: str) -> None:
    """Send an empty notification on a channel."""
    _all(engine, "notify", channel=channel)


def gauges(engine: Engine, channel: str) -> Row:
    """Return the figures of the whole queue, and send them as JSON on the channel."""
    return dict(_all(engine, "gauges", channel=channel)[0]["found"])


def prune(engine: Engine, what: Prunable, *, days: int, batch: int) -> int:
    """Delete up to `batch` rows that ended more than `days` days ago; of `unsendable`, events that no daemon could send.

    Returns how many were deleted.
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
    pool: str = "default",
    job_engine: str | None = None,
    priority: int = 0,
    refresh: bool = False,
    metadata: Mapping[str, Any] | None = None,
    dedupe_key: str | None = None,
    batch: str | None = None,
    start_by_s: float | None = None,
    keep: bool = True,
) -> UUID:
    """Insert a row as a backend does; `job_engine` is the column `engine`, `start_by_s` is in seconds from now. Unless `keep`, only try it.

    Returns the row's id.

    Raises: sqlalchemy's IntegrityError if a rule of the table is broken, its DataError for what no column can hold.
    """
    columns = {
        "shop": shop,
        "product_id": product_id,
        "image_urls": list(image_urls),
        "variant_id": variant_id,
        "product_handle": product_handle,
        "quality": quality,
        "pool": pool,
        "runs": job_engine,
        "priority": priority,
        "refresh": refresh,
        "metadata": json.dumps(metadata or {}),
        "dedupe_key": dedupe_key,
        "batch": batch,
        "start_by_s": start_by_s,
    }
    with transaction(engine, keep=keep) as connection:
        row = connection.execute(QUERIES["enqueue"].encode(), columns).fetchone()
    assert row is not None  # noqa: S101 - INSERT … RETURNING gives the row
    return UUID(str(row[0]))


def request_cancel(engine: Engine, job_id: UUID) -> bool:
    """End a waiting job, or ask a running one to stop. False if there is no unfinished job with this id."""
    return bool(fetch_value(engine, QUERIES["request_cancel"], id=job_id))


def retry(engine: Engine, job_id: UUID, *, without_photo: int | None = None) -> bool:
    """Make the model of an ended job anew, also without a photo, counted from 0. False if there is no ended job with this id.

    Raises: sqlalchemy's DBAPIError if there is no such photo, or no other one.
    """
    return bool(fetch_value(engine, QUERIES["retry"], id=job_id, without_photo=without_photo))


def cancel_jobs(engine: Engine, ids: Sequence[UUID]) -> Row:
    """End those of some jobs that wait, and ask those that run to stop. Returns how many were `cancelled`, and are `stopping`.

    Raises: sqlalchemy's DBAPIError, also if another session has locked one of them for seconds; the others are cancelled then.
    """
    rows = _all(engine, "cancel_jobs", ids=list(ids))
    found = [row["was"] for row in rows]
    locked = sum(request_cancel(engine, row["id"]) for row in rows if row["was"] is None)
    return {"cancelled": found.count("pending"), "stopping": found.count("processing") + locked}


def retry_jobs(engine: Engine, ids: Sequence[UUID]) -> Row:
    """Make the models of those of some jobs anew that have ended. Returns how many are `queued`, and how many were `refused`.

    A job is refused if another unfinished one has its dedupe_key. Raises: sqlalchemy's DBAPIError.
    """
    try:
        return {"queued": len(_all(engine, "retry_jobs", ids=list(ids))), "refused": 0}
    except IntegrityError as error:  # one of them takes the others along
        if not isinstance(error.orig, psycopg.errors.UniqueViolation):
            raise
        if len(ids) == 1:
            return {"queued": 0, "refused": 1}
    first = retry_jobs(engine, ids[: len(ids) // 2])
    second = retry_jobs(engine, ids[len(ids) // 2 :])
    return {key: first[key] + second[key] for key in first}


def count_states(engine: Engine, ids: Sequence[UUID]) -> dict[str, int]:
    """Count some jobs by their status."""
    return {row["status"]: row["jobs"] for row in _all(engine, "count_states", ids=list(ids))}


def approve(engine: Engine, job_id: UUID) -> bool:
    """Approve the model of a job, and publish it unless a newer one is. False if it does not wait, or its files are gone."""
    return bool(fetch_value(engine, QUERIES["approve"], id=job_id))


def reject(engine: Engine, job_id: UUID, *, reason: str | None = None) -> bool:
    """Reject the model of a job. False if it does not wait for approval."""
    return bool(fetch_value(engine, QUERIES["reject"], id=job_id, reason=reason))


def publish_version(engine: Engine, job_id: UUID) -> bool:
    """Publish the model of a completed job, even in place of a newer one.

    False if it waits for approval, was rejected, or its files are gone.
    """
    return bool(fetch_value(engine, QUERIES["publish_version"], id=job_id))


def failed_since(engine: Engine, seconds: float) -> list[UUID]:
    """Return the ids of the jobs that failed in the last `seconds`, oldest first."""
    return [row["id"] for row in _all(engine, "failed_since", seconds=seconds)]


def health(engine: Engine) -> Row:
    """Return how many jobs wait, run, are unserved, ended in the last hour, and wait for review. `oldest_has_waited_s` is None if none is due."""
    return _all(engine, "health")[0]


def unserved(engine: Engine) -> list[Row]:
    """Return the due jobs that no running host can take: `pool`, `engine`, and how many `jobs`."""
    return _all(engine, "unserved")


def failures(engine: Engine) -> list[Row]:
    """Return the last day's errors: `error_code`, how many `jobs`, and `latest_s` seconds ago."""
    return _all(engine, "failures")


def file_failures(engine: Engine) -> list[Row]:
    """Return the work on stored files that is tried again: `kind` (publish, remove, erase), `count`, and the `reason` of one."""
    return _all(engine, "file_failures")


def to_review(engine: Engine, limit: int) -> list[Row]:
    """Return up to `limit` jobs whose models wait for review, the oldest first, as get_jobs() does."""
    return get_jobs(engine, [row["id"] for row in _all(engine, "to_review", limit=limit)])


def queue_position(engine: Engine, job_id: UUID) -> Row | None:
    """Return a waiting job's `position` and `estimated_wait_s`, each None if it is not known."""
    return _one(engine, "queue_position", id=job_id)


def recent(engine: Engine, limit: int = 10) -> list[Row]:
    """Return all running jobs, then up to `limit` waiting ones in their order, then the last up to `limit` that ended."""
    return get_jobs(engine, [row["id"] for row in _all(engine, "recent", limit=limit)])


def get_jobs(engine: Engine, ids: Sequence[UUID]) -> list[Row]:
    """Return these jobs as they are now, in this order.

    `report` is `metadata.worker`; empty if it is missing or no object. `short` is a beginning of the id that no other job has.
    """
    rows = _all(engine, "get_jobs", ids=list(ids))
    for row in rows:
        row["short"] = shorten(row["id"], (row.pop("id_before"), row.pop("id_after")))
        report = parse_json(row["report"] or "")
        row["report"] = report if isinstance(report, dict) else {}
    return rows


def find_ids(engine: Engine, beginning: str, most: int) -> list[UUID]:
    """Return up to `most` ids of jobs with this beginning. A whole id is returned as it is, whether or not it has a job."""

    def among(first: UUID, last: UUID) -> list[UUID]:
        return [row["id"] for row in _all(engine, "find_ids", first=first, last=last, most=most)]

    return find_beginning(beginning, among)


def _storable(value: Any) -> Any:
    """Return a text or a report without what Postgres refuses: zero bytes, lone surrogates, NaN and infinity."""
    match value:
        case str():
            return value.replace("\0", "").encode(errors="replace").decode()
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {_storable(key): _storable(item) for key, item in value.items()}
        case list() | tuple():
            return [_storable(item) for item in value]
    return value


def _all(engine: Engine, query: str, **parameters: Any) -> list[Row]:
    return fetch_all(engine, QUERIES[query], **parameters)


def _one(engine: Engine, query: str, **parameters: Any) -> Row | None:
    return fetch_one(engine, QUERIES[query], **parameters)


def _holder(job: Job) -> Row:
    return {"id": job.id, "token": str(job.lease_token)}


def _held(engine: Engine, query: str, job: Job, **parameters: Any) -> Row:
    row = _one(engine, query, **_holder(job), **parameters)
    if row is None:
        raise LeaseLost(str(job.id))
    return row
