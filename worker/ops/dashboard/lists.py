"""The pages of hosts, batches, webhooks and limits: what each reads."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from sqlalchemy.engine import Engine

from worker.database import Row, fetch_all, queries
from worker.jobs import batches, hosts, plans, queue
from worker.webhooks import outbox

QUERIES = queries("worker.ops.dashboard")

PAGE = 50
SHOPS = 20  # of the busiest
LONGEST_PART = 255

Query = Mapping[str, str]


def host_list(engine: Engine, _query: Query) -> Row:
    """Return what the page of hosts shows."""
    return {"hosts": hosts.list_hosts(engine), "unserved": queue.unserved(engine)}


def batch_list(engine: Engine, query: Query) -> Row:
    """Return a page of batches, the newest first."""
    part, before = _part(query), _time(query, "before")
    place = (before, _text(query, "shop"), _text(query, "batch")) if before else None
    rows = batches.page(engine, part=part, limit=PAGE + 1, before=place)
    last = rows[PAGE - 1] if len(rows) > PAGE else None
    older = last and {
        "q": part,
        "before": last["created_at"].isoformat(),
        "shop": last["shop"],
        "batch": last["batch"],
    }
    return {"batches": rows[:PAGE], "part": part, "older": older and urlencode(older), "first": place is None}


def one_batch(engine: Engine, shop: str, batch: str) -> Row | None:
    """Return what the page of a batch shows; None if there is no such batch."""
    if "\0" in shop + batch or not (found := batches.status(engine, shop=shop, batch=batch)):
        return None
    return {
        "batch": found[0],
        "failed": fetch_all(engine, QUERIES["failed_of_batch"], shop=shop, batch=batch, limit=PAGE),
    }


def dead_events(engine: Engine, query: Query) -> Row:
    """Return a page of the webhooks that were given up, the latest first."""
    shop, before, seq = _text(query, "shop"), _time(query, "before"), query.get("seq", "")
    place = (before, int(seq)) if before and seq.isascii() and seq.isdecimal() and len(seq) < 19 else None
    rows = outbox.dead(engine, PAGE + 1, shop=shop or None, before=place)
    last = rows[PAGE - 1] if len(rows) > PAGE else None
    older = last and {"shop": shop, "before": last["dead_at"].isoformat(), "seq": last["seq"]}
    return {
        "events": rows[:PAGE],
        "shop": shop,
        "shops": outbox.dead_shops(engine),
        "older": older and urlencode(older),
        "first": place is None,
    }


def limits(engine: Engine, query: Query) -> Row:
    """Return a page of the plans of shops, and the shops that have used most today."""
    part, after = _part(query), _text(query, "after")
    rows = plans.list_plans(engine, part=part, after=after, limit=PAGE + 1)
    older = {"q": part, "after": rows[PAGE - 1]["shop"]} if len(rows) > PAGE else None
    return {
        "plans": rows[:PAGE],
        "part": part,
        "older": older and urlencode(older),
        "first": not after,
        "busiest": plans.busiest_shops(engine, SHOPS),
        "presets": plans.PRESETS,
    }


def batch_path(batch: Mapping[str, Any]) -> str:
    """Return the path of a batch's page, whatever its names are."""
    return f"/batches/{quote(batch['shop'], safe='')}/{quote(batch['batch'], safe='')}"


def _text(query: Query, name: str) -> str:
    return query.get(name, "")[:LONGEST_PART].replace("\0", "")


def _part(query: Query) -> str:
    return _text(query, "q").strip()


def _time(query: Query, name: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(query.get(name, ""))
    except ValueError:
        return None
    return found if found.tzinfo else None
