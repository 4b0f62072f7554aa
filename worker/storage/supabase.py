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
PATIENCE_S = 180  # after so long no other try begins
TICK_S = 0.25  # how soon a wait between tries notices that it should end
YEAR_S = 31_536_000
PAGE = 1000  # names in one answer
BATCH = 100  # files in one removal

# What a request can end with; ValueError and KeyError where something else than the storage answered with a 200.
REQUEST_ERRORS = (StorageApiError, httpx.HTTPError, ValueError, KeyError)

log = structlog.get_logger()

T = TypeVar("T")
Check = Callable[[], None]


def _nothing() -> None:
    """Nobody wants to end it."""


class SupabaseStore:
    """`signed_url_s` is set for a private bucket: addresses are then signed, and valid for so many seconds."""

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
        # The read timeout covers what the socket's buffer still holds when the last byte is written.
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
        # One name, so that the next check removes what a failed one has left.
        self._probe = f"worker-check/{uuid4()}.glb"

    def put(self, path: str, file: Path, content_type: str, check: Check = _nothing) -> str:
        size, digest = file.stat().st_size, file_digest(file)
        if self._too_large(size):
            raise JobError("storage_too_large")
        options: dict[str, Any] = {
            "content-type": content_type,
            # The address changes with the content, so a copy in a cache is never out of date.
            "cache-control": str(YEAR_S),
            "upsert": "true",
            "metadata": {"sha256": digest},
        }
        sent = False

        def send() -> None:
            nonlocal sent
            # What failed may be the answer alone; and if not, an upsert may be repeated without harm.
            if sent and self._holds(path, size, digest):
                return
            sent = True
            self.bucket.upload(path, file, options)  # type: ignore[arg-type]

        self._patiently(send, check)
        if self.signed_url_s is None:
            return f"{self.bucket.get_public_url(path).rstrip('?')}?v={version(digest)}"
        lifetime = self.signed_url_s
        signed = self._patiently(lambda: self.bucket.create_signed_url(path, lifetime), check)
        return f"{signed['signedUrl']}&v={version(digest)}"

    def find(self, stem: str) -> list[str]:
        folder, _, name = stem.rpartition("/")
        own = [
            path
            for path, is_file in self._list(folder, search=f"{name}.")
            if is_file and path.rpartition("/")[2].startswith(f"{name}.")
        ]
        return own + list(self._below(stem))

    def remove(self, paths: Sequence[str]) -> None:
        for first in range(0, len(paths), BATCH):
            batch = list(paths[first : first + BATCH])
            self._patiently(lambda batch=batch: self.bucket.remove(batch))  # type: ignore[misc]

    def check(self) -> list[Finding]:
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

    def _patiently(self, act: Callable[[], T], check: Check = _nothing) -> T:
        """Raises: JobError `storage_…`, and what `check` raises."""

        def act_if_wanted() -> T:
            check()
            return act()

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: bucket_checks.is_retryable(error) or isinstance(error, (ValueError, KeyError))
            ),
            stop=tenacity.stop_after_attempt(TRIES) | tenacity.stop_after_delay(PATIENCE_S),
            wait=tenacity.wait_random_exponential(multiplier=self.wait_s, max=15 * self.wait_s),
            sleep=lambda seconds: _sleep(seconds, check),
            before_sleep=_say,
            reraise=True,
        )
        try:
            return retrying(act_if_wanted)
        except REQUEST_ERRORS as error:
            code = _code(error)
            log.error(code, reason=bucket_checks.reason(error))  # noqa: TRY400 - the reason says it all
            raise JobError(code) from error

    def _holds(self, path: str, size: int, digest: str) -> bool:
        """Whether these very bytes lie there already; no, where nobody can tell."""
        try:
            info = self.bucket.info(path)
        except REQUEST_ERRORS:
            return False
        return info.get("size") == size and (info.get("metadata") or {}).get("sha256") == digest

    def _too_large(self, size: int) -> bool:
        """By the bucket's own limit; the project's, which nobody tells, is the server's to enforce."""
        # A limit that would refuse is asked for anew, since it may have been raised.
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
        """Paths of a folder's files and folders, and whether each is a file. The server may match more than `search`."""
        entries: list[tuple[str, bool]] = []
        while True:
            options: dict[str, Any] = {"limit": PAGE, "offset": len(entries), "search": search}
            page = self._patiently(lambda options=options: self.bucket.list(folder, options))  # type: ignore[misc]
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
        case 401 | 402 | 403 | 404:  # the key, the project, or the bucket, whatever the file
            return "storage_denied"
        case 413:
            return "storage_too_large"
    return "storage_refused"


def _sleep(seconds: float, check: Check) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check()
        time.sleep(min(left, TICK_S))


def _say(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning(
        "storage_retry", reason=bucket_checks.reason(error or Exception()), tries=state.attempt_number
    )
