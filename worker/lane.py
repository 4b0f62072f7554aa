"""One device's loop: claim a job, have the child make the model, store it, settle the row; then the next."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import tenacity
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from worker.child import STOP_S, Child, ChildDied
from worker.errors import JobError
from worker.jobs import queue
from worker.jobs.lease import Lease
from worker.jobs.queue import Job, LeaseLost
from worker.jobs.wakeup import Wakeup
from worker.scratch import Scratch
from worker.settings import ConfigError, Settings
from worker.storage import Store, paths

TICK_S = 0.25  # how soon a lane notices that it should stop
UNWELL_S = 30.0  # the longest wait before a child that keeps dying is started again

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
        scratch: Scratch,
        wakeup: Wakeup,
        stop: Stop,
        nudge: Callable[[], None],
    ) -> None:
        super().__init__(name=f"lane-{device}", daemon=True)
        self.device = device
        self.settings = settings
        self.engine = engine
        self.store = store
        self.scratch = scratch
        self.wakeup = wakeup
        self.stop = stop
        self.nudge = nudge  # the webhook sender: there is something to tell
        self.child = Child(settings, device)
        self.ready = threading.Event()
        self.failed: ConfigError | None = None
        self.log = log.bind(device=device)

    def run(self) -> None:
        seen = self.wakeup.count
        try:
            while not self.stop.draining.is_set():
                # Without a child that can work nothing is claimed.
                if not self.child.running:
                    self._start_child()
                elif not self._claim_and_work():
                    seen = self.wakeup.wait(seen, self.settings.poll_s * random.uniform(0.8, 1))  # noqa: S311 - jitter
        except ConfigError as error:
            self.failed = error
        finally:
            self.child.kill()
            self.ready.set()

    def _start_child(self) -> None:
        """Tries until there is a child that works. Raises: ConfigError where there can be none."""
        wait = 1.0
        while not self.stop.draining.is_set():
            try:
                engine = self.child.start()
            except ChildDied as error:
                self.child.kill()
                self.log.error("child_not_started", reason=str(error), next_try_s=wait)  # noqa: TRY400 - it names itself
                self.stop.draining.wait(wait)
                wait = min(UNWELL_S, wait * 2)
            else:
                self.log.info("child_ready", pid=self.child.pid, **engine)
                self.ready.set()
                return

    def _claim_and_work(self) -> bool:
        """False where there was nothing to do."""
        try:
            job = queue.claim(self.engine, worker=self.settings.name, lease_s=self.settings.lease_s)
            if job is None:
                rescued = queue.rescue(self.engine)
                for row in rescued:
                    self.log.warning(
                        "job_rescued", job_id=str(row["id"]), shop=row["shop"], status=row["status"]
                    )
                if rescued:
                    self.nudge()
                    self.wakeup.wake()
                return bool(rescued)
        except DBAPIError as error:
            self.log.warning("database_unreachable", reason=_reason(error))
            return False
        with structlog.contextvars.bound_contextvars(job_id=str(job.id), shop=job.shop, attempt=job.attempts):
            self.nudge()
            self._work(job)
            self.nudge()
        return True

    def _work(self, job: Job) -> None:
        began = time.monotonic()
        self.log.info("job_claimed", quality=job.quality, photos=len(job.image_urls))
        report: dict[str, Any] = {}
        with self.scratch.job(str(job.id)) as folder, Lease(self.engine, job, self.settings.lease_s) as lease:
            try:
                self._compute(job, folder, lease, report)
                if (quality := report.get("quality")) and quality["score"] < self.settings.review_below:
                    report["needs_review"] = True
                url = self._upload(job, folder, lease, report)
                if self._settle(lambda: queue.complete(self.engine, job, model_url=url, report=report)):
                    self.log.info("job_completed", seconds=round(time.monotonic() - began, 1), model_url=url)
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
                dimensions=job.metadata.get("dimensions"),
                turntable=self.settings.turntable,
                usdz=self.settings.usdz,
            )
            answer = self._follow(lease)
        except ChildDied as error:
            self.log.error("child_died", reason=str(error))  # noqa: TRY400 - it names itself
            self.child.kill()
            raise JobError("worker_lost") from None
        except _HardLimit:
            self.log.error("child_killed", reason="the hard time limit")  # noqa: TRY400 - it names itself
            self.child.kill()
            raise JobError("timed_out") from None
        except (LeaseLost, _Cancelled, _GivenBack):
            self._stop_child()
            raise
        report |= answer["report"]
        if "traceback" in answer:
            self.log.error("child_error", exception=answer["traceback"])
        if "failed" in answer:
            raise JobError(**answer["failed"])
        if "stopped" in answer:
            raise JobError("timed_out")

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
                self.nudge()
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
        self.nudge()
        self._check(lease)
        stem = paths.stem(job.shop, job.product_id, job.variant_id)
        began = time.perf_counter()
        report["cutout_url"] = self.store.put(f"{stem}.cutout.png", folder / "cutout.png", "image/png")
        report["poster_url"] = self.store.put(f"{stem}.png", folder / "poster.png", "image/png")
        if self.settings.turntable:
            report["turntable_url"] = self.store.put(f"{stem}.webp", folder / "turntable.webp", "image/webp")
        if self.settings.usdz:
            report["usdz_url"] = self.store.put(f"{stem}.usdz", folder / "model.usdz", "model/vnd.usdz+zip")
        # The model last: who sees the new one finds the new poster beside it.
        url = self.store.put(f"{stem}.glb", folder / "model.glb", "model/gltf-binary")
        report["seconds"]["upload"] = round(time.perf_counter() - began, 3)
        lease.report(95, "uploaded")
        return url

    def _fail(self, job: Job, error: JobError, report: dict[str, Any]) -> None:
        def settle() -> None:
            row = queue.fail(self.engine, job, error, report=report)
            if row["status"] == "pending":
                self.log.warning("job_postponed", code=error.code, until=row["run_after"].isoformat())
            else:
                self.log.error("job_failed", code=error.code, reason=error.message)

        self._settle(settle)

    def _settle(self, write: Callable[[], None]) -> bool:
        """Writes a job's end; whether it was written. What cost minutes of a GPU is kept until the database is back."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((OperationalError, InterfaceError)),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=5),
            stop=lambda _: time.monotonic() > self.stop.give_back_at,
            before_sleep=lambda state: self.log.warning("database_unreachable", tries=state.attempt_number),
        )
        try:
            retrying(write)
        except LeaseLost:
            self.log.warning("lease_lost", meaning="another worker has the job, or its row is gone")
            return False
        except tenacity.RetryError:
            self.log.warning(
                "job_left", meaning="no database until the end: its lease runs out, another takes it"
            )
            return False
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


def _reason(error: DBAPIError) -> str:
    return str(error.orig).strip()
