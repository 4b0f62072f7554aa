"""One claimed job, from its claim to its end in the row: have the child make the model, store it, settle."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from worker.compute.process import STOP_S, Child, ChildDied
from worker.core import metrics
from worker.core.errors import JobError
from worker.core.stages import Stage, Step
from worker.core.threads import jitter
from worker.daemon.context import LaneContext
from worker.daemon.systemd import Heartbeat
from worker.database.monitor import is_transient
from worker.jobs import queue
from worker.jobs.lease import Lease
from worker.jobs.queue import Job, LeaseLost
from worker.storage import CONTENT_TYPES, paths

TICK_S = 0.25  # how soon a lane notices that it should stop
UPLOAD_S = 900.0  # the longest that storing a job's files may take, with all tries

log = structlog.get_logger()


class _Cancelled(Exception):
    """Somebody wants this job stopped."""


class _Released(Exception):
    """The daemon stops before the job is done."""


class _HardLimit(Exception):
    """The job was asked to stop and did not."""


class Attempt:
    """One claimed job: `run` it once. `child_ended` tells afterwards whether the child died of it or had to be killed; None if
    neither is known, because the job was stopped.
    """

    def __init__(self, job: Job, child: Child, heartbeat: Heartbeat, context: LaneContext) -> None:
        self.job = job
        self.child = child
        self.heartbeat = heartbeat
        self.context = context
        self.settings = context.settings
        self.engine = context.engine
        self.lease = Lease(
            context.engine,
            job,
            context.settings.lease_s,
            cancel_push_works=context.cancel_push_works,
            on_report=context.wake_sender,
        )
        self.report: dict[str, Any] = {}  # for the row; filled as the work goes on
        self.child_ended: bool | None = None
        self._began = time.monotonic()

    def run(self) -> None:
        self.heartbeat.beat(f"job {self.job.id}, claimed")
        log.info("job_claimed", quality=self.job.quality, photos=len(self.job.image_urls))
        with self.context.scratch.job(str(self.job.id)) as folder, self.lease:
            try:
                self._compute(folder)
                if (quality := self.report.get("quality")) and quality["score"] < self.settings.review_score:
                    self.report["needs_review"] = True
                url = self._upload(folder)
                self._renew_or_wait()
                if self._settle(
                    lambda: queue.complete(self.engine, self.job, model_url=url, report=self.report)
                ):
                    # Without its query: in a private bucket's address that is a token.
                    address = url.partition("?")[0]
                    metrics.ended("completed")
                    log.info("job_completed", seconds=self._seconds(), model_url=address)
            except LeaseLost:
                self._lost()
            except _Cancelled:
                if self._settle(lambda: queue.cancel(self.engine, self.job)):
                    metrics.ended("cancelled")
                    log.info("job_cancelled", seconds=self._seconds())
            except _Released:
                if self._settle(lambda: queue.release(self.engine, self.job)):
                    metrics.ended("released")
                    log.info("job_released", seconds=self._seconds())
            except JobError as error:
                self._fail(error)
            except Exception:
                # Not foreseen, so nobody knows whether the next attempt goes better; it is given one.
                log.exception("lane_error")
                self._fail(JobError("internal_error"))
        metrics.made(self.report, self.child.device)

    def _compute(self, folder: Path) -> None:
        """Has the child make the files. Raises: JobError, and what `_check` raises; the child is ready again then, or ended."""
        try:
            self.child.send(
                job_id=str(self.job.id),
                name=self.job.product_id,
                image_urls=list(self.job.image_urls),
                quality=self.job.quality,
                folder=str(folder),
                dimensions=self.job.metadata.get("dimensions"),
                turntable=self.settings.turntable,
                usdz=self.settings.usdz,
            )
            answer = self._await_result()
        except ChildDied as error:
            self._end_child("child_died", str(error))
            raise JobError("worker_lost") from None
        except _HardLimit:
            self._end_child("child_killed", "the hard time limit")
            raise JobError("timed_out") from None
        except (LeaseLost, _Cancelled, _Released):
            self._stop_child()
            raise
        except Exception:
            # Not foreseen. It may still be at work, and what it says of this job is not for the next one to hear.
            self.child.kill()
            raise
        self.child_ended = False
        self.report |= answer["report"]
        if "traceback" in answer:
            log.error("child_error", exception=answer["traceback"])
        if "failed" in answer:
            raise JobError(**answer["failed"])
        if "stopped" in answer:
            raise JobError("timed_out")

    def _await_result(self) -> dict[str, Any]:
        """Passes the child's progress on to the row; the child's last word on the job."""
        began = time.monotonic()
        asked_to_stop = False
        while True:
            self.heartbeat.beat()
            message = self.child.receive(TICK_S)
            if message is not None and "progress" not in message:
                return message
            if message is not None:
                progress, stage = message["progress"], message["stage"]
                self.heartbeat.beat(f"job {self.job.id}, {stage}")
                structlog.contextvars.bind_contextvars(stage=stage)
                log.info("job_progress", progress=progress, seconds=self._seconds())
                self.lease.report(progress, stage)
            self._check()
            elapsed = time.monotonic() - began
            if elapsed > self.settings.hard_limit_s:
                raise _HardLimit
            if elapsed > self.settings.soft_limit_s and not asked_to_stop:
                asked_to_stop = True
                self.child.interrupt()

    def _check(self) -> None:
        """Raises what should end the job now: LeaseLost, _Cancelled, _Released."""
        if self.lease.lost:
            raise LeaseLost
        if self.lease.cancelled:
            raise _Cancelled
        if self.context.stop.releasing:
            raise _Released

    def _upload(self, folder: Path) -> str:
        """The address of the model. Raises: JobError, LeaseLost, _Cancelled, _Released."""
        self.heartbeat.beat(f"job {self.job.id}, uploading", silent_s=UPLOAD_S)
        self.lease.report(Stage.UPLOADING, Stage.UPLOADING.title)
        structlog.contextvars.bind_contextvars(stage="uploading")
        stem = paths.stem(self.job.shop, self.job.product_id, self.job.variant_id)
        began = time.perf_counter()

        def put(ending: str, file: str) -> str:
            self._renew_or_wait()
            kind = CONTENT_TYPES[Path(file).suffix]
            return self.context.store.put(stem + ending, folder / file, kind, self._check)

        self.report["cutout_url"] = put(".cutout.png", "cutout.png")
        self.report["poster_url"] = put(".png", "poster.png")
        if self.settings.turntable:
            self.report["turntable_url"] = put(".webp", "turntable.webp")
        if self.settings.usdz:
            self.report["usdz_url"] = put(".usdz", "model.usdz")
        # The model last: who sees the new one finds the new poster beside it.
        url = put(".glb", "model.glb")
        self.report["seconds"][Step.UPLOAD] = round(time.perf_counter() - began, 3)
        self.lease.report(Stage.UPLOADED, Stage.UPLOADED.title)
        return url

    def _renew_or_wait(self) -> None:
        """The lease was renewed just now. What is finished waits for a database that is away, even if the lease runs out
        meanwhile: nobody else can take the job there either. Raises: LeaseLost, _Cancelled, _Released.
        """
        while True:
            try:
                self.lease.renew()
            except DBAPIError as error:
                if not is_transient(error):
                    raise
                if not self._database_is_back():
                    raise _Released from None
            else:
                return self._check()

    def _database_is_back(self) -> bool:
        """False if we are to stop first."""
        time.sleep(jitter(0.05, TICK_S))
        while not self.context.monitor.wait(TICK_S):
            self.heartbeat.beat()
            if self.context.stop.releasing:
                return False
        return not self.context.stop.releasing

    def _fail(self, error: JobError) -> None:
        if error.code in {"storage_unavailable", "storage_denied"}:
            self.context.admission.close()

        def settle() -> None:
            row = queue.fail(self.engine, self.job, error, report=self.report)
            if row["status"] == "pending":
                metrics.ended("retry_scheduled", error.code)
                until = row["run_after"].isoformat()
                log.warning("job_retry_scheduled", code=error.code, seconds=self._seconds(), until=until)
            elif row["status"] == "cancelled":
                metrics.ended("cancelled")
                log.info("job_cancelled", seconds=self._seconds())
            else:
                metrics.ended("failed", error.code)
                log.error("job_failed", code=error.code, seconds=self._seconds(), reason=error.message)

        self._settle(settle)

    def _settle(self, write: Callable[[], None]) -> bool:
        """Writes a job's end; whether it was written. What cost minutes of a GPU is kept until the database is back."""
        while True:
            self.heartbeat.beat()
            try:
                write()
            except LeaseLost:
                self._lost()
                return False
            except DBAPIError as error:
                if not is_transient(error):
                    raise
                if not self._database_is_back():
                    metrics.ended("lost")
                    log.warning(
                        "job_abandoned",
                        meaning="no database until the end: its lease runs out, another takes it",
                    )
                    return False
            else:
                return True

    def _lost(self) -> None:
        metrics.ended("lost")
        meaning = "another worker has the job, or its row is gone"
        log.warning("lease_lost", seconds=self._seconds(), meaning=meaning)

    def _seconds(self) -> float:
        """Since the claim."""
        return round(time.monotonic() - self._began, 1)

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
            log.warning("child_died", reason=str(error))
        self.child.kill()

    def _end_child(self, what: str, reason: str) -> None:
        log.error(what, reason=reason)
        self.child.kill()
        self.child_ended = True
