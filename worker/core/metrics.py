"""What Prometheus reads: what this daemon has done since its start, how its lanes are, and the queue as a whole.

docs/operations.md tells what each is for; a test holds it to this file.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from prometheus_client import (
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from sqlalchemy.exc import SQLAlchemyError

from worker.core.errors import ERRORS, one_line
from worker.core.stages import STEPS
from worker.core.threads import jitter

disable_created_metrics()  # type: ignore[no-untyped-call]

# From a photo's download to a model on a CPU.
SECONDS = (0.1, 0.3, 1, 3, 10, 20, 30, 60, 120, 300, 600, 1800)
OUTCOMES = ("completed", "cancelled", "released", "lost")

CLAIMS = Counter("modelworker_claims", "Jobs claimed.", ["device"])
JOBS = Counter(
    "modelworker_jobs",
    "Attempts that ended, by outcome: completed, failed, retry_scheduled (it will be tried again), cancelled, released, lost.",
    ["outcome", "code"],
)
STEP = Histogram("modelworker_step_seconds", "How long a step of an attempt took.", ["step"], buckets=SECONDS)
LEASES = Counter("modelworker_lease_renewals", "Leases renewed, by reports of progress too.")
RESCUES = Counter(
    "modelworker_rescues", "Jobs taken from workers that were lost, by what became of them.", ["status"]
)
WEBHOOKS = Counter("modelworker_webhooks", "Attempts to deliver an event.", ["outcome"])
CHILDREN = Counter(
    "modelworker_child_restarts", "Children started in the place of one that ended.", ["device"]
)
GPU_PEAK = Gauge("modelworker_gpu_memory_peak_bytes", "Of the last model that was made on it.", ["device"])
BUILD = Info("modelworker_build", "What runs here.")

LANE_SILENT = Gauge(
    "modelworker_lane_silent_seconds", "For how long a lane has owed a heartbeat.", ["device"]
)
LANE_READY = Gauge("modelworker_lane_ready", "Whether the lane has a child that can work.", ["device"])
ACCEPTING_JOBS = Gauge(
    "modelworker_accepting_jobs", "Whether jobs may be claimed: the store takes files, the disks have room."
)
DATABASE_UP = Gauge("modelworker_database_up", "Whether the database can be used.")
LISTENING = Gauge("modelworker_listening", "Whether notifications arrive; polling otherwise.")

QUEUE_JOBS = Gauge(
    "modelworker_queue_jobs",
    "Of the whole queue: due, scheduled (run_after lies ahead), running, stuck (its lease ran out and nobody took it).",
    ["state"],
)
QUEUE_OLDEST = Gauge(
    "modelworker_queue_oldest_seconds", "For how long the job has waited that is due longest."
)
OUTBOX = Gauge("modelworker_webhook_events", "Events of the whole queue: waiting, dead.", ["state"])
OUTBOX_LAG = Gauge("modelworker_webhook_events_oldest_seconds", "Since when the oldest event waits.")

# Series that exist from the start: the first increase of one that does not is not seen by rate().
for _outcome in OUTCOMES:
    JOBS.labels(_outcome, "")
for _code, _kind in ERRORS.items():
    JOBS.labels("failed", _code)
    if _kind.retryable:
        JOBS.labels("retry_scheduled", _code)
for _status in ("pending", "failed", "cancelled"):
    RESCUES.labels(_status)
for _outcome in ("delivered", "retry_scheduled", "dead"):
    WEBHOOKS.labels(_outcome)

log = structlog.get_logger()


def ended(outcome: str, code: str = "") -> None:
    """An attempt, and how."""
    JOBS.labels(outcome, code).inc()


def made(report: Mapping[str, Any], device: str) -> None:
    """What an attempt has cost, by its report. Parts of it are the child's word, so that only what we know is counted."""
    seconds = report.get("seconds")
    for step, took in seconds.items() if isinstance(seconds, dict) else ():
        if step in STEPS and isinstance(took, int | float):
            STEP.labels(step).observe(took)
    surface = report.get("surface")
    peak_mb = surface.get("peak_vram_mb") if isinstance(surface, dict) else None
    if isinstance(peak_mb, int | float):
        GPU_PEAK.labels(device).set(peak_mb * 2**20)


def scrape() -> bytes:
    """All of it, in Prometheus's text format."""
    return generate_latest(REGISTRY)


class QueueGauges:
    """The gauges of the queue as a whole, asked for only when somebody scrapes, and for all daemons by one of them.

    Whoever finds them old asks the database, whose answer goes out as a notification too: the other daemons hear it and
    have no need to ask. Where notifications do not arrive each daemon asks for itself, at the most every FRESH_S.
    """

    FRESH_S = 30.0, 60.0  # at random between these, so that mostly one daemon is the first

    def __init__(
        self, ask: Callable[[], Mapping[str, Any]], usable: Callable[[], bool], *, backend: bool
    ) -> None:
        """`usable` says whether the database can be asked, `backend` whether there is one that events wait for."""
        self._ask = ask
        self._usable = usable
        self._backend = backend
        self._lock = threading.Lock()
        self._old_at = float("-inf")  # time.monotonic()
        self._known_at = float("-inf")
        self._show({})

    def refresh(self) -> None:
        """Before a scrape. Unknown is NaN: no old figure looks like a new one."""
        with self._lock:
            if time.monotonic() < self._old_at:
                return
            # Not again at once if this fails.
            self._old_at = time.monotonic() + jitter(*self.FRESH_S)
            try:
                self._show(self._ask() if self._usable() else {})
            except SQLAlchemyError as error:
                log.warning("gauges_unknown", reason=one_line(error))
                self._show({})

    def heard(self, payload: str) -> None:
        """Another daemon has asked, or this one."""
        try:
            found = json.loads(payload)
            figures = {name: float(value) for name, value in found.items()}
        except (ValueError, TypeError, AttributeError):
            return
        with self._lock:
            self._old_at = time.monotonic() + jitter(*self.FRESH_S)
            self._show(figures)

    def _show(self, found: Mapping[str, Any]) -> None:
        def figure(name: str) -> float:
            return float(found.get(name, math.nan))

        for state in ("due", "scheduled", "running", "stuck"):
            QUEUE_JOBS.labels(state).set(figure(state))
        QUEUE_OLDEST.set(figure("oldest"))
        OUTBOX.labels("waiting").set(figure("events") if self._backend else 0)
        OUTBOX.labels("dead").set(figure("dead"))
        OUTBOX_LAG.set(figure("lag") if self._backend else 0)
