"""What systemd is told: ready, alive, stopping, and what we do now. Without it all of this is silent, but for one file.

The protocol is sd_notify(3): datagrams of `NAME=value` lines to the socket that NOTIFY_SOCKET names.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog

WATCHDOG_TIMEOUT_S = 90.0  # where no WatchdogSec says otherwise
EXTENSION_S = 120  # what a start or a stop that makes progress asks for, again and again
SPEAK_S = 5.0  # how often what has not changed is said

log = structlog.get_logger()


def notify(**fields: str | int) -> bool:
    """Tells the service manager, if there is one. False where it has no time to listen: say it again later."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return True
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    # A value ends with its line.
    message = "\n".join(f"{name}={str(value).replace(chr(10), ' ')}" for name, value in fields.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(message.encode(), address)
    except OSError:
        return False
    return True


def watchdog_timeout_s() -> float:
    """The unit's WatchdogSec, where it is meant for this process."""
    try:
        meant_for_us = int(os.environ.get("WATCHDOG_PID") or os.getpid()) == os.getpid()
        interval = int(os.environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return WATCHDOG_TIMEOUT_S
    return interval if meant_for_us and interval > 0 else WATCHDOG_TIMEOUT_S


def extending(name: str, progress: Callable[[int, int | None], None]) -> Callable[[int, int | None], None]:
    """`progress` of a download that a unit's ExecStartPre waits for: asks for more time as long as bytes come."""
    spoke_at = float("-inf")

    def tell(done: int, total: int | None) -> None:
        nonlocal spoke_at
        progress(done, total)
        if time.monotonic() - spoke_at >= SPEAK_S:
            spoke_at = time.monotonic()
            share = f" {100 * done // total} %" if total else ""
            notify(STATUS=f"fetching {name}{share}", EXTEND_TIMEOUT_USEC=EXTENSION_S * 1_000_000)

    return tell


class Heartbeat:
    """A thread's word that it lives. It beats wherever it loops, and says beforehand when it will be silent for longer."""

    def __init__(self) -> None:
        self.doing = "starting"
        self._silent_until = time.monotonic()

    def beat(self, doing: str | None = None, *, silent_s: float = 0) -> None:
        """`doing` is for people, and stays until it changes."""
        if doing is not None:
            self.doing = doing
        self._silent_until = time.monotonic() + silent_s

    def overdue_s(self) -> float:
        return time.monotonic() - self._silent_until


class Notifier:
    """Passes the lanes' word on, from the main thread: one that is frozen feeds nothing, nor does one of a frozen lane.

    A lane that is silent for WatchdogSec is frozen, and after as long again systemd ends the daemon.
    """

    def __init__(self, lanes: Mapping[str, Heartbeat], alive: Callable[[], None]) -> None:
        self.lanes = lanes
        self.alive = alive  # leaves the same word where there is no systemd: see Scratch.touch
        self.watchdog_timeout_s = watchdog_timeout_s()
        self._every_s = min(SPEAK_S, self.watchdog_timeout_s / 4)
        self._spoke_at = float("-inf")
        self._said: dict[str, str | int] = {}
        self._frozen: list[str] = []

    def tick(self, *, ready: bool, stopping: bool) -> None:
        """Call it often; it speaks when something has changed, and otherwise rarely."""
        news = self._news(ready=ready, stopping=stopping)
        if news == self._said and time.monotonic() - self._spoke_at < self._every_s:
            return
        fields = {name: value for name, value in news.items() if self._said.get(name) != value}
        if not self._frozen:
            self.alive()
            fields["WATCHDOG"] = 1
            if stopping or not ready:
                fields["EXTEND_TIMEOUT_USEC"] = EXTENSION_S * 1_000_000
        if not fields or notify(**fields):
            self._said = news
        self._spoke_at = time.monotonic()

    def _news(self, *, ready: bool, stopping: bool) -> dict[str, str | int]:
        frozen = [device for device, lane in self.lanes.items() if lane.overdue_s() > self.watchdog_timeout_s]
        if frozen and frozen != self._frozen:
            log.error("lane_frozen", devices=frozen, doing=[self.lanes[device].doing for device in frozen])
        self._frozen = frozen
        doing = "; ".join(
            f"{device}: {'frozen, ' if device in frozen else ''}{lane.doing}"
            for device, lane in self.lanes.items()
        )
        news: dict[str, str | int] = {"STATUS": f"stopping; {doing}" if stopping else doing}
        if ready:
            news["READY"] = 1
        if stopping:
            news["STOPPING"] = 1
        return news
