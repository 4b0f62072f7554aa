"""One lane's loop: keep a child that can work, claim a job, attempt it; then the next."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import structlog
from sqlalchemy.exc import DBAPIError

from worker.compute.process import START_S, Child, ChildDied
from worker.core import metrics
from worker.core.errors import one_line
from worker.core.settings import ConfigError
from worker.core.stages import Stage
from worker.daemon.attempt import Attempt, ChildFate
from worker.daemon.context import LaneContext
from worker.daemon.job_hold import TICK_S
from worker.daemon.systemd import Heartbeat
from worker.database.monitor import is_connection_lost
from worker.jobs import queue
from worker.jobs.queue import Claimer, Job
from worker.jobs.wakeup import Wakeup

UNFORESEEN_S = 5.0  # after an error that nobody foresaw
CLOSED_S = 1.0  # between two checks of a closed admission
UNHEALTHY_S = 60.0  # longest wait before a child that keeps dying is started again
TURN_S = 60.0  # longest wait for the children that load before this one
DEATHS = 3  # deaths in a row after which the child is not trusted, whatever the jobs were

log = structlog.get_logger()


class Lane(threading.Thread):
    """A thread with a child on a device. It ends when `context.stop` drains, or with a configuration error in `failed`.

    `label` is its name for people, the device's with a number: `0.0`, `0.1`, `cpu.0`.
    """

    def __init__(self, label: str, child: Child, wakeup: Wakeup, context: LaneContext) -> None:
        super().__init__(name=f"lane-{label}", daemon=True)
        self.label = label
        self.child = child
        self.wakeup = wakeup
        self.context = context
        self.draining = context.stop.draining
        settings = context.settings
        self.claimer = Claimer(
            worker=settings.name,
            lease_s=settings.lease_s,
            shop_limit=settings.shop_concurrency,
            pools=settings.pools,
            runs=settings.engine,
        )
        self.heartbeat = Heartbeat()
        self.ready = threading.Event()  # the first child is loaded, or the lane has ended
        self.healthy: bool | None = None  # False while its child keeps dying; None until it is known
        self.failed: ConfigError | None = None
        self._attempt: Attempt | None = None
        self._deaths = 0
        self._refusal = ""
        metrics.CLAIMS.labels(label)
        metrics.CHILDREN.labels(label)

    def run(self) -> None:
        """Work until the daemon drains."""
        structlog.contextvars.bind_contextvars(lane=self.label)  # of this thread
        try:
            while not self.draining.is_set():
                self.heartbeat.beat("idle")
                try:
                    # Nothing is claimed while no child can work or the result could not be stored.
                    if not self.child.running:
                        self._start_child()
                    elif not self.context.admission.check():
                        self.draining.wait(CLOSED_S)
                    elif self.child.outdated:
                        self.child.kill()
                    elif not self._claim_and_work():
                        self._wait()
                except Exception as error:
                    if isinstance(error, ConfigError):
                        raise
                    # Not foreseen, but the lane goes on. A job that it had comes back when its lease expires.
                    log.exception("lane_error")
                    self.draining.wait(UNFORESEEN_S)
        except ConfigError as error:
            self.failed = error
        finally:
            self.child.kill()
            self.heartbeat.beat("ended", silent_s=float("inf"))
            self.ready.set()

    def on_cancel(self, job_id: str) -> None:
        """Renew the lease now if this lane has the job, which tells of a cancel request. For other threads."""
        attempt = self._attempt
        if attempt and str(attempt.job.id) == job_id:
            attempt.lease.renew_now()

    def _wait(self) -> None:
        """Wait for a wake-up, a signal, or the child's end."""
        while not self.draining.is_set() and self.child.running and not self.wakeup.wait(1):
            self.heartbeat.beat()
            self.context.admission.recheck()

    def _start_child(self) -> None:
        """Try until there is a child: at once after its first death, and then later each time. Raises: ConfigError."""
        wait = 0.0 if self._deaths < 2 else min(UNHEALTHY_S, 2.0 ** (self._deaths - 2))
        tries = 0
        while not self.draining.wait(wait):
            try:
                with self._turn_to_load():
                    self.heartbeat.beat(f"loading {self.context.settings.engine}", silent_s=START_S)
                    folder = self.context.scratch.lane(self.label)
                    loaded = self.child.start(folder, self.draining.is_set)
            except (ChildDied, ConfigError, OSError) as error:  # the last: WORKER_TEMP_DIR is away
                if self.draining.is_set():
                    return
                # What worked before is no mistake in the settings: a GPU that broke, say, of which the other lanes need none.
                if isinstance(error, ConfigError) and not self.ready.is_set():
                    raise
                tries += 1
                wait = min(UNHEALTHY_S, max(1.0, wait * 2))
                self.heartbeat.beat(f"child not started: {error}", silent_s=wait)
                log.error("child_not_started", reason=str(error), next_try_s=wait)  # noqa: TRY400 - it names itself
                if tries >= DEATHS:
                    self._set_health(healthy=False)
            else:
                log.info(
                    "child_ready",
                    pid=self.child.pid,
                    engine=loaded.engine,
                    engine_version=loaded.engine_version,
                    details=loaded.details,
                )
                if self.ready.is_set():
                    metrics.CHILDREN.labels(self.label).inc()
                self.ready.set()
                if self._deaths < DEATHS:
                    self._set_health(healthy=True)
                return

    @contextmanager
    def _turn_to_load(self) -> Iterator[None]:
        """Load one child after the other: the first reads the weights from the disk, the others find them in memory.

        A load that hangs holds the others up for TURN_S at most.
        """
        turn, deadline = self.context.loading, time.monotonic() + TURN_S
        while not (mine := turn.acquire(timeout=TICK_S)):
            self.heartbeat.beat("waiting to load")
            if time.monotonic() > deadline or self.draining.is_set():
                break
        try:
            yield
        finally:
            if mine:
                turn.release()

    def _set_health(self, *, healthy: bool) -> None:
        if healthy is self.healthy:
            return
        if not healthy:
            log.error("lane_unhealthy", meaning="the child keeps dying; each restart waits longer")
        elif self.healthy is not None:
            log.info("lane_healthy")
        self.healthy = healthy

    def _claim_and_work(self) -> bool:
        """Claim a job and attempt it, and those that are claimed with the end of another. False if no job is due."""
        if not self.context.monitor.wait(TICK_S):
            return True  # try again, unless the daemon drains
        try:
            job = queue.claim(self.context.engine, **self.claimer)
        except DBAPIError as error:
            if not is_connection_lost(error.orig):
                self._log_refusal(error)
            return True
        if job is None:
            return False
        with ExitStack() as folders:
            while job is not None:
                job = self._work(job, folders)
        return True

    def _work(self, job: Job, folders: ExitStack) -> Job | None:
        """Attempt a job. Returns the next one, if it was claimed with the end of this one.

        folders: those of the job before, and then of this one, to be deleted once the next one is held.
        """
        self.wakeup.wake()  # there may be more
        metrics.CLAIMS.labels(self.label).inc()
        with structlog.contextvars.bound_contextvars(
            job_id=str(job.id), shop=job.shop, attempt=job.attempts, stage=Stage.CLAIMED.title
        ):
            self.context.wake_sender()
            attempt = self._attempt = Attempt(
                job, self.label, self.child, self.heartbeat, self.context, self.find_claimer, folders
            )
            attempt.run()
            self._count_deaths(attempt.child_fate)
            self.context.wake_sender()
        if not attempt.begun:
            # The job was released and is due. What kept it from its start may keep the next one too.
            self.draining.wait(UNFORESEEN_S)
        return attempt.next

    def find_claimer(self) -> Claimer | None:
        """Return the claimer if the next job may be claimed now, as `run` decides it."""
        child_works = self.child.running and not self.child.outdated
        may_claim = child_works and not self.draining.is_set() and self.context.admission.check()
        return self.claimer if may_claim else None

    def _count_deaths(self, fate: ChildFate) -> None:
        match fate:
            case ChildFate.ENDED:
                self._deaths += 1
                if self._deaths >= DEATHS:
                    self._set_health(healthy=False)
            case ChildFate.ANSWERED:
                self._deaths = 0
                self._set_health(healthy=True)

    def _log_refusal(self, error: DBAPIError) -> None:
        """The database answers but refuses the claim, say because a right is missing. Log each reason once."""
        if self._refusal != (reason := one_line(error)):
            self._refusal = reason
            log.error("claim_refused", reason=reason)
        self.heartbeat.beat(silent_s=self.context.settings.poll_s)
        self.draining.wait(self.context.settings.poll_s)
