"""Read what the overview shows. Nothing here writes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Engine

from worker.database import Row, fetch_all, queries
from worker.jobs import hosts, queue

QUERIES = queries("worker.ops.dashboard")

PAGE = 25  # jobs
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


def _ids(engine: Engine, query: str, **parameters: Any) -> list[UUID]:
    return [row["id"] for row in fetch_all(engine, QUERIES[query], **parameters)]
