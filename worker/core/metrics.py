"""The Prometheus metrics: what this daemon has done since its start, how its lanes are, and the queue as a whole.

docs/monitoring.md explains each; a test compares it with this file.
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

# Buckets from a photo's download to a model on a CPU.
SECONDS = (0.1, 0.3, 1, 3, 10, 20, 30, 60, 120, 300, 600, 1800)
OUTCOMES = ("completed", "cancelled", "released", "lost")

CLAIMS = Counter("modelworker_claims", "Jobs claimed.", ["lane"])
JOBS = Counter(
    "modelworker_jobs",
    "Attempts that ended, by outcome: completed, failed, retry_scheduled (failed, will be retried), cancelled, released, lost.",
    ["outcome", "code"],
)
STEP = Histogram(
    "modelworker_step_seconds", "Seconds that a step of an attempt took.", ["step"], buckets=SECONDS
)
LEASES = Counter("modelworker_lease_renewals", "Lease renewals, including those by progress reports.")
RESCUES = Counter("modelworker_rescues", "Jobs rescued from lost workers, by their new status.", ["status"])
ERASURES = Counter(
    "modelworker_erasures",
    "Rounds of an erasure that ended: done, retry_scheduled after an error.",
    ["outcome"],
)
WEBHOOKS = Counter("modelworker_webhooks", "Attempts to deliver a webhook event.", ["outcome"])
PUBLICATIONS = Counter(
    "modelworker_publications",
    "Tries to publish a version: published, retry_scheduled, taken_over (by another daemon), released (at the daemon's end).",
    ["outcome"],
)
VERSIONS_REMOVED = Counter("modelworker_versions_removed", "Versions whose files were removed.")
CHILDREN = Counter(
    "modelworker_child_restarts", "Child processes started to replace one that ended.", ["lane"]
)
GPU_PEAK = Gauge("modelworker_gpu_memory_peak_bytes", "Peak GPU memory of the last model.", ["lane"])
BUILD = Info("modelworker_build", "Version, schema and engine of this daemon.")

LANE_SILENT = Gauge(
    "modelworker_lane_silent_seconds", "Seconds by which the lane's heartbeat is overdue.", ["lane"]
)
LANE_READY = Gauge("modelworker_lane_ready", "1 if the lane has a child that can work.", ["lane"])
PLACES = Gauge(
    "modelworker_device_places",
    "Lanes that may compute on the device at the same time; fewer than there are once its memory was short.",
    ["device"],
)
ACCEPTING_JOBS = Gauge(
    "modelworker_accepting_jobs", "1 if jobs may be claimed: the store takes files and the disks have room."
)
PAUSED = Gauge("modelworker_paused", "1 if the host is paused: it claims no jobs.")
DATABASE_UP = Gauge("modelworker_database_up", "1 if the last statement reached the database.")
LISTENING = Gauge("modelworker_listening", "1 if notifications arrive; the daemon polls otherwise.")

QUEUE_JOBS = Gauge(
    "modelworker_queue_jobs",
    "Jobs of the whole queue: due, scheduled (run_after lies ahead), running, stuck (the lease has expired), "
    "unserved (due, and no running host can take them), to_review (completed, the model waits for a person).",
    ["state"],
)
QUEUE_OLDEST = Gauge(
    "modelworker_queue_oldest_seconds", "Waiting time of the job that has been due the longest."
)
HOSTS = Gauge(
    "modelworker_hosts",
    "Hosts of the fleet: live, paused (also if stopped), gone (silent, not stopped).",
    ["state"],
)
FILES = Gauge(
    "modelworker_file_work",
    "Work on stored files of the whole queue that is not done: publish, remove (versions), erase (shops and products).",
    ["kind"],
)
OUTBOX = Gauge("modelworker_webhook_events", "Webhook events of the whole queue: waiting, dead.", ["state"])
OUTBOX_LAG = Gauge("modelworker_webhook_events_oldest_seconds", "Age of the oldest waiting event.")

# Series that exist from the start: rate() does not see the first increase of a series that appears with it.
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
for _outcome in ("published", "retry_scheduled", "taken_over", "released"):
    PUBLICATIONS.labels(_outcome)
for _outcome in ("done", "retry_scheduled"):
    ERASURES.labels(_outcome)

log = structlog.get_logger()


def ended(outcome: str, code: str = "") -> None:
    """Count an attempt that ended. `code` is the error code of a failed one."""
    JOBS.labels(outcome, code).inc()


def made(report: Mapping[str, Any], lane: str) -> None:
    """Count what an attempt cost, by its report. The child wrote parts of it, so unknown steps and wrong types are ignored."""
    seconds = report.get("seconds")
    for step, took in seconds.items() if isinstance(seconds, dict) else ():
        if step in STEPS and isinstance(took, int | float):
            STEP.labels(step).observe(took)
    surface = None if "cached" in report else report.get("surface")  # another job's
    peak_mb = surface.get("peak_vram_mb") if isinstance(surface, dict) else None
    if isinstance(peak_mb, int | float):
        GPU_PEAK.labels(lane).set(peak_mb * 2**20)


def scrape() -> bytes:
    """Return all metrics in Prometheus's text format."""
    return generate_latest(REGISTRY)


class QueueGauges:
    """The gauges of the whole queue. They are refreshed only by a scrape, and by one daemon for all.

    The daemon that finds them old asks the database, which sends the answer as a notification too: the other daemons take
    it from there. If notifications do not arrive, each daemon asks for itself, every FRESH_S at most.
    """

    FRESH_S = 30.0, 60.0  # at random between these, so that usually one daemon is first

    def __init__(
        self, ask: Callable[[], Mapping[str, Any]], available: Callable[[], bool], *, backend: bool
    ) -> None:
        """`ask` runs the statement, `available` returns True if the database can be asked. Without a `backend` no event counts as waiting."""
        self._ask = ask
        self._available = available
        self._backend = backend
        self._lock = threading.Lock()
        self._old_at = float("-inf")  # time.monotonic()
        self._known_at = float("-inf")
        self._show({})

    def refresh(self) -> None:
        """Bring the gauges up to date before a scrape. An unknown figure is NaN, so that no old one looks new."""
        with self._lock:
            if time.monotonic() < self._old_at:
                return
            # Set first, so that a failure is not repeated at once.
            self._old_at = time.monotonic() + jitter(*self.FRESH_S)
            try:
                self._show(self._ask() if self._available() else {})
            except SQLAlchemyError as error:
                log.warning("gauges_unknown", reason=one_line(error))
                self._show({})

    def heard(self, payload: str) -> None:
        """Take the figures from a notification: this daemon or another has asked."""
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

        for state in ("due", "scheduled", "running", "stuck", "unserved", "to_review"):
            QUEUE_JOBS.labels(state).set(figure(state))
        for state in ("live", "paused", "gone"):
            HOSTS.labels(state).set(figure(f"hosts_{state}"))
        for kind in ("publish", "remove", "erase"):
            FILES.labels(kind).set(figure(kind))
        QUEUE_OLDEST.set(figure("oldest"))
        OUTBOX.labels("waiting").set(figure("events") if self._backend else 0)
        OUTBOX.labels("dead").set(figure("dead"))
        OUTBOX_LAG.set(figure("lag") if self._backend else 0)
