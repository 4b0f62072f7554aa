"""The work of every daemon for the whole queue: wake lanes for due jobs, rescue jobs of lost workers, cancel jobs that have not
begun in time, fold batches, write the history, estimate when jobs end, prune old rows.

The same statement that finds due jobs enters the daemon in the register of hosts.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from worker.core import metrics
from worker.core.errors import one_line
from worker.core.settings import Settings
from worker.core.threads import jitter
from worker.database.monitor import DatabaseMonitor
from worker.jobs import batches, estimates, hosts, queue
from worker.jobs.hosts import CheckIn, Host
from worker.jobs.queue import Prunable
from worker.jobs.wakeup import Listener, Wakeup

LISTENING_S = 10.0  # between two rounds if notifications arrive
FIRST_POLL_S = 1.0  # … and if they do not, while jobs keep coming
AFTER_OUTAGE_S = 5.0  # before a rescue: a worker that finished its job during the outage settles it first
GATHER_S = 1.0  # between a wake-up and its round, so that a round folds what many jobs have changed
STOP_S = 5.0  # the longest that a stopping daemon waits for a round to end
PRUNE_EVERY_S = 900.0
HISTORY_EVERY_S = 60.0
BATCH = 200
USAGES = 20_000  # changes of what shops have used, in one statement
UNSENDABLE_DAYS = 2  # without a backend; a day longer than the retries of a daemon that has one

log = structlog.get_logger()


class Upkeep(threading.Thread):
    """One thread for all lanes. Each round plans the next for the moment when a job will be due or late, or a lease will
    expire, and for some seconds later at most.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        host: Host,
        *,
        wakeup: Wakeup,
        listener: Listener,
        monitor: DatabaseMonitor,
        wake_sender: Callable[[], None],
        wake_files: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name="upkeep", daemon=True)
        self.settings = settings
        self.engine = engine
        self.host = host
        self.paused = False  # as the register said last
        self.wakeup = wakeup
        self.listener = listener
        self.monitor = monitor
        self.wake_sender = wake_sender
        self.wake_files = wake_files
        self._poll = FIRST_POLL_S
        self._prune_at = time.monotonic() + jitter(0, PRUNE_EVERY_S)
        self._history_at = time.monotonic() + jitter(0, HISTORY_EVERY_S)
        self._reason = ""
        self._stopped = threading.Event()
        self._woken = threading.Event()
        self._in_round = threading.Lock()
        self._rounds = 0
        self._shared = False

    def run(self) -> None:
        """Run rounds until `stop`."""
        pause = 0.0
        while not self._stopped.is_set():
            if self._woken.wait(pause):
                self._stopped.wait(GATHER_S * jitter(0.5, 1))
                self._woken.clear()
            self.monitor.wait(60)
            with self._in_round:
                pause = 0.0 if self._stopped.is_set() else self.run_once()

    def wake(self) -> None:
        """Have a round soon, since a job of a batch has ended. For other threads."""
        self._woken.set()

    def stop(self) -> None:
        """End the rounds, tell of the batches that the last jobs have finished, and remove the daemon's entry in the register.

        If the database is away, the entry is seen as gone soon, and forgotten after a day.
        """
        self._stopped.set()
        self._woken.set()
        if self._in_round.acquire(timeout=STOP_S):
            with suppress(SQLAlchemyError):
                if self.monitor.available:
                    batches.fold(self.engine)
                    hosts.check_out(self.engine, self.host)
            self._in_round.release()

    def run_once(self) -> float:
        """Do what is due. Returns the seconds until the next round."""
        try:
            seen = hosts.check_in(self.engine, self.host)
            self._log_register(seen)
            if seen.expired and time.monotonic() - self.monitor.recovered_at > AFTER_OUTAGE_S:
                self._rescue()
            if seen.late:
                self._expire()
            # Even after a rescue: another session's transaction may lock a lost job for as long as it is open.
            if seen.due and self.wakeup.waiting:
                self.wakeup.wake()
            if seen.files_due:
                self.wake_files()
            if seen.batches_due and batches.fold(self.engine):
                self.wake_sender()
            if time.monotonic() > self._history_at:
                queue.fold_history(self.engine, keep_days=self.settings.keep_history_days)
                self._history_at = time.monotonic() + HISTORY_EVERY_S * jitter(0.8, 1)
            if time.monotonic() > self._prune_at:
                self.prune()
            estimates.update(self.engine, shop_limit=self.settings.shop_concurrency)
        except SQLAlchemyError as error:
            # The monitor logs outages. Any other error, say a missing right, is logged once.
            if self.monitor.available and self._reason != (reason := one_line(error)):
                self._reason = reason
                log.exception("upkeep_failed")
            return FIRST_POLL_S
        return self._pause(seen)

    def _pause(self, seen: CheckIn) -> float:
        if self.listener.alive:
            most = LISTENING_S
            self._poll = FIRST_POLL_S
        else:
            self._poll = FIRST_POLL_S if seen.due else self._poll * 1.3
            most = self._poll = min(self._poll, self.settings.poll_s)
        # A lease taken right after this round must not expire long before the next.
        most = min(most, self.settings.lease_s) * jitter(0.8, 1)
        if seen.expired or seen.late:
            return min(most, FIRST_POLL_S)
        if seen.seconds is None:
            return most
        # A little late, so that the job is surely due, and not all daemons at once.
        return min(most, max(0.0, seen.seconds) + jitter(0.02, 0.3))

    def _log_register(self, seen: CheckIn) -> None:
        """Log a change of the host's pause, and another daemon of its name: one that has just died, or one that runs."""
        if seen.paused is not self.paused:
            self.paused = seen.paused
            if seen.paused:
                log.warning("paused", meaning=f"no jobs are claimed until: worker resume {self.host.name}")
            else:
                log.info("resumed")
        self._rounds += 1
        if seen.shared and not self._shared:
            if self._rounds == 1:
                log.warning(
                    "name_seen",
                    worker=self.host.name,
                    meaning="a daemon of this name ran within the last 30 s",
                )
            else:
                self._shared = True
                log.error(
                    "name_shared",
                    worker=self.host.name,
                    meaning="another daemon runs under this name; give each a WORKER_NAME of its own",
                )

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
            self.wake()  # it may have ended the last job of a batch

    def _expire(self) -> None:
        while expired := queue.expire(self.engine, BATCH):
            for row in expired:
                log.info("job_expired", job_id=str(row["id"]), shop=row["shop"])
            self.wake_sender()
            self.wake()  # it may have ended the last job of a batch
            if len(expired) < BATCH:
                break

    def prune(self) -> None:
        """Delete a batch of each kind of old rows, and add what shops have used to their days; more soon if one was full."""
        plan: dict[Prunable, int | None] = {
            # First, since a job is kept for as long as there is an event of it to send.
            "unsendable": None if self.settings.backend_url else UNSENDABLE_DAYS,
            "jobs": self.settings.keep_jobs_days,
            "attempts": self.settings.keep_history_days,
            "events": self.settings.keep_history_days,
            "batches": self.settings.keep_history_days,
        }
        gone: dict[str, int] = {
            what: queue.prune(self.engine, what, days=days, batch=BATCH)
            for what, days in plan.items()
            if days is not None
        }
        gone["hosts"] = hosts.forget(self.engine)
        if any(gone.values()):
            log.info("pruned", **gone)
        full = queue.fold_usage(self.engine, USAGES) == USAGES or BATCH in gone.values()
        self._prune_at = time.monotonic() + (0 if full else PRUNE_EVERY_S * jitter(0.8, 1))
