"""The right to go on with a job, and what ends it: a lost lease, a request to cancel, the end of the daemon."""

import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from worker.core.threads import jitter
from worker.daemon.context import LaneContext
from worker.daemon.settlement import Outcome
from worker.daemon.systemd import Heartbeat
from worker.database.monitor import is_transient
from worker.jobs.lease import Lease
from worker.jobs.queue import LeaseLost

TICK_S = 0.25  # how soon a lane notices that it should stop

T = TypeVar("T")


class Interrupted(Exception):
    """The job must end now: it is cancelled or released, or its lease is lost."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.name)
        self.outcome = outcome


class JobHold:
    """A lane's hold on its job."""

    def __init__(self, lease: Lease, heartbeat: Heartbeat, context: LaneContext) -> None:
        self.lease = lease
        self.heartbeat = heartbeat
        self.monitor = context.monitor
        self.stop = context.stop

    def interruption(self) -> Outcome | None:
        """Return how the job must end now; None if it may go on."""
        if self.lease.lost:
            return Outcome.LOST
        if self.lease.cancelled:
            return Outcome.CANCELLED
        return Outcome.RELEASED if self.stop.releasing else None

    def check(self) -> None:
        """Raises: Interrupted if the job must end now."""
        if outcome := self.interruption():
            raise Interrupted(outcome)

    def renew(self) -> None:
        """Renew the lease. While the database is away, wait for it, even if the lease expires: no other worker can take the
        job there either. Raises: Interrupted.
        """
        self.while_available(self.lease.renew)
        self.check()

    def while_available(self, act: Callable[[], T]) -> T:
        """Call `act`, again and again while the database is away. Raises: Interrupted, and sqlalchemy's DBAPIError for another reason."""
        while True:
            try:
                return act()
            except LeaseLost:
                raise Interrupted(Outcome.LOST) from None
            except DBAPIError as error:
                if not is_transient(error):
                    raise
                if not self.wait_for_database():
                    raise Interrupted(Outcome.RELEASED) from None

    def wait_for_database(self) -> bool:
        """Wait until the database can be used. False if the job must be released first."""
        time.sleep(jitter(0.05, TICK_S))
        self.heartbeat.beat()
        while not self.monitor.wait(TICK_S):
            self.heartbeat.beat()
            if self.stop.releasing:
                return False
        return not self.stop.releasing
