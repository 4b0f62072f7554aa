"""Tells systemd that the daemon is ready, alive or stopping, and what it does now. If there is no systemd, only a file is touched.

The protocol is sd_notify(3): datagrams of `NAME=value` lines to the socket that NOTIFY_SOCKET names.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog

WATCHDOG_TIMEOUT_S = 90.0  # if the unit sets no WatchdogSec
EXTENSION_S = 120  # the time that a start or stop asks for, again and again while it makes progress
REPEAT_S = 5.0  # between two messages with nothing new

log = structlog.get_logger()


def notify(**fields: str | int) -> bool:
    """Send fields to the service manager, if there is one. False if it is too busy: send them again later."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return True
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    # A newline would end the value and begin another field.
    message = "\n".join(f"{name}={str(value).replace(chr(10), ' ')}" for name, value in fields.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(message.encode(), address)
    except OSError:
        return False
    return True


def watchdog_timeout_s() -> float:
    """Return the unit's WatchdogSec in seconds if it is meant for this process, else WATCHDOG_TIMEOUT_S."""
    try:
        meant_for_us = int(os.environ.get("WATCHDOG_PID") or os.getpid()) == os.getpid()
        interval = int(os.environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return WATCHDOG_TIMEOUT_S
    return interval if meant_for_us and interval > 0 else WATCHDOG_TIMEOUT_S


def extending(name: str, progress: Callable[[int, int | None], None]) -> Callable[[int, int | None], None]:
    """Wrap the progress callback of a download in a unit's ExecStartPre: ask systemd for more time while bytes arrive."""
    sent_at = float("-inf")

    def tell(done: int, total: int | None) -> None:
        nonlocal sent_at
        progress(done, total)
        if time.monotonic() - sent_at >= REPEAT_S:
            sent_at = time.monotonic()
            share = f" {100 * done // total} %" if total else ""
            notify(STATUS=f"fetching {name}{share}", EXTEND_TIMEOUT_USEC=EXTENSION_S * 1_000_000)

    return tell


class Heartbeat:
    """Shows that a thread lives. It beats in each loop, and announces beforehand when it will be silent for longer."""

    def __init__(self) -> None:
        self.doing = "starting"
        self._silent_until = time.monotonic()

    def beat(self, doing: str | None = None, *, silent_s: float = 0) -> None:
        """Beat, and announce up to `silent_s` seconds of silence. `doing` is for people and stays until it changes."""
        if doing is not None:
            self.doing = doing
        self._silent_until = time.monotonic() + silent_s

    def overdue_s(self) -> float:
        """Return the seconds since the next beat was due; below 0 during announced silence."""
        return time.monotonic() - self._silent_until


class Notifier:
    """Feeds systemd's watchdog from the main thread, as long as that and every lane live.

    A lane that is silent for WatchdogSec longer than it announced is frozen. Then nothing is sent, and after another
    WatchdogSec systemd ends the daemon.
    """

    def __init__(self, lanes: Mapping[str, Heartbeat], alive: Callable[[], None]) -> None:
        self.lanes = lanes
        self.alive = alive  # shows the same to a container's health check: see Scratch.touch
        self.watchdog_timeout_s = watchdog_timeout_s()
        self._every_s = min(REPEAT_S, self.watchdog_timeout_s / 4)
        self._sent_at = float("-inf")
        self._sent: dict[str, str | int] = {}
        self._frozen: list[str] = []

    def tick(self, *, ready: bool, stopping: bool) -> None:
        """Send what has changed; what has not, every few seconds. Call it often."""
        news = self._news(ready=ready, stopping=stopping)
        if news == self._sent and time.monotonic() - self._sent_at < self._every_s:
            return
        fields = {name: value for name, value in news.items() if self._sent.get(name) != value}
        if not self._frozen:
            self.alive()
            fields["WATCHDOG"] = 1
            if stopping or not ready:
                fields["EXTEND_TIMEOUT_USEC"] = EXTENSION_S * 1_000_000
        if not fields or notify(**fields):
            self._sent = news
        self._sent_at = time.monotonic()

    def _news(self, *, ready: bool, stopping: bool) -> dict[str, str | int]:
        frozen = [name for name, lane in self.lanes.items() if lane.overdue_s() > self.watchdog_timeout_s]
        if frozen and frozen != self._frozen:
            log.error("lane_frozen", lanes=frozen, doing=[self.lanes[name].doing for name in frozen])
        self._frozen = frozen
        doing = "; ".join(
            f"{name}: {'frozen, ' if name in frozen else ''}{lane.doing}" for name, lane in self.lanes.items()
        )
        news: dict[str, str | int] = {"STATUS": f"stopping; {doing}" if stopping else doing}
        if ready:
            news["READY"] = 1
        if stopping:
            news["STOPPING"] = 1
        return news
