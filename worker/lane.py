"""One device's loop: claim a job, have the child make the model, store it, settle the row; then the next."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from worker import database, outage
from worker.child import STOP_S, Child, ChildDied
from worker.errors import JobError
from worker.gate import Gate
from worker.jobs import queue
from worker.jobs.lease import Lease
from worker.jobs.queue import Job, LeaseLost
from worker.jobs.wakeup import Wakeup
from worker.outage import Outage
from worker.scratch import Scratch
from worker.settings import ConfigError, Settings
from worker.storage import CONTENT_TYPES, Store, paths

UNFORESEEN_S = 5.0
GATE_S = 1.0
TICK_S = 0.25  # how soon a lane notices that it should stop
UNWELL_S = 60.0  # the longest wait before a child that keeps dying is started again
DEATHS = 3  # so many in a row and the child is not to be trusted, whatever the jobs were

log = structlog.get_logger()


class _Cancelled(Exception):
    """Somebody wants this job stopped."""


class _GivenBack(Exception):
    """The daemon stops before the job is done."""


class _HardLimit(Exception):
    """The job was asked to stop and did not."""


@dataclass
class Stop:
    """What the signals say: claim no more, and from a moment on give back what still runs."""

    draining: threading.Event = field(default_factory=threading.Event)
    give_back_at: float = float("inf")  # time.monotonic()

    def drain(self, grace_s: float) -> None:
        self.give_back_at = min(self.give_back_at, time.monotonic() + grace_s)
        self.draining.set()


class Lane(threading.Thread):
    """`failed` tells, once the thread has ended, what configuration error ended it."""

    def __init__(
        self,
        device: str,
        *,
        settings: Settings,
        engine: Engine,
        store: Store,
        gate: Gate,
        scratch: Scratch,
        wakeup: Wakeup,
        outage: Outage,
        stop: Stop,
        nudge: Callable[[], None],
        told: Callable[[], bool],
    ) -> None:
        super().__init__(name=f"lane-{device}", daemon=True)
        self.device = device
        self.settings = settings
        self.engine = engine
        self.store = store
        self.gate = gate
        self.scratch = scratch
        self.wakeup = wakeup
        self.outage = outage
        self.stop = stop
        self.nudge = nudge  # the webhook sender: there is something to tell
        self.told = told  # whether `cancelled` is called when a job is
        self.child = Child(settings, device)
        self.ready = threading.Event()
        self.healthy: bool | None = None  # whether its child can be trusted with a job
        self.failed: ConfigError | None = None
        self._lease: Lease | None = None
        self._deaths = 0
        self._reason = ""
        self.log = log.bind(device=device)

    def run(self) -> None:
        try:
            while not self.stop.draining.is_set():
                try:
                    # Without a child that can work, or a place for what it makes, nothing is claimed.
                    if not self.child.running:
                        self._start_child()
                    elif not self.gate.is_open():
                        self.stop.draining.wait(GATE_S)
                    elif not self._claim_and_work():
                        self._wait()
                except Exception as error:
                    if isinstance(error, ConfigError):
                        raise
                    # Not foreseen, but one lane fewer would be worse. A job that it had comes back by its lease.
                    self.log.exception("lane_error")
                    self.stop.draining.wait(UNFORESEEN_S)
        except ConfigError as error:
            self.failed = error
        finally:
            self.child.kill()
            self.ready.set()

    def cancelled(self, job_id: str) -> None:
        """Called from other threads: somebody wants that job stopped."""
        lease = self._lease
        if lease and str(lease.job.id) == job_id:
            lease.look()

    def _wait(self) -> None:
        """For a wake-up, a signal, or the child's end."""
        while not self.stop.draining.is_set() and self.child.running and not self.wakeup.wait(1):
            pass

    def _start_child(self) -> None:
        """Tries until there is a child: at once after its first death, and then later each time. Raises: ConfigError where
        there can be none.
        """
        wait = 0.0 if self._deaths < 2 else min(UNWELL_S, 2.0 ** (self._deaths - 2))
        tries = 0
        while not self.stop.draining.wait(wait):
            try:
                engine = self.child.start(self.stop.draining.is_set)
            except ChildDied as error:
                self.child.kill()
                if self.stop.draining.is_set():
                    return
                tries += 1
                wait = min(UNWELL_S, max(1.0, wait * 2))
                self.log.error("child_not_started", reason=str(error), next_try_s=wait)  # noqa: TRY400 - it names itself
                if tries >= DEATHS:
                    self._is(healthy=False)
            else:
                self.log.info("child_ready", pid=self.child.pid, **engine)
                self.ready.set()
                if self._deaths < DEATHS:
                    self._is(healthy=True)
                return

    def _is(self, *, healthy: bool) -> None:
        if healthy is self.healthy:
            return
        if not healthy:
            self.log.error(
                "lane_unhealthy", meaning="its child keeps dying; the next try waits longer each time"
            )
        elif self.healthy is not None:
            self.log.info("lane_healthy")
        self.healthy = healthy

    def _claim_and_work(self) -> bool:
        """False where there was nothing to do."""
        if not self.outage.wait(TICK_S):
            return True  # once more, if we are not to stop
        try:
            job = queue.claim(
                self.engine,
                worker=self.settings.name,
                lease_s=self.settings.lease_s,
                shop_limit=self.settings.shop_concurrency,
            )
        except DBAPIError as error:
            if not outage.lost(error.orig):
                self._refused(error)
            return True
        if job is None:
            return False
        self.wakeup.wake()  # there may be more
        with structlog.contextvars.bound_contextvars(job_id=str(job.id), shop=job.shop, attempt=job.attempts):
            self.nudge()
            self._work(job)
            self.nudge()
        return True

    def _refused(self, error: DBAPIError) -> None:
        """The database is there and the claim does not work, say because a right is missing: said once."""
        if self._reason != (reason := database.reason(error.orig)):
            self._reason = reason
            self.log.error("claim_refused", reason=reason)
        self.stop.draining.wait(self.settings.poll_s)

    def _work(self, job: Job) -> None:
        began = time.monotonic()
        self.log.info("job_claimed", quality=job.quality, photos=len(job.image_urls))
        report: dict[str, Any] = {}
        lease = Lease(self.engine, job, self.settings.lease_s, told=self.told, written=self.nudge)
        with self.scratch.job(str(job.id)) as folder, lease:
            self._lease = lease
            try:
                self._compute(job, folder, lease, report)
                url = self._upload(job, folder, lease, report)
                self._secure(lease)
                if self._settle(lambda: queue.complete(self.engine, job, model_url=url, report=report)):
                    # Without its query: in a private bucket's address that is a token.
                    address = url.partition("?")[0]
                    self.log.info(
                        "job_completed", seconds=round(time.monotonic() - began, 1), model_url=address
                    )
            except LeaseLost:
                self.log.warning("lease_lost", meaning="another worker has the job, or its row is gone")
            except _Cancelled:
                if self._settle(lambda: queue.cancel(self.engine, job)):
                    self.log.info("job_cancelled")
            except _GivenBack:
                if self._settle(lambda: queue.release(self.engine, job)):
                    self.log.info("job_given_back")
            except JobError as error:
                self._fail(job, error, report)
            except Exception:
                # Not foreseen, so nobody knows whether the next attempt goes better; it is given one.
                self.log.exception("lane_error")
                self._fail(job, JobError("internal_error"), report)

    def _compute(self, job: Job, folder: Path, lease: Lease, report: dict[str, Any]) -> None:
        """Has the child make the files. Raises: JobError, and what `_check` raises; the child is ready again then."""
        try:
            self.child.send(
                job_id=str(job.id),
                name=job.product_id,
                image_urls=list(job.image_urls),
                quality=job.quality,
                folder=str(folder),
            )
            answer = self._follow(lease)
        except ChildDied as error:
            self._replace_child("child_died", str(error))
            raise JobError("worker_lost") from None
        except _HardLimit:
            self._replace_child("child_killed", "the hard time limit")
            raise JobError("timed_out") from None
        except (LeaseLost, _Cancelled, _GivenBack):
            self._stop_child()
            raise
        self._deaths = 0
        self._is(healthy=True)
        report |= answer["report"]
        if "traceback" in answer:
            self.log.error("child_error", exception=answer["traceback"])
        if "failed" in answer:
            raise JobError(**answer["failed"])
        if "stopped" in answer:
            raise JobError("timed_out")

    def _replace_child(self, what: str, reason: str) -> None:
        self._deaths += 1
        self.log.error(what, reason=reason, deaths_in_a_row=self._deaths)
        self.child.kill()
        if self._deaths >= DEATHS:
            self._is(healthy=False)

    def _follow(self, lease: Lease) -> dict[str, Any]:
        """Passes the child's progress on to the row; the child's last word on the job."""
        began = time.monotonic()
        asked_to_stop = False
        while True:
            message = self.child.receive(TICK_S)
            if message is not None and "progress" not in message:
                return message
            if message is not None:
                self.log.info("job_progress", progress=message["progress"], stage=message["stage"])
                lease.report(message["progress"], message["stage"])
            self._check(lease)
            elapsed = time.monotonic() - began
            if elapsed > self.settings.hard_limit_s:
                raise _HardLimit
            if elapsed > self.settings.soft_limit_s and not asked_to_stop:
                asked_to_stop = True
                self.child.interrupt()

    def _check(self, lease: Lease) -> None:
        """Raises what should end the job now: LeaseLost, _Cancelled, _GivenBack."""
        if lease.lost:
            raise LeaseLost
        if lease.cancelled:
            raise _Cancelled
        if time.monotonic() >= self.stop.give_back_at:
            raise _GivenBack

    def _upload(self, job: Job, folder: Path, lease: Lease, report: dict[str, Any]) -> str:
        """The address of the model. Raises: JobError, LeaseLost, _Cancelled, _GivenBack."""
        lease.report(85, "uploading")
        stem = paths.stem(job.shop, job.product_id, job.variant_id)
        began = time.perf_counter()

        def put(ending: str, file: str) -> str:
            self._secure(lease)
            kind = CONTENT_TYPES[Path(file).suffix]
            return self.store.put(stem + ending, folder / file, kind, lambda: self._check(lease))

        report["cutout_url"] = put(".cutout.png", "cutout.png")
        report["poster_url"] = put(".png", "poster.png")
        # The model last: who sees the new one finds the new poster beside it.
        url = put(".glb", "model.glb")
        report["seconds"]["upload"] = round(time.perf_counter() - began, 3)
        lease.report(95, "uploaded")
        return url

    def _secure(self, lease: Lease) -> None:
        """The lease was renewed just now. What is finished waits for a database that is away, even if the lease runs out
        meanwhile: nobody else can take the job there either. Raises: LeaseLost, _Cancelled, _GivenBack.
        """
        while True:
            try:
                lease.renew()
            except DBAPIError as error:
                if not outage.passing(error):
                    raise
                if not self._database_is_back():
                    raise _GivenBack from None
            else:
                return self._check(lease)

    def _database_is_back(self) -> bool:
        """False if we are to stop first."""
        time.sleep(random.uniform(0.05, TICK_S))  # noqa: S311 - jitter
        while not self.outage.wait(TICK_S):
            if time.monotonic() >= self.stop.give_back_at:
                return False
        return time.monotonic() < self.stop.give_back_at

    def _fail(self, job: Job, error: JobError, report: dict[str, Any]) -> None:
        if error.code in {"storage_unavailable", "storage_denied"}:
            self.gate.shut()

        def settle() -> None:
            row = queue.fail(self.engine, job, error, report=report)
            if row["status"] == "pending":
                self.log.warning("job_postponed", code=error.code, until=row["run_after"].isoformat())
            else:
                self.log.error("job_failed", code=error.code, reason=error.message)

        self._settle(settle)

    def _settle(self, write: Callable[[], None]) -> bool:
        """Writes a job's end; whether it was written. What cost minutes of a GPU is kept until the database is back."""
        while True:
            try:
                write()
            except LeaseLost:
                self.log.warning("lease_lost", meaning="another worker has the job, or its row is gone")
                return False
            except DBAPIError as error:
                if not outage.passing(error):
                    raise
                if not self._database_is_back():
                    self.log.warning(
                        "job_left", meaning="no database until the end: its lease runs out, another takes it"
                    )
                    return False
            else:
                return True

    def _stop_child(self) -> None:
        """Ends the child's job: by asking, or else by force."""
        self.child.interrupt()
        deadline = time.monotonic() + STOP_S
        try:
            while (left := deadline - time.monotonic()) > 0:
                message = self.child.receive(left)
                if message is not None and "progress" not in message:
                    return
        except ChildDied as error:
            self.log.warning("child_died", reason=str(error))
        self.child.kill()
