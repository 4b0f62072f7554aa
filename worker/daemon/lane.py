"""One device's loop: keep a child that can work, claim a job, attempt it; then the next."""

import threading

import structlog
from sqlalchemy.exc import DBAPIError

from worker.compute.process import START_S, Child, ChildDied
from worker.core import metrics
from worker.core.errors import one_line
from worker.core.settings import ConfigError
from worker.daemon.attempt import TICK_S, Attempt
from worker.daemon.context import LaneContext
from worker.daemon.systemd import Heartbeat
from worker.database.monitor import is_connection_lost
from worker.jobs import queue
from worker.jobs.wakeup import Wakeup

UNFORESEEN_S = 5.0
SHUT_S = 1.0  # how soon the admission is looked at again
UNWELL_S = 60.0  # the longest wait before a child that keeps dying is started again
DEATHS = 3  # so many in a row and the child is not to be trusted, whatever the jobs were

log = structlog.get_logger()


class Lane(threading.Thread):
    """`failed` tells, once the thread has ended, what configuration error ended it."""

    def __init__(self, device: str, wakeup: Wakeup, context: LaneContext) -> None:
        super().__init__(name=f"lane-{device}", daemon=True)
        self.device = device
        self.wakeup = wakeup
        self.context = context
        self.draining = context.stop.draining
        self.child = Child(context.settings, device)
        self.heartbeat = Heartbeat()
        self.ready = threading.Event()
        self.healthy: bool | None = None  # whether its child can be trusted with a job
        self.failed: ConfigError | None = None
        self._attempt: Attempt | None = None
        self._deaths = 0
        self._refusal = ""
        metrics.CLAIMS.labels(device)
        metrics.CHILDREN.labels(device)

    def run(self) -> None:
        structlog.contextvars.bind_contextvars(device=self.device)  # of this thread
        try:
            while not self.draining.is_set():
                self.heartbeat.beat("idle")
                try:
                    # Without a child that can work, or a place for what it makes, nothing is claimed.
                    if not self.child.running:
                        self._start_child()
                    elif not self.context.admission.check():
                        self.draining.wait(SHUT_S)
                    elif not self._claim_and_work():
                        self._wait()
                except Exception as error:
                    if isinstance(error, ConfigError):
                        raise
                    # Not foreseen, but one lane fewer would be worse. A job that it had comes back by its lease.
                    log.exception("lane_error")
                    self.draining.wait(UNFORESEEN_S)
        except ConfigError as error:
            self.failed = error
        finally:
            self.child.kill()
            self.heartbeat.beat("ended", silent_s=float("inf"))
            self.ready.set()

    def cancelled(self, job_id: str) -> None:
        """Called from other threads: somebody wants that job stopped."""
        attempt = self._attempt
        if attempt and str(attempt.job.id) == job_id:
            attempt.lease.renew_now()

    def _wait(self) -> None:
        """For a wake-up, a signal, or the child's end."""
        while not self.draining.is_set() and self.child.running and not self.wakeup.wait(1):
            self.heartbeat.beat()

    def _start_child(self) -> None:
        """Tries until there is a child: at once after its first death, and then later each time. Raises: ConfigError where
        there can be none.
        """
        wait = 0.0 if self._deaths < 2 else min(UNWELL_S, 2.0 ** (self._deaths - 2))
        tries = 0
        while not self.draining.wait(wait):
            self.heartbeat.beat(f"loading {self.context.settings.engine}", silent_s=START_S)
            try:
                engine = self.child.start(self.draining.is_set)
            except ChildDied as error:
                if self.draining.is_set():
                    return
                tries += 1
                wait = min(UNWELL_S, max(1.0, wait * 2))
                self.heartbeat.beat(f"child not started: {error}", silent_s=wait)
                log.error("child_not_started", reason=str(error), next_try_s=wait)  # noqa: TRY400 - it names itself
                if tries >= DEATHS:
                    self._is(healthy=False)
            else:
                log.info("child_ready", pid=self.child.pid, **engine)
                if self.ready.is_set():
                    metrics.CHILDREN.labels(self.device).inc()
                self.ready.set()
                if self._deaths < DEATHS:
                    self._is(healthy=True)
                return

    def _is(self, *, healthy: bool) -> None:
        if healthy is self.healthy:
            return
        if not healthy:
            log.error("lane_unhealthy", meaning="its child keeps dying; the next try waits longer each time")
        elif self.healthy is not None:
            log.info("lane_healthy")
        self.healthy = healthy

    def _claim_and_work(self) -> bool:
        """False where there was nothing to do."""
        if not self.context.monitor.wait(TICK_S):
            return True  # once more, if we are not to stop
        settings = self.context.settings
        try:
            job = queue.claim(
                self.context.engine,
                worker=settings.name,
                lease_s=settings.lease_s,
                shop_limit=settings.shop_concurrency,
            )
        except DBAPIError as error:
            if not is_connection_lost(error.orig):
                self._refused(error)
            return True
        if job is None:
            return False
        self.wakeup.wake()  # there may be more
        metrics.CLAIMS.labels(self.device).inc()
        with structlog.contextvars.bound_contextvars(
            job_id=str(job.id), shop=job.shop, attempt=job.attempts, stage="claimed"
        ):
            self.context.wake_sender()
            attempt = self._attempt = Attempt(job, self.child, self.heartbeat, self.context)
            attempt.run()
            self._judge_child(attempt)
            self.context.wake_sender()
        return True

    def _judge_child(self, attempt: Attempt) -> None:
        if attempt.child_ended:
            self._deaths += 1
            if self._deaths >= DEATHS:
                self._is(healthy=False)
        elif attempt.child_ended is False:
            self._deaths = 0
            self._is(healthy=True)

    def _refused(self, error: DBAPIError) -> None:
        """The database is there and the claim does not work, say because a right is missing: said once."""
        if self._refusal != (reason := one_line(error)):
            self._refusal = reason
            log.error("claim_refused", reason=reason)
        self.draining.wait(self.context.settings.poll_s)
