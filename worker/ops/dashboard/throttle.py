"""Bound how fast wrong tokens are taken, so that nobody finds one by trying.

Each client may give CLIENT.burst wrong tokens at once, and after that one in CLIENT.every_s seconds; all clients together as ALL
says. What comes faster is refused unread. It does not count, so a client never waits longer than for one turn. Without any try,
the count falls back to zero.
"""

import ipaddress
from time import monotonic
from typing import NamedTuple


class Limit(NamedTuple):
    """So many at once, and then one each so many seconds."""

    burst: int
    every_s: float


CLIENT = Limit(10, 3)
ALL = Limit(100, 0.3)


class TooManyWrong(Exception):
    """So many wrong tokens were given that this one was not read. `wait_s`: seconds until the next one is."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"too many wrong tokens, next one in {wait_s:.1f} s")
        self.wait_s = wait_s


class WrongTokens:
    """Count the wrong tokens of each client and of all. For one thread."""

    def __init__(self) -> None:
        # When the last wrong token is forgotten, by client; "" is all clients together.
        self._until: dict[str, float] = {}

    def check(self, client: str) -> None:
        """Raise TooManyWrong if no token of this client may be read now."""
        now = monotonic()
        turns = (
            self._until.get(key, now) - (limit.burst - 1) * limit.every_s for key, limit in _limits(client)
        )
        if (wait_s := max(turns) - now) > 0:
            raise TooManyWrong(wait_s)

    def count(self, client: str) -> None:
        """Count a wrong token of this client."""
        now = monotonic()
        # ALL bounds how many clients are remembered.
        self._until = {key: until for key, until in self._until.items() if until > now}
        for key, limit in _limits(client):
            self._until[key] = self._until.get(key, now) + limit.every_s


def _limits(client: str) -> tuple[tuple[str, Limit], tuple[str, Limit]]:
    return (_network(client), CLIENT), ("", ALL)


def _network(client: str) -> str:
    """Return what counts as one client: an address, or the /64 of an IPv6 address, all of which one machine may use."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 4 or address.ipv4_mapped:
        return client
    return f"{int(address) >> 64:x}/64"
