"""What every daemon does for the queue as a whole: wakes lanes for jobs that are due, rescues, prunes."""

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

LISTENING_S = 10.0  # between two looks where notifications arrive
FIRST_POLL_S = 1.0  # … and where they do not, as long as there was something lately
AFTER_OUTAGE_S = 5.0  # whoever has finished a job meanwhile writes it first, though its lease has run out
PRUNE_EVERY_S = 900.0
BATCH = 200
UNSENDABLE_DAYS = 2  # without a backend; a day longer than the retries of a daemon that has one

log = structlog.get_logger()


class Upkeep(threading.Thread):
    """One look at a time, for all lanes together. It is planned for when something will be due, at the latest after some
    seconds, so that a lost job is found when its lease runs out, without polling for it.
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
        while True:
            self.monitor.wait(60)
            time.sleep(self.run_once())

    def run_once(self) -> float:
        """In how many seconds to look again."""
        try:
            seen = queue.next_due(self.engine)
            if seen.expired and time.monotonic() - self.monitor.recovered_at > AFTER_OUTAGE_S:
                self._rescue()
            # In any case: somebody else's transaction may keep a lost job from us for as long as it is open.
            if seen.due and self.wakeup.waiting:
                self.wakeup.wake()
            if time.monotonic() > self._prune_at:
                self.prune()
        except SQLAlchemyError as error:
            # An outage speaks for itself. What else there is, say a right that is missing, is said once.
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
        # A lease taken right after this look must not run out long before the next.
        most = min(most, self.settings.lease_s) * jitter(0.8, 1)
        if seen.expired:
            return min(most, FIRST_POLL_S)
        if seen.seconds is None:
            return most
        # A little late, so that what should be due is, and not all daemons at once.
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
        """A batch of each; the next one soon if there was more."""
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
