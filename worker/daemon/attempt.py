"""One claimed job, from its claim to its end in the row: have the child make the model, store it, settle."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
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
from worker.daemon import reuse, settlement, storing
from worker.daemon.context import LaneContext
from worker.daemon.job_hold import TICK_S, Interrupted, JobHold
from worker.daemon.settlement import Ending, Outcome
from worker.daemon.storing import FileRefused, Version
from worker.daemon.systemd import Heartbeat
from worker.database.monitor import is_transient
from worker.jobs.lease import Lease
from worker.jobs.queue import Claimer, Job, LeaseLost
from worker.storage import beneath
from worker.versions import files
from worker.versions import queue as versions

UPLOAD_S = 900.0  # the longest that storing a job's files may take, with all tries

BEGIN_EVERY_S = 1.0  # between two tries to begin a version whose files are being removed
BEGIN_S = 300.0  # the longest that an attempt waits for that

log = structlog.get_logger()


class ChildFate(Enum):
    """The state of the child after an attempt."""

    ANSWERED = auto()  # it did the job, or said why not
    ENDED = auto()  # it died of the job, or had to be killed
    UNKNOWN = auto()  # the job was stopped first


class Attempt:
    """One claimed job: `run` it once.

    Afterwards `child_fate` says what became of the child, `begun` if there was any work, and `next` is the job that was taken
    with the end of this one. `find_claimer` says who takes it; None while nothing may be claimed. `folders` has the folders of
    the attempt before, and afterwards those of this one.
    """

    def __init__(
        self,
        job: Job,
        lane: str,
        child: Child,
        heartbeat: Heartbeat,
        context: LaneContext,
        find_claimer: Callable[[], Claimer | None],
        folders: ExitStack,
    ) -> None:
        self.job = job
        self.lane = lane
        self.child = child
        self.heartbeat = heartbeat
        self.context = context
        self.find_claimer = find_claimer
        self.folders = folders
        self.settings = context.settings
        self.lease = Lease(
            context.engine,
            job,
            context.settings.lease_s,
            cancel_push_works=context.cancel_push_works,
            on_report=context.wake_sender,
        )
        self.hold = JobHold(self.lease, heartbeat, context)
        self.report: dict[str, Any] = {"lane": lane}  # for the row; filled as the work goes on
        self.child_fate = ChildFate.UNKNOWN
        self.begun = False
        self.next: Job | None = None
        self._stored: Version | None = None  # files of it may have been stored
        self._key: str | None = None  # of the result
        self._known: reuse.Known | None = None  # the result, if it need not be made
        self._began = time.monotonic()

    def run(self) -> None:
        """Do the job and settle it. Raises: sqlalchemy's DBAPIError if the row cannot be written; its lease then expires."""
        self.heartbeat.beat(f"job {self.job.id}, {Stage.CLAIMED.title}")
        log.info("job_claimed", quality=self.job.quality, photos=len(self.job.image_urls))
        with ExitStack() as held:
            try:
                # Before the last folders are deleted, which may take longer than a lease.
                held.enter_context(self.lease)
                self.folders.close()
                job = str(self.job.id)
                folder = self.folders.enter_context(self.context.scratch.job(job))
                given = self.folders.enter_context(self.context.scratch.job(job, self.lane))
                # Opened before the child knows of it, so this is the folder whatever the child does to its path.
                made = self.folders.enter_context(beneath.opened(given))
            except Exception as error:  # noqa: BLE001 - whatever it is, the job is not to blame and loses no attempt
                log.error("job_not_begun", reason=one_line(error))  # noqa: TRY400 - it names itself
                ending = Ending(outcome=Outcome.RELEASED, report=self.report)
            else:
                self.begun = True
                ending = self._work(folder, given, made)
            if ending.error and ending.error.code in {"storage_unavailable", "storage_denied"}:
                self.context.admission.close()
            self.heartbeat.beat()
            ended = settlement.settle(self.context.engine, self.job, ending, self.hold.wait_for_database)
            self.next = ended.next
            if self.job.batch is not None:
                self.context.wake_upkeep()
            # The end last: whoever scrapes and finds it counted finds the rest counted, too.
            metrics.made(self.report, self.lane)
            settlement.record(ended, seconds=self._seconds())
            if ended.outcome is Outcome.LOST and self._stored:
                self._abandon(self._stored)
            if ended.version and ended.to_publish:
                self._publish(ended.version, ended.to_publish)

    def _work(self, folder: Path, given: Path, made: int) -> Ending:
        """Make and store the files. `given` is the child's folder, open as `made`, and `folder` ours."""
        try:
            self._compute(folder, given)
            return self._store(folder, made)
        except Interrupted as interrupted:
            return Ending(outcome=interrupted.outcome, report=self.report)
        except JobError as error:
            return Ending(outcome=Outcome.FAILED, report=self.report, error=error)
        except Exception:
            # Not foreseen, so nobody knows if the next attempt does better; the job gets one.
            log.exception("lane_error")
            return Ending(outcome=Outcome.FAILED, report=self.report, error=JobError("internal_error"))

    def _compute(self, folder: Path, given: Path) -> None:
        """Have the child make the files. Raises: JobError, Interrupted. The child is idle then, or ended."""
        try:
            self.child.work(
                Work(
                    job_id=self.job.id,
                    image_urls=list(self.job.image_urls),
                    quality=self.job.quality,
                    excluded=list(self.job.excluded_photos),
                    folder=given,
                    dimensions=self.job.dimensions,
                    views=self.job.views,
                    subject=self.job.subject,
                    review_score=self.settings.review_score,
                    limit_s=self.settings.soft_limit_s,
                    turntable=self.settings.turntable,
                    usdz=self.settings.usdz,
                )
            )
            result = self._await_result(folder)
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
        if self._known:
            self.report = reuse.report(self._known, self.job, self.report)
        elif isinstance(result, Stopped):
            raise JobError("timed_out")

    def _await_result(self, folder: Path) -> Result:
        """Pass the child's progress on to the row until the job's result. Raises: JobError, Interrupted, ChildDied."""
        began = time.monotonic()
        asked_to_stop = False
        while True:
            self.heartbeat.beat()
            message = self.child.receive(TICK_S)
            if isinstance(message, Progress):
                self._report(message.stage)
            elif isinstance(message, Downloaded):
                self._key = message.key
                self._known = self._find_known(message.key, folder)
                self.child.answer(known=self._known is not None)
            elif message is not None:
                return message
            if outcome := self.hold.interruption():
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

    def _find_known(self, key: str, folder: Path) -> reuse.Known | None:
        """Find the result that another job has made from the same, with its files. None if it must be made, also while the
        database is away: a job goes on then.

        Raises: Interrupted. The child waits meanwhile, or is stopped.
        """
        if self.job.refresh or not self.context.monitor.available:
            return None
        try:
            found = versions.find_result(self.context.engine, self.job, key)
            if found is None:
                return None
            self._announce_upload()
            known = reuse.bring(self.context.store, found, self.job, folder, self.hold.check)
            # Now that it is entered again for this job, nobody removes it.
            if known is None or (known.urls and not self._enter(known.version)):
                return None
        except (Interrupted, LeaseLost):
            self._stop_child()
            raise Interrupted(self.hold.interruption() or Outcome.LOST) from None
        except DBAPIError as error:
            if not is_transient(error):
                raise
            return None
        log.info("result_known", source=str(found.job_id), same_product=found.same_product)
        return known

    def _store(self, folder: Path, made: int) -> Ending:
        """Store the job's files as a version. Returns the end of the job. Raises: JobError, Interrupted."""
        self._announce_upload()
        self.lease.report(Stage.UPLOADING)
        structlog.contextvars.bind_contextvars(stage=Stage.UPLOADING.title)
        began = time.perf_counter()
        if self._known and self._known.urls:
            version, urls = self._known.version, dict(self._known.urls)
        else:
            store, version = self.context.store, self._collect(folder, made)
            # A file that the store refuses must not leave the others there.
            store.check_files([(file, files.content_type(ending)) for ending, file in version.files.items()])
            self._begin(version)
            self._stored = version
            urls = storing.upload(store, version, self.hold.renew, self.hold.check)
        model_url = urls.pop("model_url")
        self.report |= urls
        seconds = self.report.get("seconds")
        self.report["seconds"] = (seconds if isinstance(seconds, dict) else {}) | {
            Step.UPLOAD: round(time.perf_counter() - began, 3)
        }
        self.lease.report(Stage.UPLOADED)
        self.hold.renew()
        return Ending(
            outcome=Outcome.COMPLETED,
            report=self.report,
            model_url=model_url,
            version=version,
            publishing_s=self.settings.lease_s,
            wants_review=storing.wants_review(self.report, self.settings),
            claimer=self.find_claimer(),
        )

    def _collect(self, folder: Path, made: int) -> Version:
        """Take the files from the child, or from our own folder if they are another product's. Raises: JobError."""
        if self._known:
            return self._known.version
        try:
            return storing.collect(self.job, made, folder, self.settings)
        except FileRefused as error:
            # No pipeline of ours leaves that: a photo has taken the child over, or it is broken.
            self._end_child("child_file_refused", str(error))
            raise JobError("internal_error") from None

    def _begin(self, version: Version) -> None:
        """Enter the version in the database before its first file. Wait while files under its paths are removed.

        Raises: JobError, Interrupted.
        """
        deadline = time.monotonic() + BEGIN_S
        while not self.hold.while_available(lambda: self._enter(version)):
            if time.monotonic() > deadline:
                raise JobError("storage_unavailable")
            pause = time.monotonic() + BEGIN_EVERY_S
            while time.monotonic() < pause:
                self.hold.check()
                self.heartbeat.beat()
                time.sleep(TICK_S)
            self.hold.renew()
        self._announce_upload()

    def _enter(self, version: Version) -> bool:
        return versions.begin(
            self.context.engine,
            self.job,
            digest=version.digest,
            stem=version.stem,
            files=version.hashes,
            result_key=self._key,
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
            self.next = storing.publish(self.context, self.job, version, path, self.find_claimer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job is done
            log.warning("publication_failed", reason=one_line(error))

    def _announce_upload(self) -> None:
        self.heartbeat.beat(f"job {self.job.id}, {Stage.UPLOADING.title}", silent_s=UPLOAD_S)

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
