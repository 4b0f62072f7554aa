"""Batches: their sums, and what people do with all jobs of one at once. The rules are in migrations/sql/batches.sql."""

from sqlalchemy.engine import Engine

from worker.database import Row, fetch_all, fetch_one, fetch_value, queries

QUERIES = queries("worker.jobs")

MOST = 200  # batches in one transaction


def fold(engine: Engine) -> int:
    """Add what has changed in all batches to their sums. Returns how many batches have finished, each with its event.

    One daemon at a time does it; another one returns 0 at once.
    """
    finished = 0
    after: Row | None = {"last_shop": "", "last_batch": ""}
    while after and after["last_shop"] is not None:
        after = fetch_one(
            engine, QUERIES["fold_batches"], shop=after["last_shop"], batch=after["last_batch"], most=MOST
        )
        finished += bool(after and after["finished"])
    return finished


def status(engine: Engine, *, batch: str | None = None, shop: str | None = None) -> list[Row]:
    """Return batches as the view batch_status shows them, the newest first: all, those of a shop, those of a name."""
    return fetch_all(engine, QUERIES["batch_status"], batch=batch, shop=shop)


def cancel(engine: Engine, shop: str, batch: str) -> int:
    """End the waiting jobs of a batch and ask its running ones to stop. Returns how many."""
    return int(fetch_value(engine, QUERIES["cancel_batch"], shop=shop, batch=batch))


def retry(engine: Engine, shop: str, batch: str) -> int:
    """Queue the failed jobs of a batch again. Returns how many."""
    return int(fetch_value(engine, QUERIES["retry_batch"], shop=shop, batch=batch))


def set_priority(engine: Engine, shop: str, batch: str, priority: int) -> int:
    """Set the priority of the unfinished jobs of a batch. Returns how many."""
    return int(fetch_value(engine, QUERIES["set_batch_priority"], shop=shop, batch=batch, priority=priority))
