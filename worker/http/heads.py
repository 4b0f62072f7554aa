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
        self._in_head = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        if not self._in_head:
            return await self._stream.read(max_bytes, timeout)
        head = b""
        while not (end := _END.search(head)) and len(head) < MAX_HEAD:
            if not (more := await self._stream.read(max_bytes, timeout)):
                return head
            head += more
            while (end := _END.search(head)) and _INTERIM.match(head):
                head = head[end.end() :]  # `103 Early Hints` and others, before the response
        self._in_head = False
        return drop_bad_lines(head[: end.end()]) + head[end.end() :] if end else head

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._in_head = True
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
