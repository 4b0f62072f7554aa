"""Erasure: what a shop, a product or a variant has here is forgotten, in the store and in the database.

`forget_shop()` and `forget_product()` enter it in worker.erasures. Whoever has taken an erasure goes through its steps, each of
which can be repeated: stop what runs, remove the files, delete the rows, forget the name. So another daemon goes on where one
was killed. The rules of what is covered are in migrations/sql/erasure.sql.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from worker.core import metrics
from worker.core.errors import JobError, one_line
from worker.database import Row, fetch_all, fetch_one, fetch_value, queries
from worker.database.monitor import is_connection_lost, is_transient
from worker.storage import Store, paths
from worker.versions.hold import Hold, Stopped, TakenOver

COUNTS = ("jobs", "versions", "files", "events")
LEASE_S = 30.0
WAIT_S = 1.0  # before what is to stop is looked at again
QUIET_S = 10.0  # for which a store may still receive what somebody sent who was killed or gave up
SWEEP = 30  # tries with jobs that run, after which those that wait are deleted once more
BATCH = 500  # rows that one transaction looks at
EVENTS = 20_000  # … of the outbox, of which it deletes few
FILES = 100  # in one removal

QUERIES = queries("worker.versions")

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """An erasure that was taken. `product` and `variant` are None where all of them are forgotten."""

    id: UUID
    token: UUID
    shop: str
    product: str | None
    variant: str | None
    tries: int
    lease_s: float


def begin(engine: Engine, shop: str, product: str | None = None, variant: str | None = None) -> UUID:
    """Have a shop, a product or a variant forgotten, as `forget_shop()` does. Returns the erasure's id."""
    found = fetch_value(engine, QUERIES["begin_erasure"], shop=shop, product=product, variant=variant)
    return UUID(str(found))


def take(engine: Engine, erasure: UUID | None = None, *, lease_s: float = LEASE_S) -> Erasure | None:
    """Take the erasure that has been due longest, or the given one if it is due, for `lease_s` seconds. None if there is none."""
    row = fetch_one(engine, QUERIES["take_erasure"], id=erasure, lease_s=lease_s)
    return Erasure(**row, lease_s=lease_s) if row else None


def get(engine: Engine, erasure: UUID) -> Row:
    """Return what is known of an erasure: `done`, `taken` (a daemon has it now), `last_error` and the counts."""
    return fetch_all(engine, QUERIES["get_erasure"], id=erasure)[0]


def preview(
    engine: Engine, store: Store, shop: str, product: str | None = None, variant: str | None = None
) -> tuple[int, int]:
    """Return how many rows and files an erasure would find now. Raises: JobError."""
    rows = fetch_value(engine, QUERIES["count_covered"], shop=shop, product=product, variant=variant)
    return int(rows), len(store.find(paths.stem(shop, product, variant)))


def running(engine: Engine, erasure: UUID) -> list[Row]:
    """Return the jobs that an erasure waits for: `id` and `claimed_by`."""
    return fetch_all(engine, QUERIES["list_running"], id=erasure)


def carry_out(
    engine: Engine, store: Store, erasure: Erasure, check: Callable[[], None] = lambda: None
) -> bool:
    """Do what can be done of an erasure that was taken. True if it is done; else it is due again later.

    check: called again and again; it raises Stopped if the process must end.

    Raises: sqlalchemy's DBAPIError if the database is away. The erasure is due again when its lease has expired.
    """
    bound = log.bind(erasure=str(erasure.id))
    if erasure.tries == 1:
        bound.info("erasure_begun")
    try:
        with Hold(lambda: _renew(engine, erasure), erasure.lease_s, check) as hold:
            done, wait_s = _go_through(engine, store, erasure, hold)
    except TakenOver:
        return False
    except Stopped:
        _postpone(engine, erasure, wait_s=0.0)
        return False
    except (JobError, RuntimeError, DBAPIError) as error:
        if isinstance(error, DBAPIError) and is_connection_lost(error.orig):
            raise
        if isinstance(error, DBAPIError) and is_transient(error):  # it has met other sessions' locks
            _postpone(engine, erasure, wait_s=WAIT_S)
            return False
        reason = one_line(error)
        until = _postpone(engine, erasure, error=reason)
        metrics.ERASURES.labels("retry_scheduled").inc()
        bound.warning("erasure_failed", reason=reason, until=until)
        return False
    for row in done:
        metrics.ERASURES.labels("done").inc()
        log.info("erasure_done", erasure=str(row["id"]), **{count: row[count] for count in COUNTS})
    if not done:
        _postpone(engine, erasure, wait_s=wait_s)
    return bool(done)


def _go_through(engine: Engine, store: Store, erasure: Erasure, hold: Hold) -> tuple[list[Row], float]:
    """Take all steps. Returns the erasures that are done, and the seconds to wait if none is, since something still runs or came
    in between.
    """
    if erasure.tries % SWEEP == 1:
        _held(engine, "stop_erased_jobs", erasure, quiet_s=QUIET_S)
        _delete_jobs(engine, erasure, hold, ended=False)
    waits = _held(engine, "stop_erased_jobs", erasure, quiet_s=QUIET_S)
    if waits["running"] or waits["publishing"]:
        return [], WAIT_S
    _remove_files(engine, store, erasure, hold)
    _delete_jobs(engine, erasure, hold, ended=True)
    while _held(engine, "delete_erased_versions", erasure, batch=BATCH)["more"]:
        hold.check()
    if erasure.product is None:
        after: int | None = 0
        while after is not None:
            hold.check()
            after = _held(engine, "delete_erased_events", erasure, after_seq=after, batch=EVENTS)["last_seq"]
    hold.check()
    if waits["wait_s"]:
        return [], waits["wait_s"]  # and then the files once more
    return fetch_all(engine, QUERIES["finish_erasure"], **_key(erasure)), WAIT_S


def _delete_jobs(engine: Engine, erasure: Erasure, hold: Hold, *, ended: bool) -> None:
    """Delete the rows that wait, and with `ended` those that have ended, from the oldest on."""
    last: dict[str, Any] = {"last_time": datetime(1, 1, 1, tzinfo=UTC), "last_id": UUID(int=0), "more": True}
    while last["more"]:
        hold.check()
        last = _held(
            engine,
            "delete_erased_jobs",
            erasure,
            after_time=last["last_time"],
            after_id=last["last_id"],
            batch=BATCH,
            ended=ended,
        )


def _remove_files(engine: Engine, store: Store, erasure: Erasure, hold: Hold) -> None:
    """Remove all files but those of later jobs, until none is found any more. Raises: JobError; TakenOver."""
    stem = paths.stem(erasure.shop, erasure.product, erasure.variant)
    removed: set[str] = set()
    while True:
        found = store.find(stem)
        # Asked after the files were listed: a file whose version is not in the answer was there before the erasure.
        kept = _Kept(fetch_all(engine, QUERIES["list_kept_versions"], id=erasure.id))
        doomed = [path for path in found if path not in kept]
        if not doomed:
            return
        if removed.issuperset(doomed):
            raise JobError("storage_unavailable", f"{len(doomed)} files exist again after their removal.")
        _held(engine, "count_erased_files", erasure, found=len(removed.union(doomed)))
        try:
            for first in range(0, len(doomed), FILES):
                store.remove(doomed[first : first + FILES], hold.check)
                hold.renew()
        except TakenOver:
            # Whoever has the erasure may have ended it, and a later job may have published where we have removed.
            fetch_all(engine, QUERIES["doubt_publications"], shop=erasure.shop)
            raise
        removed.update(doomed)


class _Kept:
    """The paths of the files that stay. A later version may be on its way into the folder: `.{name}.…` is a draft of `{name}`."""

    def __init__(self, versions: Iterable[Row]) -> None:
        self._versions, self._published = set[str](), set[str]()
        for version in versions:
            stem = paths.version_stem(version["stem"], version["digest"])
            self._versions.update(stem + ending for ending in version["endings"])
            if version["published"]:
                self._published.update(version["stem"] + ending for ending in version["endings"])

    def __contains__(self, path: str) -> bool:
        folder, slash, name = path.rpartition("/")
        draft_of = f"{folder}{slash}{name[1:].rpartition('.')[0]}" if name.startswith(".") else ""
        return path in self._published or not self._versions.isdisjoint({path, draft_of})


def _renew(engine: Engine, erasure: Erasure) -> bool:
    return fetch_one(engine, QUERIES["hold_erasure"], **_key(erasure)) is not None


def _held(engine: Engine, query: str, erasure: Erasure, **parameters: Any) -> Row:
    """Run a statement that renews the lease. Raises: TakenOver."""
    row = fetch_one(engine, QUERIES[query], **_key(erasure), **parameters)
    if row is None:
        raise TakenOver
    return row


def _postpone(engine: Engine, erasure: Erasure, *, wait_s: float = 0.0, error: str | None = None) -> str:
    """Give the erasure back. Returns when it is due again; empty if the lease is lost."""
    row = fetch_one(
        engine,
        QUERIES["postpone_erasure"],
        id=erasure.id,
        token=erasure.token,
        wait_s=wait_s,
        error=error,
    )
    return row["next_try_at"].isoformat() if row else ""


def _key(erasure: Erasure) -> dict[str, Any]:
    return {"id": erasure.id, "token": erasure.token, "lease_s": erasure.lease_s}
