"""A photo's URL → its bytes in a file, within limits of size and time that no server can stretch."""

import asyncio
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from worker.errors import JobError

MOST_BYTES = 20_000_000
TOTAL_S = 30.0
CONNECT_S = 5.0
READ_S = 10.0
REDIRECTS = 3
TRIES = 3
PAUSE_S = 0.5  # doubled with each try
RETRY_AFTER_S = 5.0  # a server may ask for at most this; the job's own retry comes later anyway


class _Unanswered(JobError):
    """A failure that another try may mend, with the pause that the server asked for."""

    def __init__(self, message: str | None = None, *, after: float = 0.0) -> None:
        super().__init__("photo_unreachable", message)
        self.after = after


def download(
    url: str,
    target: Path,
    *,
    most_bytes: int = MOST_BYTES,
    total_s: float = TOTAL_S,
    connect_s: float = CONNECT_S,
    read_s: float = READ_S,
    pause_s: float = PAUSE_S,
    retry_after_s: float = RETRY_AFTER_S,
) -> int:
    """Write the photo behind a URL to a file; the number of its bytes. The file appears only when all is there.

    Three tries at what can mend itself, all of them within `total_s`. Must not be called inside an event loop.

    Raises: JobError `photo_url_refused`, `photo_not_found`, `photo_forbidden`, `photo_too_large`,
    `photo_unreachable`; OSError when the file cannot be written.
    """

    def pause(state: RetryCallState) -> float:
        error = state.outcome and state.outcome.exception()
        asked = error.after if isinstance(error, _Unanswered) else 0.0
        return max(pause_s * 2.0 ** (state.attempt_number - 1), min(asked, retry_after_s))

    async def tries() -> bytes:
        timeout = httpx.Timeout(read_s, connect=connect_s)
        # One deadline around all of it: name look-up, handshakes, headers and pauses can be drawn out as well as
        # the body, and httpx's own limits hold for a single read.
        async with asyncio.timeout(total_s), _client(timeout) as client:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(TRIES),
                retry=retry_if_exception(lambda error: isinstance(error, _Unanswered)),
                wait=pause,
                reraise=True,
            ):
                with attempt:
                    return await _fetch(client, url, most_bytes)
        raise AssertionError  # the retrying either returns or raises

    try:
        content = asyncio.run(tries())
    except TimeoutError as error:
        raise JobError(
            "photo_unreachable", f"The photo did not arrive within {total_s:g} seconds."
        ) from error
    target.write_bytes(content)
    return len(content)


def _client(timeout: httpx.Timeout) -> httpx.AsyncClient:
    """The client of one download. A transport that decides which addresses may be connected to belongs here."""
    return httpx.AsyncClient(
        timeout=timeout,
        verify=_certificates(),
        trust_env=False,  # a proxy or .netrc of this host is none of a shop's business
        headers={
            "Accept": "image/avif,image/webp,image/png,image/jpeg",
            "Accept-Encoding": "identity",
            "User-Agent": "shop-model-worker",
        },
    )


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context(
        trust_env=False
    )  # reading all authorities takes longer than a small photo


async def _fetch(client: httpx.AsyncClient, url: str, most_bytes: int) -> bytes:
    """One try, with its redirects. Every address is checked, not only the first."""
    address = _checked(url)
    try:
        for _ in range(REDIRECTS + 1):
            async with client.stream("GET", address) as response:
                if not response.has_redirect_location:
                    _check_status(response)
                    return await _body(response, most_bytes)
                location = response.headers["location"]
            address = _checked(location, base=address)
    except httpx.TimeoutException as error:
        raise _Unanswered("The photo's server did not answer in time.") from error
    except httpx.TransportError as error:
        raise _Unanswered from error
    except httpx.InvalidURL as error:  # httpx looks at a redirect before we do
        raise JobError("photo_url_refused") from error
    raise JobError("photo_url_refused", f"The photo's address leads on more than {REDIRECTS} times.")


def _checked(url: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        address = httpx.URL(url)
        if base is not None:
            address = base.join(address)
        # The socket would refuse these names only later, and with a UnicodeError.
        address.host.encode("idna")
    except (httpx.InvalidURL, ValueError) as error:
        raise JobError("photo_url_refused") from error
    if address.scheme not in ("http", "https") or not address.host or (address.port or 0) > 65535:
        raise JobError("photo_url_refused")
    return address


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status == httpx.codes.OK:
        return
    if status in (401, 402, 403, 407, 451):
        raise JobError("photo_forbidden")
    if status in (408, 425, 429) or status >= 500:
        raise _Unanswered(
            f"The photo's server answered with the error {status}.", after=_retry_after(response)
        )
    raise JobError("photo_not_found")


def _retry_after(response: httpx.Response) -> float:
    """Seconds; the header holds a number or a date."""
    value = response.headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError, TypeError):  # TypeError: a date without a zone
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    return 0.0


async def _body(response: httpx.Response, most_bytes: int) -> bytes:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        # It was not asked for, and unpacking is how a few bytes become gigabytes.
        raise JobError("photo_url_refused", "The photo's server sends it compressed, which is not accepted.")
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most_bytes:
        raise _too_large(most_bytes)
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > most_bytes:
            raise _too_large(most_bytes)
    return bytes(content)


def _too_large(most_bytes: int) -> JobError:
    return JobError(
        "photo_too_large", f"The photo's file is too large. Use one below {most_bytes / 1e6:g} MB."
    )
