"""The outbox as its callers see it. The rules are in queries.sql."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Engine

from worker.database import Row, execute, fetch_all, fetch_one, fetch_value, queries
from worker.database.ids import find_beginning, shorten_all

QUERIES = queries("worker.webhooks")


@dataclass(frozen=True, kw_only=True)
class Event:
    """A taken event; `job_id` is None for one of a shop as a whole. `attempts` counts the one that is made now, `refusals` the 3xx and 4xx answers before it."""

    id: UUID
    token: UUID
    type: str
    job_id: UUID | None
    seq: int
    terminal: bool
    body: str
    attempts: int
    refusals: int


def take(engine: Engine, *, sending_s: float) -> Event | None:
    """Take the next event that is due for `sending_s` seconds. None if none is."""
    row = fetch_one(engine, QUERIES["take"], sending_s=sending_s)
    return Event(**row) if row else None


def due_in(engine: Engine) -> float | None:
    """Return the seconds until the next event may be taken, below 0 if it already may; None if there is no event."""
    seconds: float | None = fetch_value(engine, QUERIES["due_in"])
    return seconds


def delivered(engine: Engine, event: Event) -> None:
    """Note that the backend has the event."""
    _settle(engine, "delivered", event)


def retry_later(engine: Engine, event: Event, *, wait_s: float, refusals: int, reason: str) -> None:
    """Put an event back, to be sent again after `wait_s` seconds."""
    _settle(engine, "retry_later", event, wait_s=wait_s, refusals=refusals, reason=reason)


def dead_letter(engine: Engine, event: Event, *, refusals: int, reason: str) -> None:
    """Give an event up. It is kept, and later events of its job are sent."""
    _settle(engine, "dead_letter", event, refusals=refusals, reason=reason)


def counts(engine: Engine) -> Row:
    """Return how many events are `waiting`, since when the `oldest` of them waits, and how many are `dead`."""
    return fetch_all(engine, QUERIES["counts"])[0]


def dead(
    engine: Engine, limit: int, *, shop: str | None = None, before: tuple[datetime, int] | None = None
) -> list[Row]:
    """Return up to `limit` dead events, all or those of a shop, the latest first; those after the `dead_at` and `seq` of one.

    `short` is a beginning of the id that no other one of them has.
    """
    dead_at, seq = before or (None, None)
    rows = fetch_all(engine, QUERIES["dead"], limit=limit, shop=shop, before=dead_at, seq=seq)
    shorten_all(rows)
    return rows


def dead_shops(engine: Engine) -> list[Row]:
    """Return the shops with most of the latest dead events: `shop`, how many `events`, and when the `latest` of them died."""
    return fetch_all(engine, QUERIES["dead_shops"])


def find_dead(engine: Engine, beginning: str, most: int) -> list[UUID]:
    """Return the ids of up to `most` dead events with this beginning. A whole id is returned as it is."""

    def among(first: UUID, last: UUID) -> list[UUID]:
        rows = fetch_all(engine, QUERIES["find_dead"], first=first, last=last, most=most)
        return [row["id"] for row in rows]

    return find_beginning(beginning, among)


def replay(engine: Engine, ids: Sequence[UUID] | None) -> set[UUID]:
    """Send dead events again, those with these ids or all. Returns the ids of those that will be sent."""
    rows = fetch_all(engine, QUERIES["replay"], ids=None if ids is None else list(ids))
    return {row["id"] for row in rows}


def _settle(engine: Engine, query: str, event: Event, **parameters: Any) -> None:
    """Another sender may have taken the event meanwhile; then nothing changes."""
    execute(engine, QUERIES[query], seq=event.seq, token=event.token, **parameters)
