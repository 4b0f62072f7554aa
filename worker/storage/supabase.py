"""The bucket, through supabase-py."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import structlog
import tenacity
from storage3.exceptions import StorageApiError
from storage3.types import BaseBucket
from supabase import Client, ClientOptions, create_client
from supabase.client import SupabaseException

from worker.core.errors import JobError
from worker.core.finding import Finding, Level
from worker.core.settings import ConfigError
from worker.storage import CONTENT_TYPES, bucket_checks, version
from worker.weights.transfer import file_digest

TRIES = 6
RETRY_S = 180  # no try begins later than this after the first
TICK_S = 0.25  # how often a wait between tries calls `check`
YEAR_S = 31_536_000
PAGE = 1000  # names in one answer
BATCH = 100  # files in one removal

# The errors of a request. ValueError and KeyError: something that is not the storage answered with 200.
REQUEST_ERRORS = (StorageApiError, httpx.HTTPError, ValueError, KeyError)

log = structlog.get_logger()

T = TypeVar("T")
Check = Callable[[], None]


def _nothing() -> None:
    """Never stop."""


class SupabaseStore:
    """A store in a Supabase bucket.

    Args:
        url: the project's.
        key: its service key.
        bucket: the bucket's name.
        signed_url_s: for a private bucket: the seconds for which its signed URLs are valid.
        timeout_s: seconds without progress after which a request is tried again.
        wait_s: the unit of the waits between tries, seconds.

    Raises: ConfigError.
    """

    def __init__(
        self,
        url: str,
        key: str,
        bucket: str,
        *,
        signed_url_s: int | None = None,
        timeout_s: float = 60,
        wait_s: float = 1,
    ) -> None:
        # HTTP/1.1: the default client's HTTP/2 connections go stale between uploads that are minutes apart.
        # The read timeout also covers bytes that are still in the socket's buffer after the last write.
        client = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=10), follow_redirects=True, http2=False
        )
        try:
            supabase: Client = create_client(
                url, bucket_checks.validate_key(key), options=ClientOptions(httpx_client=client)
            )
        except (SupabaseException, ValueError) as error:
            raise ConfigError(f"SUPABASE_URL or SUPABASE_SERVICE_ROLE_KEY is malformed: {error}") from None
        self.storage = supabase.storage
        self.bucket = supabase.storage.from_(bucket)
        self.signed_url_s = signed_url_s
        self.wait_s = wait_s
        self._limit: int | None = None  # bytes
        self._knows_limit = False
        # The same name each time, so that the next check removes a file that a failed one left behind.
        self._probe = f"worker-check/{uuid4()}.glb"

    def put(self, path: str, file: Path, content_type: str, check: Check = _nothing) -> str:
        """Upload a file, with up to six tries in three minutes. As `Store.put`."""
        size, digest = file.stat().st_size, file_digest(file)
        if self._too_large(size):
            raise JobError("storage_too_large")
        options: dict[str, Any] = {
            "content-type": content_type,
            # The URL changes with the content, so a cached copy is never outdated.
            "cache-control": str(YEAR_S),
            "upsert": "true",
            "metadata": {"sha256": digest},
        }
        sent = False

        def send() -> None:
            nonlocal sent
            # Perhaps only the answer was lost. If not, an upsert can be repeated.
            if sent and self._holds(path, size, digest):
                return
            sent = True
            self.bucket.upload(path, file, options)  # type: ignore[arg-type]

        self._retrying(send, check)
        if self.signed_url_s is None:
            return f"{self.bucket.get_public_url(path).rstrip('?')}?v={version(digest)}"
        lifetime = self.signed_url_s
        signed = self._retrying(lambda: self.bucket.create_signed_url(path, lifetime), check)
        return f"{signed['signedUrl']}&v={version(digest)}"

    def find(self, stem: str) -> list[str]:
        """List the stem's files, a page of names at a time. As `Store.find`."""
        folder, _, name = stem.rpartition("/")
        own = [
            path
            for path, is_file in self._list(folder, search=f"{name}.")
            if is_file and path.rpartition("/")[2].startswith(f"{name}.")
        ]
        return own + list(self._below(stem))

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files in batches. As `Store.remove`."""
        for first in range(0, len(paths), BATCH):
            batch = list(paths[first : first + BATCH])
            self._retrying(lambda batch=batch: self.bucket.remove(batch))  # type: ignore[misc]

    def check(self) -> list[Finding]:
        """Check the bucket's properties, then upload and remove a small file. As `Store.check`."""
        try:
            bucket = self._ask()
            findings = list(bucket_checks.check_bucket(bucket, signed=self.signed_url_s is not None))
            if any(finding.level is Level.FAIL for finding in findings):
                return findings
            self.bucket.upload(
                self._probe, b"probe", {"content-type": CONTENT_TYPES[".glb"], "upsert": "true"}
            )
            self.bucket.remove([self._probe])
        except REQUEST_ERRORS as error:
            return [bucket_checks.explain_error(error, self.bucket.id)]
        return findings

    def _retrying(self, act: Callable[[], T], check: Check = _nothing) -> T:
        """Call `act` until it succeeds or no retry can help. Raises: JobError `storage_…`, and what `check` raises."""

        def check_and_act() -> T:
            check()
            return act()

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: bucket_checks.is_retryable(error) or isinstance(error, (ValueError, KeyError))
            ),
            stop=tenacity.stop_after_attempt(TRIES) | tenacity.stop_after_delay(RETRY_S),
            wait=tenacity.wait_random_exponential(multiplier=self.wait_s, max=15 * self.wait_s),
            sleep=lambda seconds: _sleep(seconds, check),
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            return retrying(check_and_act)
        except REQUEST_ERRORS as error:
            code = _code(error)
            log.error(code, reason=bucket_checks.reason(error))  # noqa: TRY400 - the reason is enough
            raise JobError(code) from error

    def _holds(self, path: str, size: int, digest: str) -> bool:
        """True if exactly these bytes are stored there already. False if that cannot be found out."""
        try:
            info = self.bucket.info(path)
        except REQUEST_ERRORS:
            return False
        return info.get("size") == size and (info.get("metadata") or {}).get("sha256") == digest

    def _too_large(self, size: int) -> bool:
        """Compare with the bucket's limit. The project's limit cannot be read: the server enforces it."""
        # Read a limit again before it refuses a file: it may have been raised.
        if not self._knows_limit or (self._limit is not None and size > self._limit):
            try:
                self._ask()
            except REQUEST_ERRORS:
                return False
        return self._limit is not None and size > self._limit

    def _ask(self) -> BaseBucket:
        bucket = self.storage.get_bucket(self.bucket.id)
        self._limit, self._knows_limit = bucket.file_size_limit, True
        return bucket

    def _below(self, folder: str) -> Iterator[str]:
        for path, is_file in self._list(folder):
            if is_file:
                yield path
            else:
                yield from self._below(path)

    def _list(self, folder: str, search: str = "") -> list[tuple[str, bool]]:
        """List a folder's entries as (path, is a file). The server may match more than `search`."""
        entries: list[tuple[str, bool]] = []
        while True:
            options: dict[str, Any] = {"limit": PAGE, "offset": len(entries), "search": search}
            page = self._retrying(lambda options=options: self.bucket.list(folder, options))  # type: ignore[misc]
            entries += [
                (f"{folder}/{entry['name']}" if folder else entry["name"], entry["id"] is not None)
                for entry in page
            ]
            if len(page) < PAGE:
                return entries


def _code(error: BaseException) -> str:
    if not isinstance(error, StorageApiError) or bucket_checks.is_retryable(error):
        return "storage_unavailable"
    match bucket_checks.status(error):
        case 401 | 402 | 403 | 404:  # the key, the project or the bucket, not this file
            return "storage_denied"
        case 413:
            return "storage_too_large"
    return "storage_refused"


def _sleep(seconds: float, check: Check) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check()
        time.sleep(min(left, TICK_S))


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning(
        "storage_retry", reason=bucket_checks.reason(error or Exception()), tries=state.attempt_number
    )
