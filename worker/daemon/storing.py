"""Stores a finished job's files as a version of its product: under paths that name their content, so they never change."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.core.errors import JobError, one_line
from worker.core.settings import Settings
from worker.daemon import kinds
from worker.daemon.context import LaneContext
from worker.jobs.queue import Claimer, Job
from worker.storage import Store, beneath, drafts, paths
from worker.versions import files
from worker.versions import publish as publishing
from worker.versions import queue as versions
from worker.versions.hold import Stopped
from worker.versions.queue import Publication

CHUNK = 1 << 20  # bytes
PUBLISH_S = 60.0  # the longest that a lane works on the publication of a job that is done


@dataclass(frozen=True)
class Version:
    """The files of a job, by their endings, in the order in which they are stored; and the path of the published ones."""

    stem: str
    files: Mapping[str, Path]
    hashes: Mapping[str, str]  # the sha256 of each file

    @property
    def digest(self) -> str:
        """The name of the version: a digest of all hashes."""
        return paths.version_digest(self.hashes)


class FileRefused(Exception):
    """The child has left something else than its files. The message says what, for the operator."""


def collect(job: Job, made: int, folder: Path, settings: Settings) -> Version:
    """Copy the files that the child has made into a folder of our own, where it cannot change them any more, and check them.

    Args:
        job: that they are of.
        made: the open folder that the child has written to. Its files are read as they are found there: a link is not followed.
        folder: ours.
        settings: which files belong to a version.

    Raises: FileRefused; JobError `temp_unavailable` if one is missing, `no_space`.
    """
    wanted = {".webp": settings.turntable, ".usdz": settings.usdz}
    copies = {ending: folder / name for ending, name in files.NAMES.items() if wanted.get(ending, True)}
    return Version(
        stem=paths.stem(job.shop, job.product_id, job.variant_id),
        files=copies,
        hashes={ending: _collect(made, copy, files.suffix(ending)) for ending, copy in copies.items()},
    )


def _collect(made: int, copy: Path, suffix: str) -> str:
    """Copy and check one file. Return its sha256."""
    name, digest, size = copy.name, hashlib.sha256(), 0
    try:
        source = beneath.open_file(made, [name])
    except FileNotFoundError as error:
        raise JobError("temp_unavailable") from error  # somebody deleted it; the job is not to blame
    except OSError as error:
        raise FileRefused(f"{name}: {one_line(error)}") from error
    with source, drafts.replacing(copy) as draft:
        # A second name may be that of a file which is not the child's.
        if os.fstat(source.fileno()).st_nlink > 1:
            raise FileRefused(f"{name}: it has several names")
        while chunk := source.read(CHUNK):
            size += len(chunk)
            if size > kinds.MOST_BYTES[suffix]:
                raise FileRefused(f"{name}: it is too large")
            digest.update(chunk)
            draft.write(chunk)
        draft.flush()
        try:
            with Path(draft.name).open("rb") as written:
                kinds.check_kind(suffix, written, size)
        except kinds.WrongKind as error:
            raise FileRefused(f"{name}: {error}") from error
    return digest.hexdigest()


def upload(
    store: Store, version: Version, hold: Callable[[], None], check: Callable[[], None]
) -> dict[str, str]:
    """Store a version's files, and return the URL of each by its name in the report.

    hold: called before each file; it renews the job's lease, and raises if the job must end.
    check: called while a file is stored; it raises if the job must end.

    Raises: JobError; what `hold` and `check` raise.
    """
    stem = paths.version_stem(version.stem, version.digest)
    urls = {}
    try:
        for ending, file in version.files.items():
            hold()
            urls[files.URLS[ending]] = store.put(stem + ending, file, files.content_type(ending), check)
    except (JobError, OSError) as error:
        if not all(file.is_file() for file in version.files.values()):
            raise JobError("temp_unavailable") from error  # somebody deleted it; the store is not to blame
        raise
    return urls


def wants_review(report: Mapping[str, Any], settings: Settings) -> bool:
    """True if somebody must approve the model before it is published. The report is the child's word, so its types are checked."""
    if settings.review != "flagged":
        return settings.review == "always"
    quality = report.get("quality")
    score = quality.get("score") if isinstance(quality, dict) else None
    return isinstance(score, int | float) and score < settings.review_score


def publish(
    context: LaneContext, job: Job, version: Version, path: str, find_claimer: Callable[[], Claimer | None]
) -> Job | None:
    """Publish the version of a job that has just completed, from its own folder.

    path: that of the publication, which the end of the job gave to us with the token of its lease.
    find_claimer: who takes the next job with the end of the publication; None if nobody may.

    What takes too long, or comes too late, is left to the file work of any daemon. Returns the next job, if one was taken.
    Raises: sqlalchemy's DBAPIError.
    """
    following: Job | None = None
    deadline = time.monotonic() + PUBLISH_S
    work = Publication.of(job, path=path, stem=version.stem, digest=version.digest, files=version.hashes)

    def check() -> None:
        if context.stop.releasing or time.monotonic() > deadline:
            raise Stopped

    stored = paths.version_stem(version.stem, version.digest)

    def find(ending: str, check: Callable[[], None]) -> Path:
        file = version.files[ending]
        if file.is_file():
            return file
        # Those of a known result lie in the store alone.
        return files.fetch(context.store, stored, ending, version.hashes[ending], file, check)

    def finish() -> bool:
        nonlocal following
        claimer = find_claimer()
        if claimer is None:
            return versions.finish_publication(context.engine, work)
        finished, following = versions.finish_publication_and_claim(context.engine, work, claimer)
        return finished

    publishing.publish(
        context.engine,
        context.store,
        work,
        find,
        lease_s=context.settings.lease_s,
        check=check,
        finish=finish,
    )
    return following
