"""The URLs from which photos may be downloaded. Photo URLs are untrusted input, and fetching one must not reach a private network.

A URL is checked twice: as it is written (`validate_url`), and when a connection is made (`PinnedNetwork`), which resolves
the host once, checks every IP address, and connects to exactly these addresses.
"""

import asyncio
import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import httpcore
import httpx

from worker.core.errors import JobError

Resolve = Callable[[str], list[str]]
"""A host's name → its IP addresses. Raises: OSError."""

PORTS = (80, 443)
MAX_ADDRESSES = 4  # of one host, tried in turn

# Networks without public servers, from IANA's registries of special-purpose addresses, and Azure's platform address, which
# looks like a public one.
_DENIED_4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's metadata and DNS
        "169.254.0.0/16",  # link-local; AWS's, Google's and Azure's metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
]
# All others are not public unicast: loopback, mapped and compatible IPv4, NAT64, ULA, link-local, site-local, multicast.
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_DENIED_6 = [
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # 6bone
        "3fff::/20",  # documentation
    )
]

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
# Hosts that some resolvers read as an IP address although they are not written like one: 2130706433, 0x7f.1, 127.1.
_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The rules of the operator. A host is an exact name, `*.example.com` for all names below one, or `*` for any."""

    hosts: tuple[str, ...]
    http: bool = False
    loopback: bool = False
    """Also allow `localhost`, 127.0.0.0/8 and [::1], written so, with http and any port. For development."""


def validate_url(url: str, policy: Policy, base: httpx.URL | None = None) -> httpx.URL:
    """Check a URL as it is written, and return it, made absolute with `base`.

    Raises: JobError `photo_url_refused`, `photo_host_refused`.
    """
    try:
        parsed = httpx.URL(url)
        if base is not None:
            parsed = base.join(parsed)
        host = _host(parsed)
    except (httpx.InvalidURL, ValueError) as error:
        raise JobError("photo_url_refused") from error
    if parsed.scheme not in ("http", "https") or parsed.userinfo:
        raise JobError("photo_url_refused")
    if policy.loopback and _is_loopback(host):
        return parsed
    if parsed.scheme == "http" and not policy.http:
        raise JobError("photo_url_refused", "The photo's URL must begin with https://.")
    if parsed.port not in (None, *PORTS):
        raise JobError("photo_url_refused", "The photo's URL names a port other than 80 and 443.")
    if not any(_matches(host, pattern) for pattern in policy.hosts):
        raise JobError("photo_host_refused")
    return parsed


def is_public(address: str) -> bool:
    """True if an IP address belongs to the public internet. Raises: ValueError if it is no IP address."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _DENIED_4)
    return ip.scope_id is None and ip in _GLOBAL_6 and not any(ip in network for network in _DENIED_6)


def resolve(host: str) -> list[str]:
    """Look up a host's IP addresses with the system's resolver. Raises: OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class PinnedNetwork(httpcore.AsyncNetworkBackend):
    """Connect to the IP addresses of a host if all of them are public. TLS and HTTP still use the host's name."""

    def __init__(self, policy: Policy, resolve: Resolve = resolve) -> None:
        self._policy = policy
        self._resolve = resolve
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers. Raises: JobError `photo_host_refused`; httpcore's errors."""
        end = time.monotonic() + (timeout or 0.0)
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._addresses(host)
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError from error
        for tries_left in range(len(addresses), 0, -1):
            # An address that does not answer must leave time for the others.
            share = max(0.0, end - time.monotonic()) / tries_left if timeout else None
            try:
                return await self._network.connect_tcp(
                    addresses[-tries_left], port, share, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if tries_left == 1:
                    raise
        raise httpcore.ConnectError

    async def _addresses(self, host: str) -> list[str]:
        addresses = [host] if _is_ip(host) else await _in_thread(self._resolve, host)
        if self._policy.loopback and _is_loopback(host):
            good = [address for address in addresses if _is_loopback(address)]
        else:
            good = [address for address in addresses if is_public(address)]
        if len(good) < len(addresses):  # a host with public and private addresses is an attack, not a mistake
            raise JobError("photo_host_refused")
        return good[:MAX_ADDRESSES]


async def _in_thread(resolve: Resolve, host: str) -> list[str]:
    """Resolve in a daemon thread: the look-up cannot be interrupted, and Python would wait for a pool's thread at its end."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def settle(found: list[str] | OSError | UnicodeError) -> None:
        if answer.done():
            return
        if isinstance(found, list):
            answer.set_result(found)
        else:
            answer.set_exception(found)

    def look_up() -> None:
        found: list[str] | OSError | UnicodeError
        try:
            found = resolve(host)
        except (OSError, UnicodeError) as error:
            found = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    return await answer


def _host(url: httpx.URL) -> str:
    """Return the host in ASCII, the last dot removed. Raises: ValueError if it is no host, or an IP address in disguise."""
    host = url.raw_host.decode("ascii").lower()
    if _is_ip(host):
        return host
    if not _HOST.fullmatch(host) or _NUMBER.fullmatch(host):
        raise ValueError
    host.encode("idna")  # raises for a name that is too long; the socket would do so only later
    return host.removesuffix(".")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or (_is_ip(host) and host.startswith("127."))


def _matches(host: str, pattern: str) -> bool:
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))
