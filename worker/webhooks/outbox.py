"""The outbox, as its callers see it; the rules themselves are in queries.sql."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Engine

from worker import database

QUERIES = database.queries("worker.webhooks")

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Event:
    """A taken event. `attempts` counts the one that is now made, `refusals` the 4xx before it."""

    id: UUID
    token: UUID
    job_id: UUID
    seq: int
    terminal: bool
    body: str
    attempts: int
    refusals: int


def take(engine: Engine, *, sending_s: float) -> Event | None:
    """The next event that is due, ours for `sending_s` seconds."""
    row = next(iter(_all(engine, "take", sending_s=sending_s)), None)
    return Event(**row) if row else None


def due_in(engine: Engine) -> float | None:
    """Seconds until the next event may be taken, below zero where one waits for another; None without any."""
    with engine.connect() as connection:
        seconds: float | None = connection.scalar(QUERIES["due_in"])
        return seconds


def delivered(engine: Engine, event: Event) -> None:
    _settle(engine, "delivered", event)


def retry_later(engine: Engine, event: Event, *, wait_s: float, refusals: int, reason: str) -> None:
    """Put an event back, to be sent again after `wait_s` seconds."""
    _settle(engine, "retry_later", event, wait_s=wait_s, refusals=refusals, reason=reason)


def dead_letter(engine: Engine, event: Event, *, refusals: int, reason: str) -> None:
    """Give an event up. It is kept, and later events of its job are sent."""
    _settle(engine, "dead_letter", event, refusals=refusals, reason=reason)


def counts(engine: Engine) -> Row:
    """How many events are `waiting`, since when the `oldest` of them waits, and how many are `dead`."""
    return _all(engine, "counts")[0]


def dead(engine: Engine, limit: int) -> list[Row]:
    """What the backend would not take, the latest first."""
    return _all(engine, "dead", limit=limit)


def replay(engine: Engine, ids: Sequence[UUID] | None) -> set[UUID]:
    """Sends dead events after all, these or all; those for which that was possible."""
    return {row["id"] for row in _all(engine, "replay", ids=None if ids is None else list(ids))}


def _settle(engine: Engine, query: str, event: Event, **parameters: Any) -> None:
    with engine.connect() as connection:
        connection.execute(QUERIES[query], {"id": event.id, "token": event.token, **parameters})


def _all(engine: Engine, query: str, **parameters: Any) -> list[Row]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(QUERIES[query], parameters).mappings()]
