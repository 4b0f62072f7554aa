"""The daemon: some lanes on each device, the threads that they share, and the signals that end it."""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

import structlog
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import DBAPIError

from worker import __version__, database, engines
from worker.compute import lanes, linux
from worker.compute.lanes import Plan
from worker.compute.process import Child
from worker.core import landlock, metrics
from worker.core.errors import is_wrong_path, one_line
from worker.core.finding import Level
from worker.core.settings import ConfigError, Settings
from worker.core.threads import jitter
from worker.daemon import health, systemd
from worker.daemon.admission import Admission
from worker.daemon.context import LaneContext, Stop
from worker.daemon.filework import FileWork
from worker.daemon.lane import Lane
from worker.daemon.scratch import Scratch
from worker.database.monitor import DatabaseMonitor, is_connection_lost
from worker.engines.gate import Gate
from worker.http import clients
from worker.jobs import queue
from worker.jobs.hosts import Host
from worker.jobs.upkeep import Upkeep
from worker.jobs.wakeup import GAUGES, Listener, Wakeup
from worker.storage import Store, StoreUnreachable, open_store
from worker.webhooks.sender import Sender

UNUSABLE_S = 30.0  # between two checks of a schema that the database refuses to show
LONGEST_S = 30.0  # between two tries of a store or a folder that cannot be used at the start
LAST_FILES_S = 5.0  # what it gives to a piece of file work, to be given back
LAST_WEBHOOKS_S = 10.0  # what a stopping daemon gives to the events of its last jobs

log = structlog.get_logger()

T = TypeVar("T")


def run(settings: Settings) -> int:
    """Run a daemon until a signal. Returns the exit status. Raises: ConfigError before a job is claimed."""
    linux.disable_core_dumps_and_ptrace()
    faulthandler.enable()  # the watchdog ends us by SIGABRT, and the journal then has where each thread was
    return build(settings).serve()


def build(settings: Settings) -> "Daemon":
    """Make a daemon's parts. Nothing runs yet. Raises: ConfigError."""
    # Here, so that a wrong setting ends the start before anything waits.
    engines.find(settings.engine)
    clients.authorities()
    plan = lanes.plan(settings)
    store = open_store(settings)
    target = database.url(settings)
    # A lane and its lease each use one connection at a time; so do upkeep, listener, sender, and the file work and its lease.
    engine = database.connect(target, pool_size=2 * sum(device.lanes for device in plan.devices) + 5)
    return Daemon(settings, plan, store, target, engine)


class Daemon:
    """All parts of a daemon, and their callbacks to each other. `serve` it once."""

    def __init__(self, settings: Settings, plan: Plan, store: Store, target: URL, engine: Engine) -> None:
        self.settings = settings
        self.plan = plan
        self.store = store
        self.engine = engine
        self.stop = Stop()
        self.wakeup = Wakeup()
        self.monitor = DatabaseMonitor(engine, lambda: database.probe(target))
        self.scratch = Scratch(settings.temp_dir)
        self.admission = Admission(store, self.scratch, settings.storage_dir, settings.min_free_mb)
        self.sender = Sender(engine, settings) if settings.backend_url else None
        self.files = FileWork(settings, engine, store, self.scratch, self.monitor)
        self.gauges = metrics.QueueGauges(
            lambda: queue.gauges(engine, GAUGES),
            lambda: self.monitor.available,
            backend=self.sender is not None,
        )
        self.listener = Listener(
            settings,
            engine,
            self.monitor,
            on_insert=self.wakeup.wake,
            on_cancel=self._on_cancel,
            on_event=self._wake_sender,
            on_files=self.files.wake,
            on_batch=self._wake_upkeep,
            on_gauges=self.gauges.heard,
        )
        host = Host(
            name=settings.name,
            version=__version__,
            engine=settings.engine,
            pools=settings.pools,
            lanes=sum(device.lanes for device in plan.devices),
            devices=[device.id for device in plan.devices],
            memory_mb=linux.memory_bytes() // 2**20,
        )
        self.upkeep = Upkeep(
            settings,
            engine,
            host,
            wakeup=self.wakeup,
            listener=self.listener,
            monitor=self.monitor,
            wake_sender=self._wake_sender,
            wake_files=self.files.wake,
        )
        self.health = health.Health(
            stopping=self.stop.draining.is_set,
            paused=lambda: self.upkeep.paused,
            monitor=self.monitor,
            listener=self.listener,
            admission=self.admission,
            bucket=health.Bucket(store),
            gauges=self.gauges,
        )
        self.lanes: list[Lane] = []
        self.gates: dict[str, Gate] = {}  # of the devices
        self._places: dict[str, int] = {}  # of the gates, as they were logged

    def serve(self) -> int:
        """Work until a signal. Returns the exit status. Raises: ConfigError before a job is claimed."""
        self._obey_signals()
        if self.settings.http_port is not None:
            health.serve(self.health, self.settings.http_host, self.settings.http_port)
        metrics.BUILD.info(
            {"version": __version__, "schema": database.SCHEMA, "engine": self.settings.engine}
        )
        systemd.notify(STATUS="looking for the database")
        try:
            if not (self._wait_for_database() and self._wait_for_store() and self._wait_for_scratch()):
                return os.EX_OK
            try:
                return self._work()
            finally:
                self.upkeep.stop()
                self.files.stop(LAST_FILES_S)
                if self.sender:
                    self.sender.stop(LAST_WEBHOOKS_S)
                self.scratch.close()
        finally:
            self.engine.dispose()

    def _work(self) -> int:
        """Run all threads until the lanes have ended. Returns the exit status."""
        log.info(
            "starting",
            version=__version__,
            engine=self.settings.engine,
            devices=[device.id for device in self.plan.devices],
            pools=list(self.settings.pools),
            worker=self.settings.name,
            sandbox=landlock.abi() if self.settings.sandbox else 0,
            webhooks=self.settings.backend_url or "none: BACKEND_URL is not set",
        )
        context = LaneContext(
            settings=self.settings,
            engine=self.engine,
            store=self.store,
            admission=self.admission,
            scratch=self.scratch,
            monitor=self.monitor,
            stop=self.stop,
            wake_sender=self._wake_sender,
            wake_upkeep=self.upkeep.wake,
            cancel_push_works=lambda: self.listener.alive,
        )
        for warning in self.plan.warnings:
            log.warning("device_advice", advice=warning)
        for device in self.plan.devices:
            log.info(
                "lanes_planned",
                device=device.id,
                gpu=device.gpu and device.gpu.name,
                lanes=device.lanes,
                threads=device.threads,
                reason=device.reason,
            )
            gate = self.gates[device.id] = Gate.create(device.lanes)
            self.lanes += [
                Lane(name, Child(self.settings, device.id, device.threads, gate), self.wakeup, context)
                for name in device.names
            ]
        self.health.lanes = self.lanes
        shared = [self.listener, self.upkeep, self.files, *([self.sender] if self.sender else [])]
        threads: list[threading.Thread] = [*self.lanes, *shared]
        for thread in threads:
            thread.start()
        notifier = systemd.Notifier({lane.label: lane.heartbeat for lane in self.lanes}, self.scratch.touch)
        return self._watch(threads, notifier)

    def _watch(self, threads: list[threading.Thread], notifier: systemd.Notifier) -> int:
        """Wait until all lanes have ended, as they do when any thread has. Raises: ConfigError if that ended one."""
        announced = False
        while working := [lane for lane in self.lanes if lane.is_alive()]:
            working[0].join(0.2)
            if not announced and self._is_ready():
                announced = True
                log.info("ready", lanes=len(self.lanes))
            ended = [thread.name for thread in threads if not thread.is_alive()]
            if ended and not self.stop.draining.is_set():
                # Nobody would notice a missing thread. The lanes finish their jobs, and a restart brings all threads back.
                log.error("thread_ended", threads=ended)
                self.stop.draining.set()
            if self.stop.draining.is_set():
                self.wakeup.wake_all()
            self._log_places()
            notifier.tick(ready=announced, stopping=self.stop.draining.is_set())
        for lane in self.lanes:
            if lane.failed:
                raise lane.failed
        drained = self.stop.requested
        log.info("stopped", reason="drained" if drained else "a thread ended")
        return os.EX_OK if drained else os.EX_TEMPFAIL

    def _is_ready(self) -> bool:
        """True once all lanes can work, except for those that were tried again and again in vain."""
        working = [lane for lane in self.lanes if lane.healthy is not False or lane.ready.is_set()]
        return bool(working) and all(lane.ready.is_set() and lane.is_alive() for lane in working)

    def _log_places(self) -> None:
        """Say once when the memory of a device lets fewer lanes compute at the same time."""
        for device, gate in self.gates.items():
            metrics.PLACES.labels(device).set(gate.places)
            if (places := gate.places) < self._places.get(device, gate.lanes):
                log.warning("device_memory_short", device=device, lanes=gate.lanes, at_once=places)
                self._places[device] = places

    def _on_cancel(self, job_id: str) -> None:
        for lane in self.lanes:
            lane.on_cancel(job_id)
        self._wake_sender()

    def _wake_upkeep(self) -> None:
        self.upkeep.wake()

    def _wake_sender(self) -> None:
        if self.sender:
            self.sender.wake()

    def _obey_signals(self) -> None:
        """On SIGTERM or SIGINT claim no more and finish what runs; on the second one release it at once."""

        def drain(number: int, _frame: FrameType | None) -> None:
            again = self.stop.draining.is_set()
            grace_s = 0 if again else self.settings.grace_s
            self.stop.drain(grace_s)
            what = (
                "running jobs are requeued now"
                if again
                else f"no more jobs are claimed; running jobs have {grace_s:g} s to finish"
            )
            # The signal may have interrupted the logger itself, so this line bypasses it.
            os.write(sys.stderr.fileno(), f"{signal.Signals(number).name}: {what}\n".encode())

        signal.signal(signal.SIGTERM, drain)
        signal.signal(signal.SIGINT, drain)

    def _wait_for_database(self) -> bool:
        """Wait until the database answers and has our schema. False if a signal came first. Raises: ConfigError."""
        draining = self.stop.draining
        while not draining.is_set():
            try:
                database.check_schema(self.engine)
            except DBAPIError as error:
                systemd.notify(STATUS=f"waiting for the database: {one_line(error)}")
                if not is_connection_lost(error.orig):
                    log.error("database_unusable", reason=one_line(error))  # noqa: TRY400 - it names itself
                    draining.wait(UNUSABLE_S)
                while not (draining.is_set() or self.monitor.wait(0.2)):
                    pass
            else:
                return True
        return False

    def _wait_for_store(self) -> bool:
        """Wait until the store answers and takes our files. False if a signal came first. Raises: ConfigError."""

        def tell(reason: str) -> None:
            log.warning("storage_unreachable", reason=reason)

        findings = self._wait_for("the storage", self.store.check, tell)
        if findings is None:
            return False
        if fatal := [str(finding) for finding in findings if finding.level is Level.FAIL]:
            raise ConfigError(" ".join(fatal))
        for finding in findings:
            log.warning("storage_advice", advice=str(finding))
        return True

    def _wait_for_scratch(self) -> bool:
        """Wait until files can be made in WORKER_TEMP_DIR. False if a signal came first. Raises: ConfigError."""

        def open_it() -> bool:
            try:
                self.scratch.open()
            except OSError as error:
                if is_wrong_path(error):
                    raise ConfigError(f"WORKER_TEMP_DIR cannot be used: {error}") from None
                raise
            return True

        def tell(reason: str) -> None:
            log.error("temp_unavailable", reason=reason)

        return self._wait_for("WORKER_TEMP_DIR", open_it, tell) is not None

    def _wait_for(self, what: str, attempt: Callable[[], T], tell: Callable[[str], None]) -> T | None:
        """Call `attempt` until it succeeds. Returns what it returned; None if a signal came first. `tell` gets each reason once."""
        draining = self.stop.draining
        logged, wait = "", 1.0
        while not draining.is_set():
            try:
                return attempt()
            except (StoreUnreachable, OSError) as error:
                reason = one_line(error)
            if reason != logged:
                logged = reason
                tell(reason)
            self.health.waiting_for = f"{what}: {reason}"
            systemd.notify(STATUS=f"waiting for {self.health.waiting_for}")
            draining.wait(jitter(wait / 2, wait))
            wait = min(LONGEST_S, wait * 2)
        return None
