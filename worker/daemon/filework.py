"""The work on stored files that no job waits for: completes what a publication left, erases what must be forgotten, and removes
the files of doomed versions.

Every daemon does it for the whole queue. The database says what is due (worker/versions), and gives each piece to one daemon.
"""

import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from worker.core.errors import one_line
from worker.core.settings import Settings
from worker.core.threads import jitter
from worker.daemon.scratch import Scratch
from worker.database.monitor import DatabaseMonitor
from worker.storage import Store
from worker.versions import erase, prune, publish, queue
from worker.versions.hold import Stopped

DOOM_EVERY_S = 900.0  # between two searches for old versions
BATCH = 200
RETRY_S = 5.0  # after an error that nobody foresaw

log = structlog.get_logger()


class FileWork(threading.Thread):
    """One thread of a daemon. It sleeps until `wake`: a notification, or the upkeep's statement, says that work is due."""

    def __init__(
        self, settings: Settings, engine: Engine, store: Store, scratch: Scratch, monitor: DatabaseMonitor
    ) -> None:
        super().__init__(name="files", daemon=True)
        self.settings = settings
        self.engine = engine
        self.store = store
        self.scratch = scratch
        self.monitor = monitor
        self.tasks: tuple[Callable[[], bool], ...] = (self.publish, self.erase, self.remove)
        """Each does one piece of its kind, the most urgent kind first; False if none is due."""
        self._due = threading.Event()
        self._stopped = threading.Event()
        self._doom_at = time.monotonic() + jitter(0, DOOM_EVERY_S)
        self._erase_at = float("inf")  # an erasure waits for jobs that are to stop
        self._reason = ""

    def wake(self) -> None:
        """Let the thread look for work that is due."""
        self._due.set()

    def stop(self, timeout_s: float) -> None:
        """End the thread, and give back what it has taken. Wait for that for `timeout_s` seconds at most."""
        self._stopped.set()
        self._due.set()
        if self.is_alive():
            self.join(timeout_s)

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stopped.is_set():
            self._due.wait(max(0.0, min(self._doom_at, self._erase_at) - time.monotonic()))
            self._due.clear()
            self._erase_at = float("inf")
            while not (self._stopped.is_set() or self.monitor.wait(1)):
                pass
            if not self._stopped.is_set():
                self.run_once()

    def run_once(self) -> None:
        """Do all that is due."""
        try:
            if time.monotonic() >= self._doom_at:
                self._doom_at = time.monotonic() + DOOM_EVERY_S * jitter(0.8, 1)
                self.doom()
            while not self._stopped.is_set() and any(task() for task in self.tasks):
                pass
        except SQLAlchemyError as error:
            # The monitor logs outages. The upkeep wakes us again.
            if self.monitor.available:
                self._log_once(error)
        except Exception:
            # Not foreseen. What was taken is taken anew when its lease expires.
            log.exception("file_work_failed")
            self._stopped.wait(RETRY_S)

    def publish(self) -> bool:
        """Complete a publication from the version's stored files. False if none is due, or there is no folder to fetch them to."""
        lease_s = self.settings.lease_s
        try:
            with self.scratch.job("publication") as folder:
                work = queue.take_publication(self.engine, lease_s=lease_s)
                if work is None:
                    return False
                find = publish.fetch(self.store, work, folder)
                publish.publish(self.engine, self.store, work, find, lease_s=lease_s, check=self._check)
        except OSError as error:  # WORKER_TEMP_DIR; the lanes make our folder in it anew
            self._log_once(error)
            return False
        return True

    def erase(self) -> bool:
        """Do what can be done of an erasure now. False if none is due."""
        work = erase.take(self.engine, lease_s=self.settings.lease_s)
        if work is None:
            return False
        if not erase.carry_out(self.engine, self.store, work, self._check):
            self._erase_at = time.monotonic() + erase.WAIT_S * jitter(1, 1.2)  # or later, as the upkeep finds
        return True

    def remove(self) -> bool:
        """Remove the files and the row of a doomed version. False if none is due."""
        work = queue.take_doomed(self.engine, lease_s=self.settings.lease_s)
        if work is None:
            return False
        prune.remove(self.engine, self.store, work, lease_s=self.settings.lease_s, check=self._check)
        return True

    def doom(self) -> None:
        """Doom those of a batch of old versions that nothing needs; of the next batch soon."""
        doomed, more = queue.doom(self.engine, days=self.settings.keep_versions_days, batch=BATCH)
        if doomed:
            log.info("versions_doomed", versions=doomed)
        if more:
            self._doom_at = time.monotonic()
            self._due.set()

    def _log_once(self, error: Exception) -> None:
        """Log a reason that may stay for long, say a missing right, when it is another one than the last."""
        if self._reason != (reason := one_line(error)):
            self._reason = reason
            log.error("file_work_failed", reason=reason)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Stopped
