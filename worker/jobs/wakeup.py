"""Wakes idle lanes when a job was inserted: by LISTEN where it works; where it does not, their own polling is enough."""

import random
import threading
import time
from collections.abc import Callable

import psycopg
import structlog

from worker import database
from worker.settings import Settings

CHANNEL = "worker_jobs"
WEBHOOKS = "worker_webhooks"
RECONNECT_S = 5.0

log = structlog.get_logger()


class Wakeup:
    """Something may be there to claim. A wake-up that comes between two waits is not lost."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.count = 0

    def wake(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait(self, seen: int, timeout: float) -> int:
        """Returns at once if there was a wake-up since `seen`, else after one or the timeout; the new count."""
        with self._changed:
            self._changed.wait_for(lambda: self.count != seen, timeout)
            return self.count


class Listener(threading.Thread):
    """Turns the database's notifications into wake-ups, on a connection of its own, for as long as the daemon lives."""

    def __init__(self, settings: Settings, wakeup: Wakeup, nudge: Callable[[], None] = lambda: None) -> None:
        super().__init__(name="listener", daemon=True)
        self.settings = settings
        self.wakeup = wakeup
        self.nudge = nudge  # the webhook sender: somebody else wrote an event

    def run(self) -> None:
        connected = True
        while True:
            try:
                with database.listen(self.settings) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    connection.execute(f"LISTEN {WEBHOOKS}")
                    if not connected:
                        log.info("listening_again")
                    connected = True
                    # What was inserted while nobody listened.
                    self.wakeup.wake()
                    self.nudge()
                    for notice in connection.notifies():
                        wake = self.nudge if notice.channel == WEBHOOKS else self.wakeup.wake
                        wake()
            except psycopg.Error as error:
                if connected:
                    log.warning("not_listening", reason=str(error).strip(), instead="polling")
                connected = False
            time.sleep(RECONNECT_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
