"""Holds a piece of file work, a publication say, that one daemon has taken: its lease is renewed while the work goes on."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sqlalchemy.exc import DBAPIError

from worker.core import threads


class TakenOver(Exception):
    """Another daemon has the work or may have it, or there is nothing left to do."""


class Stopped(Exception):
    """The daemon ends. Another one, or this one at its next start, does the work."""


class Hold:
    """A context in which the work is ours, unless `check` or `renew` says otherwise."""

    def __init__(self, renew: Callable[[], bool], lease_s: float, check: Callable[[], None]) -> None:
        """`renew` extends the lease to `lease_s` seconds from now and returns False if it is lost. `check` raises what must end
        the work for another reason.
        """
        self._renew = renew
        self._lease_s = lease_s
        self._check = check
        self._lost = False
        self._held_since = time.monotonic()
        self._done = threading.Event()

    def __enter__(self) -> Self:
        """Start the renewals. Raises: RuntimeError if no thread can be started."""
        threads.start_thread(self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()

    def check(self) -> None:
        """Raises: TakenOver if the lease is lost, and what ends the work for another reason."""
        if self._lost or time.monotonic() - self._held_since > self._lease_s:
            raise TakenOver
        self._check()

    def renew(self) -> None:
        """Extend the lease now. Raises: TakenOver; sqlalchemy's DBAPIError."""
        began = time.monotonic()  # nobody knows when after it the database read its clock
        if not self._renew():
            self._lost = True
            raise TakenOver
        self._held_since = began
        self._check()

    def _keep(self) -> None:
        while not self._done.wait(self._lease_s / 3):
            try:
                self.renew()
            except DBAPIError:
                continue  # the monitor logs an outage; a long one costs the lease
            except Exception:  # noqa: BLE001 - the thread that works meets it in its next check
                return
