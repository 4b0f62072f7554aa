"""Knows if the database can be used: logs each change once, tells all threads, and probes from one thread."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
import structlog
from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import DBAPIError

from worker.core import threads
from worker.core.errors import one_line
from worker.core.threads import jitter

PROBE_S = 1.5  # between the starts of two probes; the one before may still hang in its connection's time-out
REFUSED_S = (
    30.0,
    300.0,
)  # first and longest wait after a refused login: Supabase bans clients that try too often
CALM_S = 60.0  # an outage that begins sooner after the last one is not probed at once

log = structlog.get_logger()


class DatabaseMonitor:
    """Watches the statements of an engine. While the database is away, threads `wait` here and the monitor's thread probes.

    Each probe has its own connection: one that hangs, as behind a proxy that swallows packets, delays neither the next
    probe nor the pool.
    """

    def __init__(self, engine: Engine, probe: Callable[[], None]) -> None:
        """`probe` returns if a statement would succeed now, else raises psycopg.Error."""
        self.recovered_at = float("-inf")  # time.monotonic()
        self._available = threading.Event()
        self._available.set()
        self._probe = probe
        self._lock = threading.Lock()
        self._lost_at = float("-inf")
        self._refused = False
        self._in_a_row = 0
        event.listen(engine, "handle_error", self._on_error)

    @property
    def available(self) -> bool:
        """True while the database can be used, as far as is known."""
        return self._available.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the database. True if it can be used."""
        return self._available.wait(timeout)

    def _on_error(self, context: ExceptionContext) -> None:
        error = context.original_exception
        if not isinstance(error, psycopg.Error) or not is_connection_lost(error):
            return
        # A read-only server, say yesterday's primary, is left like a dead one: the next connection may find the new one.
        context.is_disconnect = True
        with self._lock:
            self._refused = is_auth_refused(error)
            if not self.available:
                return
            now = time.monotonic()
            self._in_a_row = min(9, self._in_a_row + 1) if now - self._lost_at < CALM_S else 0
            self._lost_at = now
            self._available.clear()
            try:
                threads.start_thread(self._watch)
            except (RuntimeError, MemoryError):
                # No thread can be started, so nobody would ever report a recovery; the next error tries again.
                self._available.set()
                return
            log.warning("database_lost", reason=one_line(error))

    def _watch(self) -> None:
        try:
            self._probe_until_available()
        finally:
            # If this thread ends early, say for lack of memory, waiting threads must go on and find out themselves.
            self._available.set()

    def _probe_until_available(self) -> None:
        wait = REFUSED_S[0]
        # A database that answers and fails again in turns is not worth an immediate probe.
        time.sleep(min(PROBE_S, 0.1 * (2**self._in_a_row - 1)) if not self._refused else wait)
        while not self.available:
            with suppress(RuntimeError):  # no thread can be started just now
                threads.start_thread(self._try)
            if self._available.wait(PROBE_S * jitter(0.6, 1)):
                return
            if self._refused:
                self._available.wait(wait * jitter(0.6, 1))
                wait = min(REFUSED_S[1], wait * 2)

    def _try(self) -> None:
        try:
            self._probe()
        except psycopg.Error as error:
            with self._lock:
                if is_auth_refused(error) and not self._refused:
                    log.error("database_auth_failed", reason=one_line(error))  # noqa: TRY400 - it names itself
                self._refused = is_auth_refused(error)
            return
        with self._lock:
            if not self.available:
                self.recovered_at = time.monotonic()
                self._available.set()
                log.info("database_recovered", seconds=round(self.recovered_at - self._lost_at, 1))


def is_connection_lost(error: BaseException | None) -> bool:
    """True if the database cannot be used at all, so that an immediate retry is of no use."""
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:
        # The connection broke, or was never made.
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    # connection exceptions, wrong password, no such database, no connection left, shutting down, read-only
    return state[:2] in {"08", "28"} or state in {"3D000", "53300", "57P01", "57P02", "57P03", "25006"}


def is_auth_refused(error: psycopg.Error) -> bool:
    """True if the server answers but refuses the login: a wrong password, user or database."""
    if error.sqlstate:
        return error.sqlstate[:2] == "28" or error.sqlstate == "3D000"
    message = str(error)
    return any(
        phrase in message
        for phrase in (
            "password authentication failed",
            "no password supplied",
            "Tenant or user not found",
            "does not exist",
            "no pg_hba.conf entry",
        )
    )


def is_lock_timeout(error: DBAPIError) -> bool:
    """True if a statement waited too long for a row that another session has locked."""
    return isinstance(error.orig, psycopg.errors.LockNotAvailable)


def is_transient(error: DBAPIError) -> bool:
    """True if the same statement may succeed later: the database is away, or busy with other sessions' locks."""
    cause = error.orig
    return is_connection_lost(cause) or (
        isinstance(cause, psycopg.Error) and cause.sqlstate in {"40001", "40P01", "55P03", "57014"}
    )
