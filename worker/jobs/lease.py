"""Holds a claimed job: renews its lease in the background for as long as the job is worked on."""

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from worker.core import metrics, threads
from worker.core.stages import Stage
from worker.database.monitor import is_lock_timeout
from worker.jobs import queue
from worker.jobs.queue import Job, LeaseLost

ASK_S = 2.0  # between two renewals if no notification would tell of a cancel request

log = structlog.get_logger()

# This clock counts the time for which the machine was suspended, too.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Lease:
    """A context in which the job is ours. `lost` and `cancelled` may become true at any moment in it."""

    def __init__(
        self,
        engine: Engine,
        job: Job,
        lease_s: float,
        *,
        cancel_push_works: Callable[[], bool] = lambda: True,
        on_report: Callable[[], None] = lambda: None,
    ) -> None:
        """`cancel_push_works` returns True while somebody calls `renew_now` when the job is cancelled. `on_report` is called
        after each progress that was written.
        """
        self.engine = engine
        self.job = job
        self.lease_s = lease_s
        self.cancel_push_works = cancel_push_works
        self.on_report = on_report
        self.cancelled = False
        self._taken = False
        self._held_since = _now()
        self._wake = threading.Event()
        self._done = False
        self._lock_logged = False
        self._unwritten: deque[Stage] = deque()
        self._writing = threading.Lock()

    @property
    def lost(self) -> bool:
        """True if another worker has the job or may have it, since nobody has renewed the lease in time: the database is
        away, or a statement hangs there.
        """
        return self._taken or _now() - self._held_since > self.lease_s

    def __enter__(self) -> Self:
        """Start the renewals. Raises: RuntimeError if no thread can be started."""
        threads.start_thread(self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done = True
        self._wake.set()

    def report(self, stage: Stage) -> None:
        """Have the stage written in the background, so that a database that hangs delays no work."""
        self._unwritten.append(stage)
        self._wake.set()

    def renew_now(self) -> None:
        """Have the lease renewed in the background now, which tells if the job is cancelled."""
        self._wake.set()

    def renew(self) -> None:
        """Write all reports and extend the lease to its full time from now, even if it had expired and nobody took the job.

        Raises: LeaseLost; sqlalchemy's DBAPIError.
        """
        with self._writing:
            try:
                if not self._unwritten:
                    self._hold(lambda: queue.renew(self.engine, self.job, lease_s=self.lease_s))
                while self._unwritten:
                    self._hold(self._write)
                    self.on_report()
            except LeaseLost:
                self._taken = True
                raise

    def _keep(self) -> None:
        while not self._done:
            self._wake.wait(self.lease_s / 3 if self.cancel_push_works() else min(self.lease_s / 3, ASK_S))
            self._wake.clear()
            if self._done:
                return
            try:
                self.renew()
            except LeaseLost:
                return
            except DBAPIError as error:
                # The monitor logs an outage. Try again soon, so that a short one costs no lease; for a locked row at once,
                # to be the first in the line when it is free.
                if not is_lock_timeout(error):
                    time.sleep(min(1.0, self.lease_s / 10))
                self._wake.set()

    def _write(self) -> bool:
        stage = self._unwritten[0]
        cancelled = queue.report(
            self.engine, self.job, progress=stage, stage=stage.title, lease_s=self.lease_s
        )
        self._unwritten.popleft()
        return cancelled

    def _hold(self, write: Callable[[], bool]) -> None:
        """Count the lease from before the statement: nobody knows when in between the database read its clock."""
        began = _now()
        try:
            self.cancelled |= write()
        except DBAPIError as error:
            if is_lock_timeout(error):
                # The row still had our token, and while it is locked nobody else can take the job either.
                self._held_since = began
                self._log_lock()
            raise
        self._held_since = began
        self._lock_logged = False
        metrics.LEASES.inc()

    def _log_lock(self) -> None:
        if not self._lock_logged:
            self._lock_logged = True
            holder = queue.lock_holder(self.engine, self.job.id) or {"pid": "unknown"}
            log.warning(
                "job_row_locked", meaning="its lease cannot be renewed until that transaction ends", **holder
            )


def _now() -> float:
    return time.clock_gettime(_CLOCK)
