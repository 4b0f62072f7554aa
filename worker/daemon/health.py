"""The optional HTTP port: /healthz, /readyz and /metrics, for whoever looks after the daemon.

An answer comes from what the daemon knows anyway. Only the bucket is tried out, in the background and seldom.
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

from worker import engines, weights
from worker.core import metrics
from worker.core.finding import Level
from worker.core.metrics import QueueGauges
from worker.core.settings import ConfigError, Settings
from worker.daemon.admission import Admission
from worker.daemon.lane import Lane
from worker.daemon.systemd import watchdog_timeout_s
from worker.database.monitor import DatabaseMonitor
from worker.jobs.wakeup import Listener
from worker.storage import Store, StoreUnreachable

PROBE_S = 300.0, 30.0  # between two looks at a bucket that works, and at one that does not
SLOW_S = 10.0  # what a client may take over its request

Answer = dict[str, Any]

log = structlog.get_logger()


class Bucket:
    """What is known of the store: tried out in the background, when somebody asks and the last time was long ago."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._check_at = time.monotonic() + PROBE_S[0]  # the daemon has just done so
        self.problem = ""

    def check(self) -> str:
        """The problem of the last look, if there was one."""
        with self._lock:
            if time.monotonic() > self._check_at:
                self._check_at = float("inf")
                threading.Thread(target=self._try, name="bucket-probe", daemon=True).start()
            return self.problem

    def _try(self) -> None:
        try:
            self.problem = " ".join(
                str(finding) for finding in self._store.check() if finding.level is Level.FAIL
            )
        except StoreUnreachable as error:
            self.problem = str(error)
        finally:
            self._check_at = time.monotonic() + PROBE_S[bool(self.problem)]


@dataclass
class Health:
    """What there is to ask; a daemon that is still starting has none of it yet."""

    settings: Settings
    stopping: Callable[[], bool]
    lanes: Sequence[Lane] = ()
    monitor: DatabaseMonitor | None = None
    listener: Listener | None = None
    admission: Admission | None = None
    bucket: Bucket | None = None
    gauges: QueueGauges | None = None
    doing: str = "waiting for the database and the store"
    watchdog_timeout_s: float = field(default_factory=watchdog_timeout_s)

    def alive(self) -> tuple[bool, Answer]:
        """Whether the process is worth keeping: no lane is silent for longer than it said."""
        lanes = {
            lane.device: {
                "doing": lane.heartbeat.doing,
                "silent_s": round(max(0.0, lane.heartbeat.overdue_s()), 1),
            }
            for lane in self.lanes
        }
        frozen = [lane.device for lane in self.lanes if lane.heartbeat.overdue_s() > self.watchdog_timeout_s]
        return not frozen, {"alive": not frozen, "frozen": frozen, "lanes": lanes}

    def ready(self) -> tuple[bool, Answer]:
        """Whether a job that is due now would be claimed and done, and if not, why."""
        problems = {
            "daemon": "it is stopping" if self.stopping() else "" if self.lanes else self.doing,
            "database": "" if self.monitor and self.monitor.available else "it cannot be used",
            "bucket": self._of_bucket(),
            "weights": self._of_weights(),
        } | {f"child {lane.device}": _of_child(lane) for lane in self.lanes}
        parts = {name: problem or "ok" for name, problem in problems.items()}
        ready = not any(problems.values())
        return ready, {"ready": ready, "parts": parts}

    def scrape(self) -> bytes:
        for lane in self.lanes:
            metrics.LANE_SILENT.labels(lane.device).set(max(0.0, lane.heartbeat.overdue_s()))
            metrics.LANE_READY.labels(lane.device).set(not _of_child(lane))
        metrics.DATABASE_UP.set(bool(self.monitor and self.monitor.available))
        metrics.LISTENING.set(bool(self.listener and self.listener.alive))
        metrics.ACCEPTING_JOBS.set(bool(self.admission and self.admission.is_open))
        if self.gauges:
            self.gauges.refresh()
        return metrics.scrape()

    def _of_bucket(self) -> str:
        if self.admission is None or self.bucket is None:
            return "not looked at yet"
        return self.bucket.check() or (
            "" if self.admission.is_open else "it does not work, or a disk is full"
        )

    def _of_weights(self) -> str:
        if self.lanes and not any(lane.ready.is_set() for lane in self.lanes):
            return "being loaded"
        try:
            places = [
                weights.path(self.settings.weights_dir, name)
                for name in engines.weights_needed(self.settings.engine, self.settings.background_model)
            ]
        except weights.WeightsMissing as error:
            return str(error)
        return "; ".join(f"{place} is gone" for place in places if not place.exists())


def _of_child(lane: Lane) -> str:
    if lane.failed:
        return str(lane.failed)
    if not lane.ready.is_set() or not lane.child.running:
        return lane.heartbeat.doing
    return "it keeps dying" if lane.healthy is False else ""


def serve(health: Health, host: str, port: int) -> None:
    """From now on, in the background. Raises: ConfigError where the port cannot be had."""

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
        """A client that went away is no event."""


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
        good, said = state
        self._answer(200 if good else 503, json.dumps(said, indent=2).encode() + b"\n", "application/json")

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A scrape is no event."""
