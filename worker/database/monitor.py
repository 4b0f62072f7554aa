"""Whether the database can be used: said once when it changes, known to all threads, and probed by one."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
import structlog
from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import DBAPIError

from worker import database
from worker.core import threads

PROBE_S = (
    1.5  # a new probe so often, whatever became of the one before: each may hang for a connection's time-out
)
REFUSED_S = (
    30.0,
    300.0,
)  # first and longest wait between tries that the server refuses: Supabase bans who hammers
CALM_S = 60.0  # an outage that begins sooner after the last is not probed at once

log = structlog.get_logger()


class Outage:
    """Watches the statements of an engine. While the database cannot be used, threads `wait` here and one of our own tries.

    Probes are connections of their own: one that hangs, as behind a proxy that swallows packets, holds up neither the
    next nor the pool.
    """

    def __init__(self, engine: Engine, probe: Callable[[], None]) -> None:
        self.over = threading.Event()
        self.over.set()
        self.ended_at = float("-inf")  # time.monotonic()
        self._probe = probe
        self._lock = threading.Lock()
        self._began_at = float("-inf")
        self._refused = False
        self._in_a_row = 0
        event.listen(engine, "handle_error", self._look)

    def wait(self, timeout: float) -> bool:
        """Whether the database can be used, as far as is known, at the latest after `timeout` seconds."""
        return self.over.wait(timeout)

    def _look(self, context: ExceptionContext) -> None:
        error = context.original_exception
        if not isinstance(error, psycopg.Error) or not lost(error):
            return
        # A read-only server, say a primary of yesterday, is left like a dead one: the next connection may find the new.
        context.is_disconnect = True
        with self._lock:
            self._refused = refused(error)
            if not self.over.is_set():
                return
            now = time.monotonic()
            self._in_a_row = min(9, self._in_a_row + 1) if now - self._began_at < CALM_S else 0
            self._began_at = now
            self.over.clear()
            try:
                threads.begin(self._watch)
            except (RuntimeError, MemoryError):
                # No thread to be had. Nobody would ever say that it is over; the next error tries again.
                self.over.set()
                return
            log.warning("database_lost", reason=database.reason(error))

    def _watch(self) -> None:
        try:
            self._until_it_is_over()
        finally:
            # Where this thread ended before that, say for want of memory, it is as if there had been none.
            self.over.set()

    def _until_it_is_over(self) -> None:
        wait = REFUSED_S[0]
        # One that keeps coming back is not worth a probe at once: the database answers, and then does not.
        time.sleep(min(PROBE_S, 0.1 * (2**self._in_a_row - 1)) if not self._refused else wait)
        while not self.over.is_set():
            with suppress(RuntimeError):  # no thread to be had just now
                threads.begin(self._try)
            if self.over.wait(PROBE_S * random.uniform(0.6, 1)):  # noqa: S311 - jitter
                return
            if self._refused:
                self.over.wait(wait * random.uniform(0.6, 1))  # noqa: S311 - jitter
                wait = min(REFUSED_S[1], wait * 2)

    def _try(self) -> None:
        try:
            self._probe()
        except psycopg.Error as error:
            with self._lock:
                if refused(error) and not self._refused:
                    log.error("database_refuses_us", reason=database.reason(error))  # noqa: TRY400 - it names itself
                self._refused = refused(error)
            return
        with self._lock:
            if not self.over.is_set():
                self.ended_at = time.monotonic()
                self.over.set()
                log.info("database_back", seconds=round(self.ended_at - self._began_at, 1))


def lost(error: psycopg.Error | BaseException | None) -> bool:
    """Whether the database cannot be used at all, so that trying again at once is of no use."""
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:
        # The connection broke, or was never made.
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    # connection exceptions, wrong password, no such database, no connection left, shutting down, read-only
    return state[:2] in {"08", "28"} or state in {"3D000", "53300", "57P01", "57P02", "57P03", "25006"}


def refused(error: psycopg.Error) -> bool:
    """Whether the server knows us and will not have us: the password is wrong, or the user, or the database."""
    if error.sqlstate:
        return error.sqlstate[:2] == "28" or error.sqlstate == "3D000"
    said = str(error)
    return any(
        words in said
        for words in (
            "password authentication failed",
            "no password supplied",
            "Tenant or user not found",
            "does not exist",
            "no pg_hba.conf entry",
        )
    )


def passing(error: DBAPIError) -> bool:
    """Whether the same statement may succeed by and by: the database is away, or busy with somebody else's locks."""
    cause = error.orig
    return lost(cause) or (
        isinstance(cause, psycopg.Error) and cause.sqlstate in {"40001", "40P01", "55P03", "57014"}
    )
