"""Stores a finished job's files as a version of its product: under paths that name their content, so they never change."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.core.errors import JobError
from worker.core.settings import Settings
from worker.daemon.context import LaneContext
from worker.jobs.queue import Job
from worker.storage import Store, paths
from worker.versions import files
from worker.versions import publish as publishing
from worker.versions.hold import Stopped
from worker.versions.queue import Publication

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


def find_version(job: Job, folder: Path, settings: Settings) -> Version:
    """Return the version that the files in a job's folder are. Raises: JobError `temp_unavailable` if one is missing."""
    made = {".webp": settings.turntable, ".usdz": settings.usdz}
    found = {ending: folder / name for ending, name in files.NAMES.items() if made.get(ending, True)}
    return Version(
        stem=paths.stem(job.shop, job.product_id, job.variant_id), files=found, hashes=files.hashes(found)
    )


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


def publish(context: LaneContext, job: Job, version: Version, path: str) -> None:
    """Publish the version of a job that has just completed, from its own folder.

    path: that of the publication, which the end of the job gave to us with the token of its lease.

    What takes too long, or comes too late, is left to the file work of any daemon. Raises: sqlalchemy's DBAPIError.
    """
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

    publishing.publish(
        context.engine, context.store, work, find, lease_s=context.settings.lease_s, check=check
    )
