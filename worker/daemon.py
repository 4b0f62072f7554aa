"""The daemon: a lane for each device, the threads they share, and the signals that end it."""

import faulthandler
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import structlog
import tenacity
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from worker import __version__, database, systemd
from worker.jobs.wakeup import Listener, Wakeup
from worker.lane import Lane, Stop
from worker.scratch import Scratch
from worker.settings import ConfigError, Settings
from worker.storage import open_store
from worker.webhooks.sender import Sender

# Exit codes, which systemd acts on
DRAINED = 0
TEMPORARY = 75  # EX_TEMPFAIL: start it again
CONFIGURATION = 78  # EX_CONFIG: starting it again will not help

LAST_WEBHOOKS_S = 10.0  # what a stopping daemon gives to the events of its last jobs

log = structlog.get_logger()


def run(settings: Settings) -> int:
    """Works until a signal says otherwise; the exit code. Raises: ConfigError before anything was claimed."""
    faulthandler.enable()  # the watchdog ends us by SIGABRT, and the journal then has where each thread was
    stop = Stop()
    _obey_signals(stop, settings.grace_s)
    devices = find_devices(settings)
    store = open_store(settings)
    engine = database.connect(database.url(settings), pool_size=2 * len(devices) + 2)
    sender = Sender(engine, settings) if settings.backend_url else None
    systemd.notify(STATUS="looking for the database")
    if not _wait_for_database(engine, stop):
        return DRAINED
    try:
        scratch = Scratch(settings.temp_dir)
    except OSError as error:
        raise ConfigError(f"WORKER_TEMP_DIR cannot be used: {error}") from None
    wakeup = Wakeup()
    log.info(
        "starting",
        version=__version__,
        engine=settings.engine,
        devices=devices,
        worker=settings.name,
        webhooks=settings.backend_url or "none: BACKEND_URL is not set",
    )
    lanes = [
        Lane(
            device,
            settings=settings,
            engine=engine,
            store=store,
            scratch=scratch,
            wakeup=wakeup,
            stop=stop,
            nudge=sender.nudge if sender else lambda: None,
        )
        for device in devices
    ]
    threads: list[threading.Thread] = [*lanes, Listener(settings, wakeup), *([sender] if sender else [])]
    for thread in threads:
        thread.start()
    notifier = systemd.Notifier({lane.device: lane.heart for lane in lanes}, scratch.touch)
    try:
        return _watch(lanes, wakeup, stop, notifier)
    finally:
        if sender:
            sender.stop(LAST_WEBHOOKS_S)
        scratch.close()
        engine.dispose()


def find_devices(settings: Settings) -> list[str]:
    """The ids of the GPUs to use, or `cpu`. Looked up without torch, which would keep a context on each."""
    named = "" if settings.device == "cpu" else settings.cuda_visible_devices
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip()] or ["cpu"]
    gpus = Path("/proc/driver/nvidia/gpus")
    return [str(n) for n, _ in enumerate(gpus.iterdir())] if gpus.is_dir() else ["cpu"]


def _watch(lanes: list[Lane], wakeup: Wakeup, stop: Stop, notifier: systemd.Notifier) -> int:
    """Until all lanes have ended. Raises: ConfigError where that is why one ended."""
    announced = False
    while any(lane.is_alive() for lane in lanes):
        lanes[0].join(0.2)
        if not announced and all(lane.ready.is_set() and lane.is_alive() for lane in lanes):
            announced = True
            log.info("ready", lanes=len(lanes))
        ended = [lane for lane in lanes if not lane.is_alive()]
        if ended and not stop.draining.is_set():
            # One lane fewer would go unnoticed. The others finish what they have.
            log.error("lane_ended", devices=[lane.device for lane in ended])
            stop.draining.set()
        if stop.draining.is_set():
            wakeup.wake()
        notifier.tick(ready=announced, stopping=stop.draining.is_set())
    for lane in lanes:
        if lane.failed:
            raise lane.failed
    drained = stop.give_back_at < float("inf")
    log.info("stopped", reason="drained" if drained else "a lane ended")
    return DRAINED if drained else TEMPORARY


def _obey_signals(stop: Stop, grace_s: float) -> None:
    def end(number: int, _frame: FrameType | None) -> None:
        again = stop.draining.is_set()
        stop.drain(0 if again else grace_s)
        # A handler may interrupt the logger itself, so this is written past it.
        how = (
            "giving back what runs"
            if again
            else f"claiming no more, finishing what runs within {grace_s:g} s"
        )
        os.write(sys.stderr.fileno(), f"{signal.Signals(number).name}: {how}\n".encode())

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _wait_for_database(engine: Engine, stop: Stop) -> bool:
    """Until the database answers and its schema is ours; False if we were told to stop first. Raises: ConfigError."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(DBAPIError),
        wait=tenacity.wait_random_exponential(multiplier=1, max=30),
        stop=tenacity.stop_when_event_set(stop.draining),
        sleep=tenacity.sleep_using_event(stop.draining),
        before_sleep=_say_unreachable,
        reraise=True,
    )
    try:
        retrying(database.check_schema, engine)
    except DBAPIError:
        return False
    return True


def _say_unreachable(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    reason = str(getattr(error, "orig", error)).strip()
    log.warning("database_unreachable", reason=reason, tries=state.attempt_number)
    systemd.notify(STATUS=f"waiting for the database: {reason}")
