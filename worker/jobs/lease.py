"""Holds a claimed job: renews its lease in the background for as long as it is worked on."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from worker.jobs import queue
from worker.jobs.queue import Job, LeaseLost

log = structlog.get_logger()


class Lease:
    """A context in which the job is ours. `lost` and `cancelled` may become true at any moment in it."""

    def __init__(self, engine: Engine, job: Job, lease_s: float) -> None:
        self.engine = engine
        self.job = job
        self.lease_s = lease_s
        self.cancelled = False
        self._taken = False
        self._held_since = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{job.id}", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether another worker has the job, or may have it: without the database, or with a statement that hangs
        there, nobody has renewed the lease in time.
        """
        return self._taken or time.monotonic() - self._held_since > self.lease_s

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()

    def report(self, progress: int, stage: str) -> None:
        """Writes the progress, if the database can be reached: nobody waits for it. Raises: LeaseLost."""
        try:
            self._hold(
                lambda: queue.report(
                    self.engine, self.job, progress=progress, stage=stage, lease_s=self.lease_s
                )
            )
        except DBAPIError as error:
            log.warning("progress_not_written", progress=progress, reason=str(error.orig).strip())

    def _keep(self) -> None:
        while not self._done.wait(self.lease_s / 3):
            try:
                self._hold(lambda: queue.renew(self.engine, self.job, lease_s=self.lease_s))
            except LeaseLost:
                return
            except DBAPIError as error:
                log.warning("lease_not_renewed", job_id=str(self.job.id), reason=str(error.orig).strip())

    def _hold(self, write: Callable[[], bool]) -> None:
        """The lease runs from before the statement, since nobody knows when in between the database read its clock."""
        asked = time.monotonic()
        try:
            self.cancelled |= write()
        except LeaseLost:
            self._taken = True
            raise
        self._held_since = asked
