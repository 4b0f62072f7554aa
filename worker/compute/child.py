"""The work of the child process: it owns the models, does one job after another, and can be killed.

It talks with the daemon in the messages of `worker.compute.protocol` on standard input and output. It sees no database,
no bucket and no secret, so that a photo which takes it over finds nothing.
"""

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO
from uuid import UUID

from worker import engines, weights
from worker.compute import protocol
from worker.compute.protocol import (
    Answer,
    Done,
    Downloaded,
    Failed,
    FromChild,
    Progress,
    Ready,
    Result,
    Start,
    Stopped,
    Unavailable,
    Work,
)
from worker.compute.report import MAX_TEXT
from worker.core.errors import JobError, redact_text
from worker.engines.gate import Gate
from worker.engines.surface import Engine
from worker.pipeline import fingerprint
from worker.pipeline import run as pipeline
from worker.pipeline.address import Policy
from worker.pipeline.cutout import Cutter


class StopRequested(BaseException):
    """The daemon wants the job to stop. No `except Exception` in the pipeline may swallow it."""


class _StopSignal:
    """Raises StopRequested on SIGUSR1 while a job is `interruptible`; at other times the signal does nothing."""

    def __init__(self) -> None:
        self._on = False
        signal.signal(signal.SIGUSR1, self._stop)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        try:
            self._on = True
            yield
        finally:
            self._on = False

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self._on:
            self._on = False
            raise StopRequested


class _Channel:
    """The way to the daemon."""

    def __init__(self, output: int) -> None:
        self._pipe = os.fdopen(output, "wb", buffering=0)

    def send(self, message: FromChild) -> None:
        """Write a message whole: SIGUSR1 waits until it is out."""
        left = memoryview(protocol.encode(message))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            while left:
                left = left[self._pipe.write(left) :]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


@dataclass(frozen=True)
class _Models:
    engine: Engine
    cutter: Cutter
    policy: Policy


def serve(start: Start, lines: BinaryIO, output: int) -> None:
    """Load the models and do the jobs that come in `lines`, until they end. Answer on the file descriptor `output`."""
    channel, stop = _Channel(output), _StopSignal()
    try:
        models = _load(start)
    except (engines.EngineUnavailable, weights.WeightsMissing) as error:
        channel.send(Unavailable(message=str(error)[:MAX_TEXT], later=isinstance(error, engines.DeviceBusy)))
        return
    channel.send(
        Ready(
            engine=models.engine.name,
            engine_version=models.engine.version,
            details=_plain(models.engine.details),
            weights=[
                weights.path(start.weights_dir, name)
                for name in engines.weights_needed(start.engine, start.background_model)
            ],
        )
    )
    for line in lines:
        match protocol.decode_to_child(line):
            case Work() as work:
                channel.send(_work(work, models, lambda job_id: _read_answer(lines, job_id), channel, stop))
            case Answer():
                pass  # to a job that was stopped before it could read it
            case _:
                sys.exit("A message is not Work.")


def _read_answer(lines: BinaryIO, job_id: UUID) -> Answer:
    """Wait for the answer to the Downloaded of this job. Answers to jobs that were stopped before they read them are passed over."""
    while line := lines.readline():
        answer = protocol.decode_to_child(line)
        if not isinstance(answer, Answer):
            break
        if answer.job_id == job_id:
            return answer
    sys.exit("A message is not the answer.")


def _load(start: Start) -> _Models:
    fingerprint.code()  # of the code that is loaded here, and not of another version that is installed later
    return _Models(
        engine=engines.load(
            start.engine,
            start.weights_dir,
            start.device,
            start.precision,
            Gate(*start.gate) if start.gate else None,
            start.triposr_views,
        ),
        cutter=Cutter(start.background_model, start.weights_dir),
        policy=Policy(hosts=tuple(start.photo_hosts), http=start.photo_http, loopback=start.photo_loopback),
    )


def _work(
    work: Work, models: _Models, read_answer: Callable[[UUID], Answer], channel: _Channel, stop: _StopSignal
) -> Result:
    """Make the model. Whatever goes wrong costs this job and no other."""
    report: dict[str, Any] = {}

    def failed(error: JobError, traceback: str = "") -> Failed:
        return Failed(
            job_id=work.job_id,
            report=_plain(report),
            code=error.code,
            message=error.message[:MAX_TEXT],
            traceback=traceback[-protocol.MAX_TRACEBACK :],
        )

    def is_known(key: str) -> bool:
        channel.send(Downloaded(job_id=work.job_id, key=key))
        return read_answer(work.job_id).known

    try:
        with stop.interruptible():
            made = pipeline.run(
                pipeline.Request(
                    image_urls=work.image_urls,
                    quality=work.quality,
                    excluded=work.excluded,
                    folder=work.folder,
                    policy=models.policy,
                    dimensions=work.dimensions,
                    views=work.views,
                    subject=work.subject,
                    review_score=work.review_score,
                    limit_s=work.limit_s,
                    turntable=work.turntable,
                    usdz=work.usdz,
                ),
                models.engine,
                models.cutter,
                report,
                lambda stage: channel.send(Progress(job_id=work.job_id, stage=stage)),
                is_known,
            )
        return (Done if made else Stopped)(job_id=work.job_id, report=_plain(report))
    except StopRequested:
        return Stopped(job_id=work.job_id, report=_plain(report))
    except JobError as error:
        return failed(error if work.folder.is_dir() else JobError("temp_unavailable"))
    except engines.DeviceLost as error:
        # Every later call would fail too, so the process ends; the daemon makes it a lost worker and starts another.
        sys.exit(f"The device is lost: {error}")
    except MemoryError:
        return failed(JobError("out_of_memory"))
    except Exception as error:  # noqa: BLE001 - not foreseen, so the traceback goes to the daemon's log
        if code := _disk_error(error, work.folder):
            return failed(JobError(code))
        return failed(JobError("internal_error"), redact_text(traceback.format_exc()))


def _disk_error(error: Exception, folder: Path) -> str:
    """Return the code for an error of the disk, or of a job's folder that somebody deleted; an empty string for others."""
    if not isinstance(error, OSError):
        return "" if folder.is_dir() else "temp_unavailable"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "no_space"
    inside = isinstance(error.filename, str | PathLike) and folder in Path(error.filename).parents
    return (
        "temp_unavailable" if inside or error.errno in {errno.EROFS, errno.EIO} or not folder.is_dir() else ""
    )


def _plain(report: Any) -> Any:
    """Return a report in the types of JSON: lists for tuples, strings for enums, null for a number that is none."""
    return json.loads(json.dumps(dict(report)), parse_constant=lambda _: None)
