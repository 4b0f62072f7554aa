"""One claimed job, from its claim to its end in the row: have the child make the model, store it, settle."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError

from worker.compute.process import STOP_S, Child, ChildDied
from worker.compute.protocol import Downloaded, Failed, Progress, Result, Stopped, Work
from worker.core import metrics
from worker.core.errors import JobError, one_line
from worker.core.stages import Stage, Step
from worker.core.threads import jitter
from worker.daemon import settlement, storing
from worker.daemon.context import LaneContext
from worker.daemon.settlement import Ending, Outcome
from worker.daemon.storing import Version
from worker.daemon.systemd import Heartbeat
from worker.database.monitor import is_transient
from worker.jobs.lease import Lease
from worker.jobs.queue import Job, LeaseLost
from worker.versions import files
from worker.versions import queue as versions

TICK_S = 0.25  # how soon a lane notices that it should stop
UPLOAD_S = 900.0  # the longest that storing a job's files may take, with all tries

BEGIN_EVERY_S = 1.0  # between two tries to begin a version whose files are being removed
BEGIN_S = 300.0  # the longest that an attempt waits for that

log = structlog.get_logger()

T = TypeVar("T")


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
        self._stored: Version | None = None  # files of it may have been stored
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
            if ended.outcome is Outcome.LOST and self._stored:
                self._abandon(self._stored)
            if ended.version and ended.to_publish:
                self._publish(ended.version, ended.to_publish)

    def _work(self, folder: Path) -> Ending:
        try:
            self._compute(folder)
            return self._store(folder)
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
        if self.lease.cancelled:
            return Outcome.CANCELLED
        return Outcome.RELEASED if self.context.stop.releasing else None

    def _check(self) -> None:
        """Raises: Interrupted if the job must end now."""
        if outcome := self._interruption():
            raise Interrupted(outcome)

    def _store(self, folder: Path) -> Ending:
        """Store the job's files as a version. Returns the end of the job. Raises: JobError, Interrupted."""
        self._announce_upload()
        self.lease.report(Stage.UPLOADING)
        structlog.contextvars.bind_contextvars(stage=Stage.UPLOADING.title)
        began = time.perf_counter()
        store, version = self.context.store, storing.find_version(self.job, folder, self.settings)
        version.hashes  # noqa: B018 - read before anything is written
        # A file that the store refuses must not leave the others there.
        store.check_files([(file, files.content_type(ending)) for ending, file in version.files.items()])
        self._begin(version)
        self._stored = version
        urls = storing.upload(store, version, self._renew_or_wait, self._check)
        model_url = urls.pop("model_url")
        self.report |= urls
        seconds = self.report.get("seconds")
        self.report["seconds"] = (seconds if isinstance(seconds, dict) else {}) | {
            Step.UPLOAD: round(time.perf_counter() - began, 3)
        }
        self.lease.report(Stage.UPLOADED)
        self._renew_or_wait()
        return Ending(
            outcome=Outcome.COMPLETED,
            report=self.report,
            model_url=model_url,
            version=version,
            publishing_s=self.settings.lease_s,
            wants_review=storing.wants_review(self.report, self.settings),
        )

    def _begin(self, version: Version) -> None:
        """Enter the version in the database before its first file. Wait while files under its paths are removed.

        Raises: JobError, Interrupted.
        """
        deadline = time.monotonic() + BEGIN_S
        while not self._while_available(lambda: self._enter(version)):
            if time.monotonic() > deadline:
                raise JobError("storage_unavailable")
            pause = time.monotonic() + BEGIN_EVERY_S
            while time.monotonic() < pause:
                self._check()
                self.heartbeat.beat()
                time.sleep(TICK_S)
            self._renew_or_wait()
        self._announce_upload()

    def _enter(self, version: Version) -> bool:
        return versions.begin(
            self.context.engine,
            self.job,
            digest=version.digest,
            stem=version.stem,
            files=version.hashes,
            result_key=None,
        )

    def _abandon(self, version: Version) -> None:
        """Have the files removed if the job was erased. If not, the version is kept for the next attempt, or pruned."""
        with suppress(DBAPIError):
            versions.abandon(
                self.context.engine, self.job, digest=version.digest, stem=version.stem, files=version.hashes
            )

    def _publish(self, version: Version, path: str) -> None:
        """Publish the version from the job's folder. The job has ended, and any daemon's file work completes what fails here."""
        self._announce_upload()
        try:
            storing.publish(self.context, self.job, version, path)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job is done
            log.warning("publication_failed", reason=one_line(error))

    def _announce_upload(self) -> None:
        self.heartbeat.beat(f"job {self.job.id}, {Stage.UPLOADING.title}", silent_s=UPLOAD_S)

    def _renew_or_wait(self) -> None:
        """Renew the lease. While the database is away, wait for it, even if the lease expires: no other worker can take the
        job there either. Raises: Interrupted.
        """
        self._while_available(self.lease.renew)
        self._check()

    def _while_available(self, act: Callable[[], T]) -> T:
        """Call `act`, again and again while the database is away. Raises: Interrupted, and sqlalchemy's DBAPIError for another reason."""
        while True:
            try:
                return act()
            except LeaseLost:
                raise Interrupted(Outcome.LOST) from None
            except DBAPIError as error:
                if not is_transient(error):
                    raise
                if not self._wait_for_database():
                    raise Interrupted(Outcome.RELEASED) from None

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
