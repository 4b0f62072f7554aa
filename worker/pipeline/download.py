"""A photo's URL → its bytes in a file, within limits of size and time that hold whatever the server does."""

import asyncio
from pathlib import Path

import httpcore
import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from worker.core.errors import JobError, is_retryable_status, parse_retry_after
from worker.http.clients import authorities
from worker.http.heads import TolerantNetwork
from worker.pipeline import address
from worker.pipeline.address import Policy, Resolve

MAX_BYTES = 20_000_000
TOTAL_S = 30.0  # for all tries, pauses included
CONNECT_S = 5.0
READ_S = 10.0
REDIRECTS = 3
TRIES = 3
PAUSE_S = 0.5  # doubled with each try
# Of the content codings that IANA lists, those that compress.
COMPRESSIONS = {"gzip", "x-gzip", "compress", "x-compress", "deflate", "br", "zstd", "dcb", "dcz"}
REDIRECTING = (301, 302, 303, 307, 308)
HEADERS = [
    (b"Accept", b"image/avif,image/webp,image/png,image/jpeg"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", b"shop-model-worker"),
]
RETRY_AFTER_S = 5.0  # the longest pause that a server may ask for; a longer one is for the job's own retry


class _Unanswered(JobError):
    """A failure after which another try may succeed; `after` is the pause in seconds that the server asked for."""

    def __init__(self, message: str | None = None, *, after: float = 0.0) -> None:
        super().__init__("photo_unreachable", message)
        self.after = after


def download(
    url: str,
    target: Path,
    policy: Policy,
    *,
    resolve: Resolve = address.resolve,
    max_bytes: int = MAX_BYTES,
    total_s: float = TOTAL_S,
    connect_s: float = CONNECT_S,
    read_s: float = READ_S,
    pause_s: float = PAUSE_S,
    longest_retry_after_s: float = RETRY_AFTER_S,
) -> int:
    """Download the photo of a URL into a file. Return the number of bytes. The file appears only once all bytes are there.

    Temporary failures are tried three times, all within `total_s` seconds. Do not call this in an event loop.

    Raises:
        JobError: `photo_url_refused`, `photo_host_refused`, `photo_not_found`, `photo_forbidden`, `photo_too_large`,
            `photo_unreachable`, `photo_too_slow`.
        OSError: the file cannot be written.
    """

    def pause(state: RetryCallState) -> float:
        error = state.outcome and state.outcome.exception()
        asked = error.after if isinstance(error, _Unanswered) else 0.0
        return max(pause_s * 2.0 ** (state.attempt_number - 1), min(asked, longest_retry_after_s))

    async def tries() -> bytearray:
        # One deadline for everything: a server can delay the look-up, handshakes, headers and pauses as well as the body,
        # and the other limits are for a single read.
        timeouts = {"connect": connect_s, "read": read_s, "write": read_s}
        async with asyncio.timeout(total_s), _connections(policy, resolve) as connections:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(TRIES),
                retry=retry_if_exception(lambda error: isinstance(error, _Unanswered)),
                wait=pause,
                reraise=True,
            ):
                with attempt:
                    return await _fetch(connections, url, policy, timeouts, max_bytes)
        raise AssertionError  # the retrying either returns or raises

    try:
        content = asyncio.run(tries())
    except TimeoutError as error:
        raise JobError("photo_too_slow", f"The photo did not arrive within {total_s:.0f} seconds.") from error
    try:
        target.write_bytes(content)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return len(content)


def _connections(policy: Policy, resolve: Resolve) -> httpcore.AsyncConnectionPool:
    """Open the pool of one download. It is httpcore's, which has no proxies, cookies or redirects, and logs no URLs."""
    return httpcore.AsyncConnectionPool(
        ssl_context=authorities(),
        network_backend=TolerantNetwork(address.PinnedNetwork(policy, resolve)),
    )


async def _fetch(
    connections: httpcore.AsyncConnectionPool,
    url: str,
    policy: Policy,
    timeouts: dict[str, float],
    max_bytes: int,
) -> bytearray:
    """Try once, and follow redirects. Each URL is checked, not only the first."""
    target = address.validate_url(url, policy)
    try:
        for _ in range(REDIRECTS + 1):
            async with connections.stream(
                "GET",
                httpcore.URL(
                    scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
                ),
                headers=[(b"Host", target.netloc), *HEADERS],
                extensions={"timeout": timeouts},
            ) as response:
                headers = httpx.Headers(response.headers)
                if response.status not in REDIRECTING or "location" not in headers:
                    _check_status(response.status, headers)
                    return await _body(response, headers, max_bytes)
            target = address.validate_url(headers["location"], policy, base=target)
    except httpcore.TimeoutException as error:
        raise _Unanswered("The photo's server did not answer in time.") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise _Unanswered from error
    raise JobError("photo_url_refused", f"The photo's URL redirects more than {REDIRECTS} times.")


def _check_status(status: int, headers: httpx.Headers) -> None:
    if status in (200, 203):  # 203: a proxy changed the photo on its way
        return
    if status in (401, 402, 403, 407, 451):
        raise JobError("photo_forbidden")
    if is_retryable_status(status):
        raise _Unanswered(
            f"The photo's server answered with the error {status}.",
            after=parse_retry_after(headers.get("retry-after")) or 0.0,
        )
    raise JobError("photo_not_found")


async def _body(response: httpcore.Response, headers: httpx.Headers, max_bytes: int) -> bytearray:
    # Other values, such as `none`, `utf-8`, `aws-chunked` or nothing at all, name no compression; S3 stores what it is given.
    if COMPRESSIONS & set(headers.get("content-encoding", "").lower().replace(",", " ").split()):
        # We did not ask for compression, and unpacking could turn a few bytes into gigabytes.
        raise JobError("photo_url_refused", "The photo's server sends it compressed, which is not allowed.")
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    content = bytearray()
    async for chunk in response.aiter_stream():
        content += chunk
        if len(content) > max_bytes:
            raise _too_large(max_bytes)
    return content


def _too_large(max_bytes: int) -> JobError:
    return JobError(
        "photo_too_large", f"The photo's file is too large. Use one below {max_bytes / 1e6:g} MB."
    )
