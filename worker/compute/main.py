"""The child process: it owns the model, does one job after another, and can be killed.

It speaks JSON lines with the daemon on its standard input and output. It sees no database, no bucket and no secret,
so that a photo which takes it over has nothing to find.
"""

import ctypes
import errno
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from worker import engines
from worker.core.errors import JobError, redact_text
from worker.engines.surface import Engine
from worker.pipeline import run as pipeline
from worker.pipeline.address import Policy
from worker.pipeline.cutout import CutoutUnavailable, Cutter
from worker.weights import WeightsMissing


class Stopped(BaseException):
    """The daemon wants the job stopped. No `except Exception` in the pipeline may swallow it."""


class _Switch:
    """SIGUSR1 stops the job that runs; between jobs it means nothing."""

    def __init__(self) -> None:
        self.on = False
        signal.signal(signal.SIGUSR1, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.on:
            self.on = False
            raise Stopped


def main() -> None:
    _die_with(int(sys.argv[1]))
    # Libraries print. What they print goes to standard error, and standard output is for the daemon alone.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is for the daemon, which tells us
    switch = _Switch()

    start = json.loads(sys.stdin.readline())
    try:
        engine = engines.load(
            start["engine"], Path(start["weights_dir"]), start["device"], start["precision"]
        )
        cutter = Cutter(start["background_model"], Path(start["weights_dir"]))
        policy = Policy(**start["photos"])
    except (engines.EngineUnavailable, WeightsMissing, CutoutUnavailable) as error:
        _send(channel, unavailable=str(error))
        return
    _send(channel, ready={"engine": engine.name, "engine_version": engine.version, **engine.details})

    for line in sys.stdin:
        message = json.loads(line)
        request = pipeline.Request(**message | {"folder": Path(message["folder"]), "policy": policy})
        _send(channel, **_work(request, engine, cutter, channel, switch))


def _work(
    request: pipeline.Request,
    engine: Engine,
    cutter: Cutter,
    channel: TextIO,
    switch: _Switch,
) -> dict[str, Any]:
    report: dict[str, Any] = {}
    try:
        switch.on = True
        pipeline.run(
            request,
            engine,
            cutter,
            report,
            lambda stage: _send(channel, progress=stage.value, stage=stage.title),
        )
        switch.on = False
    except Stopped:
        return {"stopped": True, "report": report}
    except JobError as error:
        return _failed(error, report)
    except engines.DeviceLost as error:
        # Every later call would fail too, so the process ends; the daemon makes it a lost worker and starts another.
        sys.exit(f"The device is lost: {error}")
    except MemoryError:
        return _failed(JobError("out_of_memory"), report)
    except Exception as error:  # noqa: BLE001 - whatever it is, it costs this job and no other
        full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        code = "no_space" if full else "internal_error"
        return _failed(JobError(code), report) | {"traceback": redact_text(traceback.format_exc())}
    finally:
        switch.on = False
    return {"done": True, "report": report}


def _failed(error: JobError, report: dict[str, Any]) -> dict[str, Any]:
    return {"failed": {"code": error.code, "message": error.message}, "report": report}


def _send(channel: TextIO, **message: Any) -> None:
    channel.write(json.dumps(message) + "\n")


def _die_with(daemon: int) -> None:
    """Linux kills us when the lane that started us is gone, so that nothing keeps the GPU. Elsewhere the end of
    standard input ends us, between jobs. Raises: SystemExit where the daemon is gone already.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != daemon:
        sys.exit("The daemon that started this child is gone.")


if __name__ == "__main__":
    main()
