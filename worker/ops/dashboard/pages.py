"""Read what each page shows. Nothing here writes."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Engine

from worker.core import stages
from worker.database import Row, fetch_all, fetch_one, parse_json, queries
from worker.jobs import hosts, queue

QUERIES = queries("worker.ops.dashboard")

PAGE = 25  # jobs
LONGEST_STEP_S = 86_400  # a report that claims more is not ours
LAST_PAGE = 400  # a search finds older jobs
AHEAD = 5  # waiting jobs that the first page shows beside the others
WITHIN = 5000  # how many of the jobs that ended last are filtered by status

STATES = {
    "": "All",
    "processing": "Running",
    "pending": "Waiting",
    "completed": "Completed",
    "review": "To review",
    "failed": "Failed",
    "cancelled": "Cancelled",
}

# Texts of `metadata.worker` that the page shows.
REPORT_TEXTS = ("engine", "lane", "cached", "cutout_url", "poster_url", "turntable_url", "usdz_url")


class Listing(NamedTuple):
    """A page of jobs."""

    jobs: list[Row]
    more: bool


def listing(engine: Engine, *, status: str, search: str, page: int) -> Listing:
    """Return a page of jobs. `search` is a shop, or at least six digits of the beginning of a job's id."""
    window = {"limit": PAGE + 1, "offset": (page - 1) * PAGE}
    digits = search.replace("-", "").lower()
    if re.fullmatch("[0-9a-f]{6,32}", digits):
        first, last = (UUID(digits.ljust(32, digit)) for digit in "0f")
        ids = _ids(engine, "of_id", first=first, last=last, status=status, **window)
    elif search:
        shop = search if "." in search else f"{search}.myshopify.com"
        ids = _ids(engine, "of_shop", shop=shop, status=status, within=WITHIN, **window)
    elif status == "processing":
        ids = _ids(engine, "running", **window)
    elif status == "pending":
        ids = _ids(engine, "waiting", **window)
    elif status == "review":
        ids = _ids(engine, "to_review", **window)
    elif status:
        ids = _ids(engine, "ended_as", status=status, within=WITHIN, **window)
    else:
        return _all_states(engine, window, page)
    return Listing(cards(engine, ids[:PAGE]), len(ids) > PAGE and page < LAST_PAGE)


def _all_states(engine: Engine, window: Mapping[str, int], page: int) -> Listing:
    """Return running and next jobs on the first page, and jobs that ended on all pages."""
    ended = _ids(engine, "ended", **window)
    now = []
    if page == 1:
        now = _ids(engine, "running", limit=2 * PAGE, offset=0)
        now += _ids(engine, "waiting", limit=AHEAD, offset=0)
    return Listing(cards(engine, now + ended[:PAGE]), len(ended) > PAGE and page < LAST_PAGE)


def cards(engine: Engine, ids: Sequence[UUID]) -> list[Row]:
    """Return what a line of a list shows of each job, in this order."""
    return fetch_all(engine, QUERIES["cards"], ids=list(ids)) if ids else []


def summary(engine: Engine) -> Row:
    """Return the queue's figures, the hosts, the due jobs that none of them can take, and the last day's failures by code."""
    return {
        "health": queue.health(engine),
        "hosts": hosts.list_hosts(engine),
        "unserved": queue.unserved(engine),
        "failures": queue.failures(engine),
    }


def job(engine: Engine, job_id: UUID) -> Row | None:
    """Return everything that the page of a job shows. None if there is no such job."""
    found = fetch_one(engine, QUERIES["job"], id=job_id)
    if found is None:
        return None
    card = cards(engine, [job_id])
    if not card:  # deleted in between
        return None
    metadata = found.pop("metadata")
    report = _object({"worker": parse_json(found.pop("report") or "")}, "worker")
    return {
        "job": card[0],
        "row": found,
        "source": _source(found, metadata),
        "cut": metadata is None,
        "position": queue.queue_position(engine, job_id) if card[0]["status"] == "pending" else None,
        "attempts": fetch_all(engine, QUERIES["attempts"], id=job_id),
        "photos": _photos(found["image_urls"], report.get("photos")),
        "report": {name: _text(report, name) for name in REPORT_TEXTS},
        "model": _object(report, "model"),
        "quality": _quality(_object(report, "quality")),
        "seconds": _seconds(_object(report, "seconds")),
    }


def _source(row: Row, metadata: str | None) -> str:
    """Return the row as JSON for people. Metadata that Python cannot read stays the text that it is."""
    try:
        return json.dumps(
            row | {"metadata": json.loads(metadata or "null")}, indent=2, ensure_ascii=False, default=str
        )
    except (ValueError, RecursionError):
        return json.dumps(row | {"metadata": metadata}, indent=2, ensure_ascii=False, default=str)


# A report may be of another version, or written by a backend: values of unexpected types are left out.


def _photos(urls: Sequence[str], reported: object) -> list[Row]:
    """Return each photo with its outcome. The report lists photos in the order of the row."""
    complete = isinstance(reported, list) and len(reported) == len(urls)
    reports: Any = reported if complete else [None] * len(urls)
    keys = ("status", "view", "reason", "error_message")
    return [
        {"url": url, **{key: _text(report, key) for key in keys}}
        for url, report in zip(urls, reports, strict=True)
    ]


def _quality(quality: Row) -> Row | None:
    if not quality:
        return None
    warnings = quality.get("warnings")
    return {
        "score": _number(quality.get("score")),
        "warnings": [text for text in warnings if isinstance(text, str)]
        if isinstance(warnings, list)
        else [],
        "figures": {
            name: value
            for name, value in quality.items()
            if name != "score" and isinstance(value, (bool, int, float))
        },
    }


def _seconds(seconds: Row) -> dict[str, float]:
    return stages.in_order(
        {
            step: took
            for step, value in seconds.items()
            if (took := _number(value)) is not None and 0 <= took <= LONGEST_STEP_S
        }
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(report: object, key: str) -> str | None:
    value = report.get(key) if isinstance(report, dict) else None
    return value if isinstance(value, str) else None


def _object(report: Mapping[str, Any], key: str) -> Row:
    value = report.get(key)
    return value if isinstance(value, dict) else {}


def _ids(engine: Engine, query: str, **parameters: Any) -> list[UUID]:
    return [row["id"] for row in fetch_all(engine, QUERIES[query], **parameters)]
