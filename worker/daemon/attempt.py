"""One claimed job, from its claim to its end in the row: have the child make the model, store it, settle."""

import time
from contextlib import ExitStack
from enum import Enum, auto
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from worker.compute.process import STOP_S, Child, ChildDied
from worker.compute.protocol import Downloaded, Failed, Progress, Result, Stopped, Work
from worker.core import metrics
from worker.core.errors import JobError, one_line
from worker.core.stages import Stage, Step
from worker.core.threads import jitter
from worker.daemon import settlement
from worker.daemon.context import LaneContext
from worker.daemon.settlement import Ending, Outcome
from worker.daemon.systemd import Heartbeat
from worker.database.monitor import is_transient
from worker.jobs.lease import Lease
from worker.jobs.queue import Job, LeaseLost
from worker.storage import CONTENT_TYPES, paths

TICK_S = 0.25  # how soon a lane notices that it should stop
UPLOAD_S = 900.0  # the longest that storing a job's files may take, with all tries

log = structlog.get_logger()


class ChildFate(Enum):
    """The state of the child after an attempt."""

    ANSWERED = auto()  # it did the job, or said why not
    ENDED = auto()  # it died of the job, or had to be killed
    UNKNOWN = auto()  # the job was stopped first


class Interrupted(Exception):
    """The job must end now: it is cancelled or released, or its lease is lost."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.name)
        self.outcome = outcome


class Attempt:
    """One claimed job: `run` it once. `child_fate` says afterwards what became of the child, `begun` if there was any work."""

    def __init__(self, job: Job, lane: str, child: Child, heartbeat: Heartbeat, context: LaneContext) -> None:
        self.job = job
        self.lane = lane
        self.child = child
        self.heartbeat = heartbeat
        self.context = context
        self.settings = context.settings
        self.lease = Lease(
            context.engine,
            job,
            context.settings.lease_s,
            cancel_push_works=context.cancel_push_works,
            on_report=context.wake_sender,
        )
        self.report: dict[str, Any] = {"lane": lane}  # for the row; filled as the work goes on
        self.child_fate = ChildFate.UNKNOWN
        self.begun = False
        self._storing = False  # a file of the model before this one may be replaced already
        self._began = time.monotonic()

    def run(self) -> None:
        """Do the job and settle it. Raises: sqlalchemy's DBAPIError if the row cannot be written; its lease then expires."""
        self.heartbeat.beat(f"job {self.job.id}, {Stage.CLAIMED.title}")
        log.info("job_claimed", quality=self.job.quality, photos=len(self.job.image_urls))
        with ExitStack() as held:
            try:
                folder = held.enter_context(self.context.scratch.job(str(self.job.id)))
                held.enter_context(self.lease)
            except Exception as error:  # noqa: BLE001 - whatever it is, the job is not to blame and loses no attempt
                log.error("job_not_begun", reason=one_line(error))  # noqa: TRY400 - it names itself
                ending = Ending(outcome=Outcome.RELEASED, report=self.report)
            else:
                self.begun = True
                ending = self._work(folder)
            if ending.error and ending.error.code in {"storage_unavailable", "storage_denied"}:
                self.context.admission.close()
            self.heartbeat.beat()
            ended = settlement.settle(self.context.engine, self.job, ending, self._wait_for_database)
            if self.job.batch is not None:
                self.context.wake_upkeep()
            # The end last: whoever scrapes and finds it counted finds the rest counted, too.
            metrics.made(self.report, self.lane)
            settlement.record(ended, seconds=self._seconds())

    def _work(self, folder: Path) -> Ending:
        try:
            self._compute(folder)
            self._mark_for_review()
            url = self._upload(folder)
            self._renew_or_wait()
            return Ending(outcome=Outcome.COMPLETED, report=self.report, model_url=url)
        except Interrupted as interrupted:
            return Ending(outcome=interrupted.outcome, report=self.report)
        except JobError as error:
            return Ending(outcome=Outcome.FAILED, report=self.report, error=error)
        except Exception:
            # Not foreseen, so nobody knows if the next attempt does better; the job gets one.
            log.exception("lane_error")
            return Ending(outcome=Outcome.FAILED, report=self.report, error=JobError("internal_error"))

    def _compute(self, folder: Path) -> None:
        """Have the child make the files. Raises: JobError, Interrupted. The child is idle then, or ended."""
        try:
            self.child.work(
                Work(
                    job_id=self.job.id,
                    image_urls=list(self.job.image_urls),
                    quality=self.job.quality,
                    excluded=list(self.job.excluded_photos),
                    folder=folder,
                    dimensions=self.job.dimensions,
                    views=self.job.views,
                    subject=self.job.subject,
                    review_score=self.settings.review_score,
                    limit_s=self.settings.soft_limit_s,
                    turntable=self.settings.turntable,
                    usdz=self.settings.usdz,
                )
            )
            result = self._await_result()
        except ChildDied as error:
            self._end_child("child_died", str(error))
            raise JobError("worker_lost") from None
        except (JobError, Interrupted):
            raise
        except Exception:
            # Not foreseen. The child may still be at work, and must not be at the next job's start.
            self.child.kill()
            raise
        self.child_fate = ChildFate.ANSWERED
        self.report |= result.report
        if isinstance(result, Failed):
            if result.traceback:
                log.error("child_error", exception=result.traceback)
            raise JobError(result.code, result.message)
        if isinstance(result, Stopped):
            raise JobError("timed_out")

    def _await_result(self) -> Result:
        """Pass the child's progress on to the row until the job's result. Raises: JobError, Interrupted, ChildDied."""
        began = time.monotonic()
        asked_to_stop = False
        while True:
            self.heartbeat.beat()
            message = self.child.receive(TICK_S)
            if isinstance(message, Progress):
                self._report(message.stage)
            elif isinstance(message, Downloaded):
                self.child.answer(known=False)
            elif message is not None:
                return message
            if outcome := self._interruption():
                self._stop_child()
                raise Interrupted(outcome)
            elapsed = time.monotonic() - began
            if elapsed > self.settings.hard_limit_s:
                self._end_child("child_killed", "the hard time limit")
                raise JobError("timed_out")
            if elapsed > self.settings.soft_limit_s and not asked_to_stop:
                asked_to_stop = True
                self.child.interrupt()

    def _report(self, stage: Stage) -> None:
        self.heartbeat.beat(f"job {self.job.id}, {stage.title}")
        structlog.contextvars.bind_contextvars(stage=stage.title)
        log.info("job_progress", progress=stage.value, seconds=self._seconds())
        self.lease.report(stage)

    def _interruption(self) -> Outcome | None:
        if self.lease.lost:
            return Outcome.LOST
        # A cancel that comes while files are stored comes too late: half of them would be of another model.
        if self.lease.cancelled and not self._storing:
            return Outcome.CANCELLED
        return Outcome.RELEASED if self.context.stop.releasing else None

    def _check(self) -> None:
        """Raises: Interrupted if the job must end now."""
        if outcome := self._interruption():
            raise Interrupted(outcome)

    def _mark_for_review(self) -> None:
        # The report is the child's word, so its types are checked.
        quality = self.report.get("quality")
        score = quality.get("score") if isinstance(quality, dict) else None
        if isinstance(score, int | float) and score < self.settings.review_score:
            self.report["needs_review"] = True

    def _upload(self, folder: Path) -> str:
        """Store the job's files. Returns the model's URL. Raises: JobError, Interrupted."""
        self.heartbeat.beat(f"job {self.job.id}, {Stage.UPLOADING.title}", silent_s=UPLOAD_S)
        self.lease.report(Stage.UPLOADING)
        structlog.contextvars.bind_contextvars(stage=Stage.UPLOADING.title)
        stem = paths.stem(self.job.shop, self.job.product_id, self.job.variant_id)
        began = time.perf_counter()
        # The model comes last: a reader who sees the new model finds its new poster beside it.
        files = {
            "cutout_url": (".cutout.png", folder / "cutout.png"),
            "poster_url": (".png", folder / "poster.png"),
            **({"turntable_url": (".webp", folder / "turntable.webp")} if self.settings.turntable else {}),
            **({"usdz_url": (".usdz", folder / "model.usdz")} if self.settings.usdz else {}),
            "model_url": (".glb", folder / "model.glb"),
        }
        try:
            # A file that the store refuses must not leave the others beside the model before this one.
            types = [(file, CONTENT_TYPES[file.suffix]) for _, file in files.values()]
            self.context.store.check_files(types)
            for name, (ending, file) in files.items():
                self._renew_or_wait()
                self.report[name] = self.context.store.put(
                    stem + ending, file, CONTENT_TYPES[file.suffix], self._check
                )
                self._storing = True
        except (JobError, OSError) as error:
            if not all(file.is_file() for _, file in files.values()):
                raise JobError(
                    "temp_unavailable"
                ) from error  # somebody deleted it; the store is not to blame
            raise
        url = str(self.report.pop("model_url"))
        seconds = self.report.get("seconds")
        self.report["seconds"] = (seconds if isinstance(seconds, dict) else {}) | {
            Step.UPLOAD: round(time.perf_counter() - began, 3)
        }
        self.lease.report(Stage.UPLOADED)
        return url

    def _renew_or_wait(self) -> None:
        """Renew the lease. While the database is away, wait for it, even if the lease expires: no other worker can take the
        job there either. Raises: Interrupted.
        """
        while True:
            try:
                self.lease.renew()
            except LeaseLost:
                raise Interrupted(Outcome.LOST) from None
            except DBAPIError as error:
                if not is_transient(error):
                    raise
                if not self._wait_for_database():
                    raise Interrupted(Outcome.RELEASED) from None
            else:
                return self._check()

    def _wait_for_database(self) -> bool:
        """Wait until the database can be used. False if the job must be released first."""
        time.sleep(jitter(0.05, TICK_S))
        self.heartbeat.beat()
        while not self.context.monitor.wait(TICK_S):
            self.heartbeat.beat()
            if self.context.stop.releasing:
                return False
        return not self.context.stop.releasing

    def _seconds(self) -> float:
        """Return the seconds since the claim."""
        return round(time.monotonic() - self._began, 1)

    def _stop_child(self) -> None:
        """End the child's job: ask it to stop, or else kill the child."""
        self.child.interrupt()
        deadline = time.monotonic() + STOP_S
        try:
            while (left := deadline - time.monotonic()) > 0:
                message = self.child.receive(left)
                if message is not None and not isinstance(message, Progress | Downloaded):
                    return
        except ChildDied as error:
            log.warning("child_died", reason=str(error))
        self.child.kill()

    def _end_child(self, event: str, reason: str) -> None:
        log.error(event, reason=reason)
        self.child.kill()
        self.child_fate = ChildFate.ENDED
