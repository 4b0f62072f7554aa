"""What each page shows, read from the database; nothing here writes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Engine

from worker.core import stages
from worker.database import Row, fetch_all, fetch_one, queries
from worker.jobs import queue

QUERIES = queries("worker.ops.dashboard")

PAGE = 25  # jobs
LAST_PAGE = 400  # further on nobody reads; a search finds what is older
AHEAD = 5  # of those that wait, beside all others
WITHIN = 5000  # how many of those that ended are looked through for one way of ending

STATES = {
    "": "All",
    "processing": "Running",
    "pending": "Waiting",
    "completed": "Completed",
    "failed": "Failed",
    "cancelled": "Cancelled",
}

# What the page shows of `metadata.worker` as it is.
TOLD = ("engine", "cutout_url", "poster_url", "turntable_url", "usdz_url")


class Listing(NamedTuple):
    """A page of jobs."""

    jobs: list[Row]
    more: bool


def listing(engine: Engine, *, status: str, search: str, page: int) -> Listing:
    """`search` is a shop, or the beginning of a job's id; of six digits at least, so that few shops look like one."""
    window = {"limit": PAGE + 1, "offset": (page - 1) * PAGE}
    digits = search.replace("-", "").lower()
    if re.fullmatch("[0-9a-f]{6,32}", digits):
        first, last = (UUID(digits.ljust(32, digit)) for digit in "0f")
        ids = _ids(engine, "of_id", first=first, last=last, status=status, **window)
    elif search:
        shop = search if "." in search else f"{search}.myshopify.com"
        ids = _ids(engine, "of_shop", shop=shop, status=status, **window)
    elif status == "processing":
        ids = _ids(engine, "running", **window)
    elif status == "pending":
        ids = _ids(engine, "waiting", **window)
    elif status:
        ids = _ids(engine, "ended_as", status=status, within=WITHIN, **window)
    else:
        return _all_states(engine, window, page)
    return Listing(cards(engine, ids[:PAGE]), len(ids) > PAGE and page < LAST_PAGE)


def _all_states(engine: Engine, window: Mapping[str, int], page: int) -> Listing:
    """On the first page what runs and what is next, on all of them what has ended."""
    ended = _ids(engine, "ended", **window)
    now = []
    if page == 1:
        now = _ids(engine, "running", limit=2 * PAGE, offset=0)
        now += _ids(engine, "waiting", limit=AHEAD, offset=0)
    return Listing(cards(engine, now + ended[:PAGE]), len(ended) > PAGE and page < LAST_PAGE)


def cards(engine: Engine, ids: Sequence[UUID]) -> list[Row]:
    return fetch_all(engine, QUERIES["cards"], ids=list(ids)) if ids else []


def glance(engine: Engine) -> Row:
    """The queue's figures, the workers that were heard of, and the last day's failures by code."""
    return {
        "health": queue.health(engine),
        "workers": queue.workers(engine),
        "failures": queue.failures(engine),
    }


def job(engine: Engine, job_id: UUID) -> Row | None:
    """All that is known of a job; None where there is none."""
    found = fetch_one(engine, QUERIES["job"], id=job_id)
    if found is None:
        return None
    card = cards(engine, [job_id])
    if not card:  # deleted in between
        return None
    told = _object(found["metadata"], "worker")
    return {
        "job": card[0],
        "row": found["row"] | {"metadata": found["metadata"]},
        "cut": found["cut"],
        "place": queue.queue_position(engine, job_id) if card[0]["status"] == "pending" else None,
        "attempts": fetch_all(engine, QUERIES["attempts"], id=job_id),
        "photos": _photos(found["row"]["image_urls"], told.get("photos")),
        "told": {name: _text(told, name) for name in TOLD},
        "model": _object(told, "model"),
        "quality": _quality(_object(told, "quality")),
        "seconds": _seconds(_object(told, "seconds")),
    }


# What a report holds is taken by its type: one of another version, or of nobody's, must not break the page.


def _photos(urls: Sequence[str], said: object) -> list[Row]:
    """Each photo with what became of it; the report lists them in the order of the row."""
    reports = said if isinstance(said, list) and len(said) == len(urls) else [None] * len(urls)
    return [
        {"url": url, "status": _text(report, "status"), "error_message": _text(report, "error_message")}
        for url, report in zip(urls, reports, strict=True)
    ]


def _quality(told: Row) -> Row | None:
    if not told:
        return None
    warnings = told.get("warnings")
    return {
        "score": _number(told.get("score")),
        "warnings": [text for text in warnings if isinstance(text, str)]
        if isinstance(warnings, list)
        else [],
        "figures": {
            name: value
            for name, value in told.items()
            if name != "score" and isinstance(value, (bool, int, float))
        },
    }


def _seconds(told: Row) -> dict[str, float]:
    return stages.in_order(
        {step: took for step, value in told.items() if (took := _number(value)) is not None and took >= 0}
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(told: object, key: str) -> str | None:
    value = told.get(key) if isinstance(told, dict) else None
    return value if isinstance(value, str) else None


def _object(told: Mapping[str, Any], key: str) -> Row:
    value = told.get(key)
    return value if isinstance(value, dict) else {}


def _ids(engine: Engine, query: str, **parameters: Any) -> list[UUID]:
    return [row["id"] for row in fetch_all(engine, QUERIES[query], **parameters)]
