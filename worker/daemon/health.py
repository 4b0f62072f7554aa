"""The optional HTTP port with /healthz, /readyz and /metrics.

Answers come from the daemon's memory. Only the store is checked, in the background and rarely.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST

from worker.core import metrics
from worker.core.metrics import QueueGauges
from worker.core.settings import ConfigError
from worker.daemon.admission import Admission, store_problems
from worker.daemon.lane import Lane
from worker.daemon.systemd import watchdog_timeout_s
from worker.database.monitor import DatabaseMonitor
from worker.jobs.wakeup import Listener
from worker.storage import Store

CHECK_S = 300.0, 30.0  # between two checks of a store that works, and of one that does not
SLOW_S = 10.0  # what a client may take over its request

Answer = dict[str, Any]

log = structlog.get_logger()


class Bucket:
    """The state of the store. Reading it starts a check in the background if the last one is too old."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._check_at = time.monotonic() + CHECK_S[0]  # the daemon checks it at its start
        self._problem = ""

    def check(self) -> str:
        """Return the problem that the last check found, or an empty string."""
        with self._lock:
            if time.monotonic() > self._check_at:
                self._check_at = float("inf")
                threading.Thread(target=self._try, name="bucket-probe", daemon=True).start()
            return self._problem

    def _try(self) -> None:
        try:
            self._problem = " ".join(store_problems(self._store))
        finally:
            self._check_at = time.monotonic() + CHECK_S[bool(self._problem)]


@dataclass
class Health:
    """The parts of the daemon that the port reports on. `lanes` is empty until the daemon has found its database and its store."""

    stopping: Callable[[], bool]
    paused: Callable[[], bool]
    monitor: DatabaseMonitor
    listener: Listener
    admission: Admission
    bucket: Bucket
    gauges: QueueGauges
    lanes: Sequence[Lane] = ()
    waiting_for: str = "the database and the store"  # while there are no lanes
    watchdog_timeout_s: float = field(default_factory=watchdog_timeout_s)

    def alive(self) -> tuple[bool, Answer]:
        """Return True if no lane is silent for longer than it announced, and the state of each lane."""
        return lanes_alive(self.lanes, self.watchdog_timeout_s)

    def ready(self) -> tuple[bool, Answer]:
        """Return True if a due job would be claimed and done now, and for each part "ok" or its problem."""
        problems = {
            "daemon": self._daemon_problem(),
            "database": "" if self.monitor.available else "it cannot be used",
            "bucket": self._bucket_problem(),
            "folders": self.admission.folder_problem,
            "weights": self._weights_problem(),
        } | {f"child {lane.label}": _child_problem(lane) for lane in self.lanes}
        parts = {name: problem or "ok" for name, problem in problems.items()}
        ready = not any(problems.values())
        return ready, {"ready": ready, "parts": parts}

    def scrape(self) -> bytes:
        """Return all metrics in Prometheus's text format. May ask the database for the figures of the queue."""
        for lane in self.lanes:
            metrics.LANE_SILENT.labels(lane.label).set(max(0.0, lane.heartbeat.overdue_s()))
            metrics.LANE_READY.labels(lane.label).set(not _child_problem(lane))
        metrics.DATABASE_UP.set(self.monitor.available)
        metrics.LISTENING.set(self.listener.alive)
        metrics.ACCEPTING_JOBS.set(bool(self.lanes) and self.admission.is_open)
        metrics.PAUSED.set(self.paused())
        if self.lanes:
            self.gauges.refresh()
        return metrics.scrape()

    def _daemon_problem(self) -> str:
        if self.stopping():
            return "it is stopping"
        if self.paused():
            return "it is paused: see worker resume"
        return "" if self.lanes else f"waiting for {self.waiting_for}"

    def _bucket_problem(self) -> str:
        if not self.lanes:
            return "not checked yet"
        return self.bucket.check() or self.admission.store_problem

    def _weights_problem(self) -> str:
        """The children load the weights, and say from where; a later child needs them too."""
        loaded = [lane for lane in self.lanes if lane.ready.is_set()]
        if not loaded:
            return "not loaded yet"
        paths = {path for lane in loaded for path in lane.child.weights}
        return "; ".join(f"{path} is gone" for path in sorted(paths) if not path.exists())


def lanes_alive(lanes: Sequence[Lane], timeout_s: float) -> tuple[bool, Answer]:
    """Return True if no lane is silent for `timeout_s` seconds longer than it announced, and the state of each lane."""
    doing = {
        lane.label: {
            "doing": lane.heartbeat.doing,
            "silent_s": round(max(0.0, lane.heartbeat.overdue_s()), 1),
        }
        for lane in lanes
    }
    frozen = [lane.label for lane in lanes if lane.heartbeat.overdue_s() > timeout_s]
    return not frozen, {"alive": not frozen, "frozen": frozen, "lanes": doing}


def _child_problem(lane: Lane) -> str:
    if lane.failed:
        return str(lane.failed)
    if not lane.ready.is_set() or not lane.child.running:
        return lane.heartbeat.doing
    return "it keeps dying" if lane.healthy is False else ""


def serve(health: Health, host: str, port: int) -> None:
    """Answer requests from now on, in the background. Raises: ConfigError if the port cannot be had."""

    class Handler(_Handler):
        health_state = health

    try:
        server = _Server((host, port), Handler)
    except OSError as error:
        raise ConfigError(
            f"WORKER_HTTP_PORT {port} on {host} cannot be listened on: {error.strerror}."
        ) from None
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    log.info("http_listening", host=host, port=server.server_port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore it: a client that went away is no event."""


class _Handler(BaseHTTPRequestHandler):
    health_state: Health
    timeout = SLOW_S
    server_version = "modelworker"
    sys_version = ""

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/healthz":
                self._answer_state(self.health_state.alive())
            case "/readyz":
                self._answer_state(self.health_state.ready())
            case "/metrics":
                self._answer(200, self.health_state.scrape(), CONTENT_TYPE_LATEST)
            case _:
                self._answer(404, b"/healthz /readyz /metrics\n", "text/plain")

    do_HEAD = do_GET  # noqa: N815 - the base class's names

    def _answer_state(self, state: tuple[bool, Answer]) -> None:
        good, answer = state
        self._answer(200 if good else 503, json.dumps(answer, indent=2).encode() + b"\n", "application/json")

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: a scrape is no event."""
