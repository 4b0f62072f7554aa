"""Versions, and the files that must be written or removed for them, as their callers see them.

The rules are in queries.sql and migrations/sql/versions.sql.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy.engine import Engine

from worker.database import execute, fetch_one, fetch_value, parse_json, queries
from worker.jobs.queue import Claimer, Job, LeaseLost, claim_parameters, claimed_job

QUERIES = queries("worker.versions")


@dataclass(frozen=True, kw_only=True)
class Result:
    """A version that was made from the same as a job asks for."""

    job_id: UUID  # of the job that made it last
    same_product: bool  # its files are those of the job's own path
    stem: str
    digest: str
    files: Mapping[str, str]  # SHA-256 by ending
    report: Mapping[str, Any]  # of that job


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A version whose files must be written to the path of its product, taken with `token`."""

    path: str  # worker.storage_path()
    stem: str
    shop: str
    digest: str
    job_id: UUID
    token: UUID
    files: Mapping[str, str]  # SHA-256 by ending

    @classmethod
    def of(cls, job: Job, *, path: str, stem: str, digest: str, files: Mapping[str, str]) -> Self:
        """Return the publication that `worker.jobs.queue.complete` has given to the job's worker: `path` is what it returned."""
        return cls(
            path=path,
            stem=stem,
            shop=job.shop,
            digest=digest,
            job_id=job.id,
            token=job.lease_token,
            files=files,
        )


@dataclass(frozen=True, kw_only=True)
class Doomed:
    """A version whose files must be removed, taken with `token`."""

    path: str
    digest: str
    stem: str
    shop: str
    token: UUID


def begin(
    engine: Engine, job: Job, *, digest: str, stem: str, files: Mapping[str, str], result_key: str | None
) -> bool:
    """Enter the version that a job is about to store. False if the job must wait: old files are being removed there.

    files: the SHA-256 of each file by its ending. result_key: the hash of all that the files depend on.

    Raises: LeaseLost.
    """
    row = fetch_one(
        engine,
        QUERIES["begin"],
        id=job.id,
        token=str(job.lease_token),
        digest=digest,
        stem=stem,
        files=json.dumps(dict(files)),
        result_key=result_key,
    )
    if row is None:
        raise LeaseLost(str(job.id))
    return bool(row["begun"])


def find_result(engine: Engine, job: Job, result_key: str) -> Result | None:
    """Return a version of the shop that was made from the same, one of this product first. None if there is none, or if the
    row wants a new one. It is kept from now on for as long as a new version.
    """
    row = fetch_one(
        engine, QUERIES["find_result"], id=job.id, token=str(job.lease_token), result_key=result_key
    )
    if row is None:
        return None
    report = parse_json(row.pop("report") or "")
    return Result(**row, report=report if isinstance(report, dict) else {})


def take_publication(engine: Engine, *, lease_s: float) -> Publication | None:
    """Take a publication that is due for `lease_s` seconds. None if none is."""
    row = fetch_one(engine, QUERIES["take_publication"], lease_s=lease_s)
    return Publication(**row) if row else None


def renew_publication(engine: Engine, work: Publication, *, lease_s: float) -> bool:
    """Keep a publication for `lease_s` seconds from now.

    False if nothing more may be written: another daemon has it, another version is to be published, or an erasure has begun.
    """
    return bool(_update(engine, "renew_publication", work, digest=work.digest, lease_s=lease_s))


def finish_publication(engine: Engine, work: Publication) -> bool:
    """End a publication whose files all lie at its path. False as for `renew_publication`."""
    return bool(_update(engine, "finish_publication", work, digest=work.digest))


def finish_publication_and_claim(
    engine: Engine, work: Publication, claimer: Claimer
) -> tuple[bool, Job | None]:
    """End a publication, as above, and take the next job in the same transaction. None if that is not ours, or no job may be claimed."""
    found = fetch_value(
        engine,
        QUERIES["finish_publication_and_claim"],
        path=work.path,
        token=str(work.token),
        digest=work.digest,
        **claim_parameters(claimer),
    )
    return (True, claimed_job(*found)) if found else (False, None)


def put_back_publication(engine: Engine, work: Publication, *, error: str | None) -> datetime | None:
    """Put a publication back. Returns when it is due: after a wait if there was an error, else now; None if it is not ours."""
    due: datetime | None = _update(engine, "put_back_publication", work, error=error)
    return due


def abandon(engine: Engine, job: Job, *, digest: str, stem: str, files: Mapping[str, str]) -> None:
    """Have a version's files removed if the version is not there any more: for one who has lost the job, and may have stored a
    file after an erasure.
    """
    execute(
        engine,
        QUERIES["abandon_version"],
        job_id=job.id,
        shop=job.shop,
        product_id=job.product_id,
        variant_id=job.variant_id,
        digest=digest,
        stem=stem,
        files=json.dumps(dict(files)),
    )


def doubt_publication(engine: Engine, work: Publication, *, removed: bool = False) -> bool:
    """Have a path written anew if another version is published there by now, or any if files were `removed`: for one who has lost
    the publication, and may have changed a file after that. False if nothing is published there, because it was erased.
    """
    digest = "" if removed else work.digest
    return bool(fetch_value(engine, QUERIES["doubt_publication"], path=work.path, digest=digest))


def doom(engine: Engine, *, days: int, batch: int) -> tuple[int, bool]:
    """Doom those of `batch` versions, unused for more than `days` days, that are neither published nor wait for a review.

    Returns how many are doomed, and if there may be more.
    """
    row = fetch_one(engine, QUERIES["doom"], days=days, batch=batch) or {}
    return row["doomed"], row["more"]


def take_doomed(engine: Engine, *, lease_s: float) -> Doomed | None:
    """Take a doomed version for `lease_s` seconds. None if none is due."""
    row = fetch_one(engine, QUERIES["take_doomed"], lease_s=lease_s)
    return Doomed(**row) if row else None


def renew_removal(engine: Engine, work: Doomed, *, lease_s: float) -> bool:
    """Keep a doomed version for `lease_s` seconds from now. False if another daemon has it: remove nothing more."""
    return bool(_update(engine, "renew_removal", work, digest=work.digest, lease_s=lease_s))


def finish_removal(engine: Engine, work: Doomed) -> bool:
    """Delete a doomed version whose files are gone. False if another daemon has it."""
    return bool(_update(engine, "finish_removal", work, digest=work.digest))


def put_back_removal(engine: Engine, work: Doomed, *, error: str | None) -> datetime | None:
    """Put a doomed version back. Returns when it is due, as `put_back_publication` does."""
    due: datetime | None = _update(engine, "put_back_removal", work, digest=work.digest, error=error)
    return due


def _update(engine: Engine, query: str, work: Publication | Doomed, **parameters: Any) -> Any:
    return fetch_value(engine, QUERIES[query], path=work.path, token=str(work.token), **parameters)
