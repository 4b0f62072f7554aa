"""Read what the overview and the list show. Nothing here writes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Engine

from worker.database import Row, fetch_all, queries
from worker.jobs import hosts, queue
from worker.jobs.filters import ENDED, BadFilter, Filter
from worker.jobs.search import Count, Search
from worker.jobs.walks import Place
from worker.ops.dashboard import search

QUERIES = queries("worker.ops.dashboard")

LONGEST = 2000  # letters that are searched for
PAGE = 24  # jobs, in one column or two
RUNNING = 50  # jobs that the overview shows at the most
AHEAD = 5  # waiting jobs that it shows

# The choices above the list, each with what it asks for.
CHIPS: Mapping[str, Mapping[str, str]] = {
    "All": {},
    "Running": {"status": "processing"},
    "Waiting": {"status": "pending"},
    "Completed": {"status": "completed"},
    "To review": {"review": "wanted"},
    "Failed": {"status": "failed"},
    "Cancelled": {"status": "cancelled"},
}


def overview(engine: Engine, query: Mapping[str, str]) -> Row:
    """Return what `/` shows: the list of the filter in a query string, or the whole queue if it asks for nothing."""
    typed = query.get("q", "").replace("\0", "").strip()[:LONGEST]
    found: Row = {
        "typed": typed,
        "readings": [],
        "problem": "",
        "chips": CHIPS,
        "parts": [],
        "wanted": Filter(),
        "choices": {},
    }
    try:
        readings = search.read(engine, typed) if typed else []
        wanted = replace(readings[0] if readings else Filter(), **Filter.parse(query).values)
        older, newer = (
            Place.parse(text) if (text := query.get(name)) else None for name in ("older", "newer")
        )
    except BadFilter as error:
        return found | {"problem": str(error)}
    if typed and not readings:
        return found | {"problem": f"Nothing is called “{typed}”."}
    found |= {"readings": readings, "wanted": wanted}
    if wanted == Filter() and not older and not newer:
        return found | _queue(engine)
    return found | _listing(engine, wanted, older, newer)


def _queue(engine: Engine) -> Row:
    """Return the queue's figures, the hosts, the last day's failures by code, what runs, what waits next and what ended last."""
    ended = Search(engine, Filter(status=ENDED)).find(most=PAGE)
    parts = [
        ("Running", "processing", _ids(engine, "running", limit=RUNNING)),
        ("Next", "pending", _ids(engine, "waiting", limit=AHEAD)),
        ("Ended", ENDED, ended.ids),
    ]
    return {
        "parts": [(title, status, cards(engine, ids)) for title, status, ids in parts if ids],
        "older": ended.places[-1] if ended.more else None,
        "health": queue.health(engine),
        "hosts": hosts.list_hosts(engine),
        "unserved": queue.unserved(engine),
        "failures": queue.failures(engine),
        "choices": Search(engine, Filter()).choices(),
    }


def _listing(engine: Engine, wanted: Filter, older: Place | None, newer: Place | None) -> Row:
    """Return a part of the list of a filter, and how many jobs match it."""
    asked = Search(engine, wanted)
    found = asked.find(most=PAGE, older=older, newer=newer)
    if newer and not found.more and not found.stopped:  # the beginning, in full
        older = newer = None
        found = asked.find(most=PAGE)
    first = found.places[0] if found.places else older
    last = found.places[-1] if found.places else newer
    return {
        "parts": [("", "", cards(engine, found.ids))],
        "is_first": not older and not newer,
        "newer": first if older or (found.more and newer) else None,
        "older": last if newer or found.more else None,
        "stopped": found.stopped,
        "further": "newer" if newer else "older",
        "visits": asked.visits,
        "by_end": asked.by_end,
        "count": asked.count(),
        "choices": asked.choices(),
    }


def number(count: Count | None) -> str:
    """Format a number of jobs: `12`, `1,000+`; nothing if it is not known."""
    if count is None or not (count.jobs or count.exact):
        return ""
    return f"{count.jobs:,}{'' if count.exact else '+'}"


def cards(engine: Engine, ids: Sequence[UUID]) -> list[Row]:
    """Return what a line of a list shows of each job, in this order."""
    return fetch_all(engine, QUERIES["cards"], ids=list(ids)) if ids else []


def _ids(engine: Engine, query: str, **parameters: Any) -> list[UUID]:
    return [row["id"] for row in fetch_all(engine, QUERIES[query], **parameters)]
