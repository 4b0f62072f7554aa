"""Wakes lanes when a job is inserted: by LISTEN if it works, else `worker.jobs.upkeep` polls more often."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psycopg
import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from worker import database
from worker.core.errors import one_line
from worker.core.settings import Settings
from worker.core.threads import jitter
from worker.database.monitor import REFUSED_S, DatabaseMonitor, is_auth_refused
from worker.jobs import queue

JOBS, CANCEL, EVENTS, FILES = "worker_jobs", "worker_cancel", "worker_webhooks", "worker_files"
BATCHES, GAUGES = "worker_batches", "worker_gauges"
ECHO_EVERY_S = 25.0  # how long notifications may be lost unnoticed
ECHO_WITHIN_S = 5.0
RETRY_S = 0.5, 300.0  # first and longest wait before LISTEN is tried again

log = structlog.get_logger()


class Wakeup:
    """Tells waiting lanes that there may be a job. One lane claims, and wakes the next if it got a job: a burst of n jobs
    costs n claims and one that finds nothing. A wake-up that comes while no lane waits is kept for the next one that does.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kept = False
        self._waiting = 0
        self._all = False

    @property
    def waiting(self) -> bool:
        """True if a lane has nothing to do."""
        return self._waiting > 0

    def wake(self) -> None:
        """Wake one lane."""
        with self._changed:
            self._kept = True
            self._changed.notify()

    def wake_all(self) -> None:
        """Wake all lanes. From now on `wait` returns at once."""
        with self._changed:
            self._all = True
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Wait for a wake-up and use it up. False after `timeout` seconds."""
        with self._changed:
            self._waiting += 1
            try:
                woken = self._changed.wait_for(lambda: self._kept or self._all, timeout)
            finally:
                self._waiting -= 1
            self._kept = self._kept and not woken
            return woken


class Listener(threading.Thread):
    """Receives the database's notifications, on a connection of its own, for as long as the daemon lives.

    Behind a transaction pooler LISTEN succeeds and nothing ever arrives, and a dead link is silent too. So an echo is sent
    from time to time, and `alive` is true only while it comes back. It is sent on another connection: a pooled connection
    may hear itself, because the server's answer to NOTIFY carries the notification along.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        monitor: DatabaseMonitor,
        *,
        on_insert: Callable[[], None],
        on_cancel: Callable[[str], None],
        on_event: Callable[[], None],
        on_files: Callable[[], None] = lambda: None,
        on_batch: Callable[[], None] = lambda: None,
        on_gauges: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(name="listener", daemon=True)
        self.settings = settings
        self.engine = engine
        self.monitor = monitor
        self.on_insert = on_insert
        self.on_cancel = on_cancel
        self.on_event = on_event  # another session wrote an event
        self.on_files = on_files  # a publication, a removal or an erasure is due
        self.on_batch = on_batch  # another session ended or deleted a job of a batch
        self.on_gauges = on_gauges  # the figures of the whole queue, after one daemon's query
        self.alive = False
        self._said: bool | None = None
        self._echo = f"worker_echo_{uuid4().hex[:12]}"
        self._heard = False

    def run(self) -> None:
        """Listen for ever."""
        wait = RETRY_S[0]
        while True:
            try:
                with database.listen(self.settings) as connection:
                    for channel in (JOBS, CANCEL, EVENTS, FILES, BATCHES, GAUGES, self._echo):
                        connection.execute(f"LISTEN {channel}".encode())
                    while self._echoes(connection):
                        wait = RETRY_S[0]
                        if not self.alive:
                            self._is(alive=True, reason="")
                            # For what was inserted while nobody listened.
                            self.on_insert()
                            self.on_event()
                            self.on_files()
                        self._hear(connection, ECHO_EVERY_S * jitter(0.8, 1))
                    reason = "notifications do not arrive, as behind a transaction pooler"
            except (psycopg.Error, SQLAlchemyError) as error:
                reason = one_line(error)
                if isinstance(error, psycopg.Error) and is_auth_refused(error):
                    wait = max(wait, REFUSED_S[0])
            self._is(alive=False, reason=reason)
            # Often the whole database is away, and an idle daemon notices it here first: this statement tells the monitor.
            with suppress(SQLAlchemyError):
                queue.notify(self.engine, self._echo)
            if self.monitor.available:
                time.sleep(wait * jitter(0.5, 1))
                wait = min(RETRY_S[1], wait * 2)
            else:
                self.monitor.wait(RETRY_S[1])

    def _echoes(self, connection: psycopg.Connection[Any]) -> bool:
        self._heard = False
        try:
            queue.notify(self.engine, self._echo)
        except DBAPIError:
            # That was the engine's connection. It proves nothing about ours, which has proved itself.
            if not self.alive:
                raise
            return True
        deadline = time.monotonic() + ECHO_WITHIN_S
        while not self._heard and (left := deadline - time.monotonic()) > 0:
            self._hear(connection, left, stop_after=1)
        return self._heard

    def _hear(
        self, connection: psycopg.Connection[Any], timeout: float, stop_after: int | None = None
    ) -> None:
        for notification in connection.notifies(timeout=timeout, stop_after=stop_after):
            if notification.channel == JOBS:
                self.on_insert()
            elif notification.channel == CANCEL:
                self.on_cancel(notification.payload)
            elif notification.channel == EVENTS:
                self.on_event()
            elif notification.channel == FILES:
                self.on_files()
            elif notification.channel == BATCHES:
                self.on_batch()
            elif notification.channel == GAUGES:
                self.on_gauges(notification.payload)
            else:
                self._heard = True

    def _is(self, *, alive: bool, reason: str) -> None:
        self.alive = alive
        if self._said is alive:
            return
        if alive:
            log.info("listening")
        else:
            log.warning("not_listening", reason=reason, instead="polling")
        self._said = alive
