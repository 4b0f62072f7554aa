"""Finishes a job with a result that is known: a version that a job of the same shop made from the same photos, in the same way.

A version of the same product serves as it is. The files of another product's version are fetched and checked, and stored under
the product's own path. Whatever is missing or different by now is a miss, and the job is made as if nothing were known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from worker.core.errors import JobError, one_line, redact_url
from worker.daemon.storing import Version
from worker.jobs.queue import Job
from worker.storage import Store, paths
from worker.versions import files
from worker.versions.queue import Result

# What the report of the source says of its own attempt and files; the others are about the model.
OF_THE_ATTEMPT = {
    "lane",
    "seconds",
    "cpu_seconds",
    "peak_rss_mb",
    "review",
    "review_reason",
    "cached",
    *files.URLS.values(),
}

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Known:
    """A result that need not be made."""

    result: Result
    version: Version  # of the product; if it is another product's result, its files are in the job's folder
    urls: (
        Mapping[str, str] | None
    )  # of the version's files, as `storing.upload` returns them; None: they are to be stored


def bring(store: Store, result: Result, job: Job, folder: Path, check: Callable[[], None]) -> Known | None:
    """Find the files of a known result where they belong, or copy them into the job's folder. None if one is missing or another.

    `check` is called again and again, and raises if the job must end. Raises: what `check` raises.
    """
    version = Version(
        stem=paths.stem(job.shop, job.product_id, job.variant_id),
        files={ending: folder / name for ending, name in files.NAMES.items() if ending in result.files},
        hashes=result.files,
    )
    source = paths.version_stem(result.stem, result.digest)
    urls = {}
    try:
        for ending, file in version.files.items():
            check()
            if result.same_product:
                urls[files.URLS[ending]] = store.locate(source + ending, version.hashes[ending], check)
            else:
                files.fetch(store, source, ending, version.hashes[ending], file, check)
    except JobError as error:
        log.warning("known_result_missing", source=str(result.job_id), reason=one_line(error))
        return None
    return Known(result=result, version=version, urls=urls if result.same_product else None)


def report(known: Known, job: Job, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return the source's report as that of the job, which adds `ours` and the id of the job that made the model: the source may be
    a copy itself. The photos' URLs are the job's own.
    """
    model = {key: value for key, value in known.result.report.items() if key not in OF_THE_ATTEMPT}
    photos = model.get("photos")
    if isinstance(photos, list) and len(photos) == len(job.image_urls):
        model["photos"] = [
            {**photo, "url": redact_url(url)} if isinstance(photo, dict) else photo
            for photo, url in zip(photos, job.image_urls, strict=True)
        ]
    return {**model, **ours, "cached": known.result.report.get("cached", str(known.result.job_id))}
