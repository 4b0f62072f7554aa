"""The work of every daemon for the whole queue: wake lanes for due jobs, rescue jobs of lost workers, prune old rows."""

import threading
import time
from collections.abc import Callable
from typing import Literal

import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from worker.core import metrics
from worker.core.errors import one_line
from worker.core.settings import Settings
from worker.core.threads import jitter
from worker.database.monitor import DatabaseMonitor
from worker.jobs import queue
from worker.jobs.wakeup import Listener, Wakeup

LISTENING_S = 10.0  # between two rounds if notifications arrive
FIRST_POLL_S = 1.0  # … and if they do not, while jobs keep coming
AFTER_OUTAGE_S = 5.0  # before a rescue: a worker that finished its job during the outage settles it first
PRUNE_EVERY_S = 900.0
BATCH = 200
UNSENDABLE_DAYS = 2  # without a backend; a day longer than the retries of a daemon that has one

log = structlog.get_logger()


class Upkeep(threading.Thread):
    """One thread for all lanes. Each round plans the next for the moment when a job will be due or a lease will expire, and
    for some seconds later at most.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        *,
        wakeup: Wakeup,
        listener: Listener,
        monitor: DatabaseMonitor,
        wake_sender: Callable[[], None],
    ) -> None:
        super().__init__(name="upkeep", daemon=True)
        self.settings = settings
        self.engine = engine
        self.wakeup = wakeup
        self.listener = listener
        self.monitor = monitor
        self.wake_sender = wake_sender
        self._poll = FIRST_POLL_S
        self._prune_at = time.monotonic() + jitter(0, PRUNE_EVERY_S)
        self._reason = ""

    def run(self) -> None:
        """Run rounds for ever."""
        while True:
            self.monitor.wait(60)
            time.sleep(self.run_once())

    def run_once(self) -> float:
        """Do what is due. Returns the seconds until the next round."""
        try:
            seen = queue.next_due(self.engine)
            if seen.expired and time.monotonic() - self.monitor.recovered_at > AFTER_OUTAGE_S:
                self._rescue()
            # Even after a rescue: another session's transaction may lock a lost job for as long as it is open.
            if seen.due and self.wakeup.waiting:
                self.wakeup.wake()
            if time.monotonic() > self._prune_at:
                self.prune()
        except SQLAlchemyError as error:
            # The monitor logs outages. Any other error, say a missing right, is logged once.
            if self.monitor.available and self._reason != (reason := one_line(error)):
                self._reason = reason
                log.exception("upkeep_failed")
            return FIRST_POLL_S
        return self._pause(seen)

    def _pause(self, seen: queue.NextDue) -> float:
        if self.listener.alive:
            most = LISTENING_S
            self._poll = FIRST_POLL_S
        else:
            self._poll = FIRST_POLL_S if seen.due else self._poll * 1.3
            most = self._poll = min(self._poll, self.settings.poll_s)
        # A lease taken right after this round must not expire long before the next.
        most = min(most, self.settings.lease_s) * jitter(0.8, 1)
        if seen.expired:
            return min(most, FIRST_POLL_S)
        if seen.seconds is None:
            return most
        # A little late, so that the job is surely due, and not all daemons at once.
        return min(most, max(0.0, seen.seconds) + jitter(0.02, 0.3))

    def _rescue(self) -> None:
        rescued = queue.rescue(self.engine)
        for row in rescued:
            metrics.RESCUES.labels(row["status"]).inc()
            log.warning(
                "job_rescued",
                job_id=str(row["id"]),
                shop=row["shop"],
                attempt=row["attempts"],
                status=row["status"],
            )
        if rescued:
            self.wake_sender()
            self.wakeup.wake()

    def prune(self) -> None:
        """Delete a batch of each kind of old rows; the next one soon if a batch was full."""
        plan: dict[Literal["jobs", "attempts", "events", "unsendable"], int | None] = {
            # First, since a job is kept for as long as there is an event of it to send.
            "unsendable": None if self.settings.backend_url else UNSENDABLE_DAYS,
            "jobs": self.settings.keep_jobs_days,
            "attempts": self.settings.keep_history_days,
            "events": self.settings.keep_history_days,
        }
        gone = {
            what: queue.prune(self.engine, what, days=days, batch=BATCH)
            for what, days in plan.items()
            if days is not None
        }
        if any(gone.values()):
            log.info("pruned", **gone)
        full = any(count == BATCH for count in gone.values())
        self._prune_at = time.monotonic() + (0 if full else PRUNE_EVERY_S * jitter(0.8, 1))
