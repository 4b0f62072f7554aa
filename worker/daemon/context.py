"""The objects that all lanes of a daemon share, and the state of the signals that end them."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy.engine import Engine

from worker.core.settings import Settings
from worker.daemon.admission import Admission
from worker.daemon.scratch import Scratch
from worker.database.monitor import DatabaseMonitor
from worker.storage import Store


@dataclass
class Stop:
    """The requests of the signals: claim no more jobs, and from a given moment on release those that still run."""

    draining: threading.Event = field(default_factory=threading.Event)
    release_at: float = float("inf")  # time.monotonic()

    def drain(self, grace_s: float) -> None:
        """Stop claiming now, and release running jobs after `grace_s` seconds; an earlier moment stays."""
        self.release_at = min(self.release_at, time.monotonic() + grace_s)
        self.draining.set()

    @property
    def requested(self) -> bool:
        """True once a signal asked the daemon to stop."""
        return self.release_at < float("inf")

    @property
    def releasing(self) -> bool:
        """True once running jobs must be released."""
        return time.monotonic() >= self.release_at


@dataclass(frozen=True, kw_only=True)
class LaneContext:
    """The objects that all lanes share."""

    settings: Settings
    engine: Engine
    store: Store
    admission: Admission
    scratch: Scratch
    monitor: DatabaseMonitor
    stop: Stop
    loading: threading.Lock = field(default_factory=threading.Lock)  # held while a child loads
    wake_sender: Callable[[], None]  # call it after writing an event
    wake_upkeep: Callable[[], None] = lambda: None  # call it after ending a job of a batch
    cancel_push_works: Callable[[], bool]  # true while a cancel request reaches `Lane.on_cancel`
