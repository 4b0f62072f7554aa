"""Plans of shops: what each may have at most, and what it has used today. The rules are in migrations/sql/plans.sql."""

from collections.abc import Sequence

from sqlalchemy.engine import Engine

from worker.database import Row, execute, fetch_all, fetch_value, queries

QUERIES = queries("worker.jobs")

PRESETS = ("fast", "balanced", "quality", "auto")  # values of `quality`


def list_plans(engine: Engine, *, part: str, after: str, limit: int) -> list[Row]:
    """Return up to `limit` plans of shops whose name has `part`, in the order of their names after `after`, with today's usage."""
    return fetch_all(engine, QUERIES["plans"], part=part, after=after, limit=limit)


def busiest_shops(engine: Engine, limit: int) -> list[Row]:
    """Return the shops in which most jobs ended today, with these numbers."""
    return fetch_all(engine, QUERIES["busiest_shops"], limit=limit)


def usage(engine: Engine, *, shop: str | None, days: int) -> list[Row]:
    """Return what a shop, or each, has used on each of the last `days`, as the view shop_usage says it, the latest first."""
    return fetch_all(engine, QUERIES["usage"], shop=shop, days=days)


def set_plan(
    engine: Engine,
    shop: str,
    *,
    jobs_a_day: int | None,
    jobs_at_once: int | None,
    presets: Sequence[str] | None,
) -> None:
    """Give a shop a plan in place of the one that it has; None means no limit. Raises: sqlalchemy's DBAPIError."""
    presets = None if presets is None else list(presets)
    execute(
        engine, QUERIES["set_plan"], shop=shop, jobs_a_day=jobs_a_day, jobs_at_once=jobs_at_once, presets=presets
    )  # fmt: skip


def remove(engine: Engine, shop: str) -> bool:
    """Take a shop's plan away. False if it has none."""
    return bool(fetch_value(engine, QUERIES["remove_plan"], shop=shop))
