"""Read responses whose headers break the rules as browsers read them.

h11, on which httpcore and httpx are built, refuses a whole response for one header line that it cannot parse, such as the
`X Cache: HIT` of some proxies. RFC 9112, section 5.1, forbids such names; browsers skip the line.
"""

import re
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

MAX_HEAD = 64 * 1024  # bytes; h11 gets a longer head as it is, and refuses it
_END = re.compile(rb"\r?\n\r?\n")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:")  # RFC 9110, section 5.6.2
_INTERIM = re.compile(rb"HTTP/1\.\d 1(?!01)\d\d")  # all but 101, which ends HTTP on the connection


def drop_bad_lines(head: bytes) -> bytes:
    """Remove the header lines whose name is not a token, with their continuation lines. The status line stays."""
    status, *lines = head.splitlines(keepends=True)
    kept, good = [status], True
    for line in lines:
        if not line.startswith((b" ", b"\t")):  # else it continues the line before it
            good = not line.strip() or _FIELD.match(line) is not None
        if good:
            kept.append(line)
    return b"".join(kept)


class _Head:
    """The head of a response, while it is received."""

    def __init__(self) -> None:
        self._received = b""

    def add(self, more: bytes) -> bytes | None:
        """Add what was read; nothing at the connection's end. Returns what h11 gets, or None while the head is incomplete."""
        self._received += more
        while (end := _END.search(self._received)) and _INTERIM.match(self._received):
            self._received = self._received[end.end() :]  # `103 Early Hints` and others, before the response
        if end:
            return drop_bad_lines(self._received[: end.end()]) + self._received[end.end() :]
        return self._received if not more or len(self._received) >= MAX_HEAD else None


class TolerantNetwork(httpcore.AsyncNetworkBackend):
    """Connect through another backend, and drop the header lines that break the rules from responses."""

    def __init__(self, network: httpcore.AsyncNetworkBackend) -> None:
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect through the other backend. Raises: its errors."""
        return _Stream(await self._network.connect_tcp(host, port, timeout, local_address, socket_options))


class _Stream(httpcore.AsyncNetworkStream):
    """A connection. After each write it expects the head of a response. Bodies pass unchanged."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._head: _Head | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        if self._head is None:
            return await self._stream.read(max_bytes, timeout)
        while (got := self._head.add(await self._stream.read(max_bytes, timeout))) is None:
            pass
        self._head = None
        return got

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._head = _Head()
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class TolerantSyncNetwork(httpcore.NetworkBackend):
    """As TolerantNetwork, for clients without an event loop."""

    def __init__(self, network: httpcore.NetworkBackend) -> None:
        self._network = network

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect through the other backend. Raises: its errors."""
        return _SyncStream(self._network.connect_tcp(host, port, timeout, local_address, socket_options))


class _SyncStream(httpcore.NetworkStream):
    """As _Stream."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._head: _Head | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._head is None:
            return self._stream.read(max_bytes, timeout)
        while (got := self._head.add(self._stream.read(max_bytes, timeout))) is None:
            pass
        self._head = None
        return got

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._head = _Head()
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _SyncStream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
