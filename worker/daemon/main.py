"""The daemon: a lane for each device, the threads they share, and the signals that end it."""

import ctypes
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

from worker import __version__, database, engines
from worker.core import metrics
from worker.core.errors import one_line
from worker.core.finding import Level
from worker.core.settings import ConfigError, Settings
from worker.daemon import health, systemd
from worker.daemon.admission import Admission
from worker.daemon.context import LaneContext, Stop
from worker.daemon.lane import Lane
from worker.daemon.scratch import Scratch
from worker.database.monitor import DatabaseMonitor, is_connection_lost
from worker.jobs import queue
from worker.jobs.upkeep import Upkeep
from worker.jobs.wakeup import GAUGES, Listener, Wakeup
from worker.storage import Store, StoreUnreachable, open_store
from worker.webhooks.sender import Sender

UNUSABLE_S = 30.0  # before the schema is looked for again where the database refuses it
LAST_WEBHOOKS_S = 10.0  # what a stopping daemon gives to the events of its last jobs

log = structlog.get_logger()


def run(settings: Settings) -> int:
    """Works until a signal says otherwise; the exit code. Raises: ConfigError before anything was claimed."""
    engines.find(settings.engine)
    disable_core_dumps_and_ptrace()
    faulthandler.enable()  # the watchdog ends us by SIGABRT, and the journal then has where each thread was
    stop = Stop()
    _obey_signals(stop, settings.grace_s)
    devices = find_devices(settings)
    store = open_store(settings)
    target = database.url(settings)
    # A lane and its lease each use one connection at a time; so do upkeep, listener and sender.
    engine = database.connect(target, pool_size=2 * len(devices) + 3)
    monitor = DatabaseMonitor(engine, lambda: database.probe(target))
    sender = Sender(engine, settings) if settings.backend_url else None
    health_state = health.Health(settings, stop.draining.is_set, monitor=monitor)
    if settings.http_port is not None:
        health.serve(health_state, settings.http_host, settings.http_port)
    metrics.BUILD.info({"version": __version__, "schema": database.SCHEMA, "engine": settings.engine})
    systemd.notify(STATUS="looking for the database")
    if not (_wait_for_database(engine, monitor, stop) and _wait_for_store(store, stop)):
        return os.EX_OK
    try:
        scratch = Scratch(settings.temp_dir)
    except OSError as error:
        raise ConfigError(f"WORKER_TEMP_DIR cannot be used: {error}") from None
    admission = Admission(store, [settings.temp_dir, settings.storage_dir], settings.min_free_mb)
    wakeup = Wakeup()
    log.info(
        "starting",
        version=__version__,
        engine=settings.engine,
        devices=devices,
        worker=settings.name,
        webhooks=settings.backend_url or "none: BACKEND_URL is not set",
    )
    lanes: list[Lane] = []
    wake_sender = sender.wake if sender else lambda: None

    def cancelled(job_id: str) -> None:
        for lane in lanes:
            lane.cancelled(job_id)
        wake_sender()

    gauges = metrics.QueueGauges(
        lambda: queue.gauges(engine, GAUGES), lambda: monitor.available, backend=sender is not None
    )
    listener = Listener(
        settings,
        engine,
        monitor,
        on_insert=wakeup.wake,
        on_cancel=cancelled,
        on_event=wake_sender,
        on_gauges=gauges.heard,
    )
    upkeep = Upkeep(
        settings, engine, wakeup=wakeup, listener=listener, monitor=monitor, wake_sender=wake_sender
    )
    context = LaneContext(
        settings=settings,
        engine=engine,
        store=store,
        admission=admission,
        scratch=scratch,
        monitor=monitor,
        stop=stop,
        wake_sender=wake_sender,
        cancel_push_works=lambda: listener.alive,
    )
    lanes += [Lane(device, wakeup, context) for device in devices]
    health_state.admission, health_state.bucket = admission, health.Bucket(store)
    health_state.listener, health_state.gauges, health_state.lanes = listener, gauges, lanes
    threads: list[threading.Thread] = [*lanes, listener, upkeep, *([sender] if sender else [])]
    for thread in threads:
        thread.start()
    notifier = systemd.Notifier({lane.device: lane.heartbeat for lane in lanes}, scratch.touch)
    try:
        return _watch(lanes, threads, wakeup, stop, notifier)
    finally:
        if sender:
            sender.stop(LAST_WEBHOOKS_S)
        scratch.close()
        engine.dispose()


def disable_core_dumps_and_ptrace() -> None:
    """Our environment and memory hold the secrets, and Linux lets processes of one user read each other's: so could a child
    that a photo took over. After this only root can, and there are no core dumps, which would hold them too.
    """
    if sys.platform == "linux":
        pr_set_dumpable = 4  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_dumpable, 0)


def find_devices(settings: Settings) -> list[str]:
    """The ids of the GPUs to use, or `cpu`. Looked up without torch, which would keep a context on each."""
    named = "" if settings.device == "cpu" else settings.cuda_visible_devices
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip()] or ["cpu"]
    gpus = Path("/proc/driver/nvidia/gpus")
    return [str(n) for n, _ in enumerate(gpus.iterdir())] if gpus.is_dir() else ["cpu"]


def _watch(
    lanes: list[Lane],
    threads: list[threading.Thread],
    wakeup: Wakeup,
    stop: Stop,
    notifier: systemd.Notifier,
) -> int:
    """Until all lanes have ended, as they do once any thread has. Raises: ConfigError where that is why one ended."""
    announced = False
    while any(lane.is_alive() for lane in lanes):
        lanes[0].join(0.2)
        if not announced and all(lane.ready.is_set() and lane.is_alive() for lane in lanes):
            announced = True
            log.info("ready", lanes=len(lanes))
        ended = [thread.name for thread in threads if not thread.is_alive()]
        if ended and not stop.draining.is_set():
            # One thread fewer would go unnoticed. The lanes finish what they have.
            log.error("thread_ended", threads=ended)
            stop.draining.set()
        if stop.draining.is_set():
            wakeup.wake_all()
        notifier.tick(ready=announced, stopping=stop.draining.is_set())
    for lane in lanes:
        if lane.failed:
            raise lane.failed
    drained = stop.requested
    log.info("stopped", reason="drained" if drained else "a thread ended")
    return os.EX_OK if drained else os.EX_TEMPFAIL


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


def _wait_for_database(engine: Engine, monitor: DatabaseMonitor, stop: Stop) -> bool:
    """Until the database answers and its schema is ours; False if we were told to stop first. Raises: ConfigError."""
    while not stop.draining.is_set():
        try:
            database.check_schema(engine)
        except DBAPIError as error:
            systemd.notify(STATUS=f"waiting for the database: {one_line(error)}")
            if not is_connection_lost(error.orig):
                log.error("database_unusable", reason=one_line(error))  # noqa: TRY400 - it names itself
                stop.draining.wait(UNUSABLE_S)
            while not (stop.draining.is_set() or monitor.wait(0.2)):
                pass
        else:
            return True
    return False


def _wait_for_store(store: Store, stop: Stop) -> bool:
    """Until the store answers and will take our files; False if we were told to stop first. Raises: ConfigError."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(StoreUnreachable),
        wait=tenacity.wait_random_exponential(multiplier=1, max=30),
        stop=tenacity.stop_when_event_set(stop.draining),
        sleep=tenacity.sleep_using_event(stop.draining),
        before_sleep=_say_unreachable,
        reraise=True,
    )
    try:
        findings = retrying(store.check)
    except StoreUnreachable:
        return False
    if fatal := [str(finding) for finding in findings if finding.level is Level.FAIL]:
        raise ConfigError(" ".join(fatal))
    for finding in findings:
        log.warning("storage_advice", advice=str(finding))
    return True


def _say_unreachable(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("storage_unreachable", reason=str(error), tries=state.attempt_number)
    systemd.notify(STATUS=f"waiting for the storage: {error}")
