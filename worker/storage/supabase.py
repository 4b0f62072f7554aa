"""The bucket, through supabase-py."""

import hashlib
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
from worker.http import clients
from worker.storage import CONTENT_TYPES, MAX_BYTES, YEAR_S, NotStored, bucket_checks, drafts, paths
from worker.storage.bucket_checks import UnexpectedAnswer
from worker.storage.hashes import sha256

TRIES = 6
RETRY_S = 180  # no try begins later than this after the first
TICK_S = 0.25  # how often a wait between tries calls `check`
PAGE = 1000  # names in one answer
BATCH = 100  # files in one removal

RETRY_AFTER_S = 60.0  # the longest wait that the storage may ask for; a longer one is for the job's own retry
DEPTH = 32  # of folders; a server that shows more of them is not the storage

REQUEST_ERRORS = (StorageApiError, httpx.HTTPError, UnexpectedAnswer)
# What the client raises when a success has a body that it did not expect.
CLIENT_ERRORS = (ValueError, TypeError, LookupError, AttributeError, RecursionError)

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
        content_types: those of the files that will be stored; `check` tells if the bucket allows them.
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
        content_types: Sequence[str] = tuple(CONTENT_TYPES.values()),
        signed_url_s: int | None = None,
        timeout_s: float = 60,
        wait_s: float = 1,
    ) -> None:
        # HTTP/1.1: the default client's HTTP/2 connections go stale between uploads that are minutes apart.
        # The read timeout also covers bytes that are still in the socket's buffer after the last write.
        try:
            client = clients.client(url, timeout=httpx.Timeout(timeout_s, connect=10), follow_redirects=True)
            supabase: Client = create_client(
                url, bucket_checks.validate_key(key), options=ClientOptions(httpx_client=client)
            )
        except (SupabaseException, httpx.InvalidURL, ValueError) as error:
            raise ConfigError(f"SUPABASE_URL or SUPABASE_SERVICE_ROLE_KEY is malformed: {error}") from None
        self.storage = supabase.storage
        self.bucket = supabase.storage.from_(bucket)
        self.content_types = content_types
        self.signed_url_s = signed_url_s
        self.wait_s = wait_s
        # The same name each time, so that the next check removes a file that a failed one left behind.
        self._probe = f"worker-check/{uuid4()}.glb"

    def check_files(self, files: Sequence[tuple[Path, str]]) -> None:
        """Compare with the bucket's limit and its MIME types. As `Store.check_files`.

        The project's limit cannot be read; the server enforces it.
        """
        try:
            bucket = self._describe()
        except REQUEST_ERRORS:
            return  # the uploads will show what is wrong
        largest, limit = max(file.stat().st_size for file, _ in files), bucket.file_size_limit
        if limit is not None and largest > limit:
            raise JobError(
                "storage_too_large",
                f"A file of the finished model has {largest / 1e6:.2f} MB, and the storage allows {limit / 1e6:.2f} MB.",
            )
        if refused := bucket_checks.refused_types(bucket, [content_type for _, content_type in files]):
            raise JobError(
                "storage_refused",
                f"The storage does not allow files of the type {' and '.join(refused)}. The shop's developer must look at it.",
            )

    def put(
        self, path: str, file: Path, content_type: str, check: Check = _nothing, *, cache_s: int = YEAR_S
    ) -> str:
        """Upload a file, with up to six tries in three minutes. As `Store.put`."""
        size, digest = file.stat().st_size, sha256(file)
        options: dict[str, Any] = {
            "content-type": content_type,
            "cache-control": str(cache_s),
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
            _ask(lambda: self.bucket.upload(path, file, options))  # type: ignore[arg-type]

        self._retrying(send, check)
        return self._url(path, check)

    def locate(self, path: str, digest: str, check: Check = _nothing) -> str:
        """Ask for a file's hash. As `Store.locate`."""
        if self._retrying(lambda: self._digest(path), check) != digest:
            raise NotStored(path)
        return self._url(path, check)

    def fetch(self, path: str, file: Path, check: Check = _nothing) -> None:
        """Download a file, with as many tries as `put`. As `Store.fetch`."""
        content = self._retrying(lambda: self._download(path), check)
        if content is None:
            raise NotStored(path)
        with drafts.replacing(file) as writer:
            writer.write(content)

    def find(self, stem: str) -> list[str]:
        """List the stem's files, a page of names at a time. As `Store.find`."""
        folder, _, name = stem.rpartition("/")
        own = [
            path
            for path, is_file in self._list(folder, search=f"{name}.")
            if is_file and paths.is_named(path.rpartition("/")[2], name)
        ]
        return own + list(self._below(stem))

    def remove(self, paths: Sequence[str], check: Check = _nothing) -> None:
        """Remove files in batches. As `Store.remove`."""
        for first in range(0, len(paths), BATCH):
            batch = list(paths[first : first + BATCH])
            self._retrying(lambda batch=batch: self._remove(batch), check)  # type: ignore[misc]

    def check(self) -> list[Finding]:
        """Check the bucket's properties, then upload and remove a small file. As `Store.check`."""
        try:
            bucket = self._describe()
            signed = self.signed_url_s is not None
            findings = list(bucket_checks.check_bucket(bucket, self.content_types, signed=signed))
            if any(finding.level is Level.FAIL for finding in findings):
                return findings
            options: Any = {"content-type": CONTENT_TYPES[".glb"], "upsert": "true"}
            _ask(lambda: self.bucket.upload(self._probe, b"probe", options))
            self._remove([self._probe])
        except REQUEST_ERRORS as error:
            return [bucket_checks.explain_error(error, self.bucket.id)]
        return findings

    def _retrying(self, act: Callable[[], T], check: Check = _nothing) -> T:
        """Call `act` until it succeeds or no retry can help. Raises: JobError `storage_…`, and what `check` raises."""

        def check_and_act() -> T:
            check()
            return act()

        backoff = tenacity.wait_random_exponential(multiplier=self.wait_s, max=15 * self.wait_s)

        def wait(state: tenacity.RetryCallState) -> float:
            asked_s = bucket_checks.retry_after_s(state.outcome.exception() if state.outcome else None)
            return max(backoff(state), min(asked_s, RETRY_AFTER_S))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: bucket_checks.is_retryable(error) or isinstance(error, UnexpectedAnswer)
            ),
            stop=tenacity.stop_after_attempt(TRIES) | tenacity.stop_after_delay(RETRY_S),
            wait=wait,
            sleep=lambda seconds: _sleep(seconds, check),
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            return retrying(check_and_act)
        except REQUEST_ERRORS as error:
            code, reason = _code(error), bucket_checks.reason(error)
            log.error(code, reason=reason)  # noqa: TRY400 - the reason is enough
            raise JobError(code, reason=reason) from error

    def _url(self, path: str, check: Check) -> str:
        if self.signed_url_s is None:
            return self.bucket.get_public_url(path).rstrip("?")
        return self._retrying(lambda: self._sign(path), check)

    def _digest(self, path: str) -> object:
        """Return the sha256 of a file, as it was stored with it; None if there is no file. Raises: REQUEST_ERRORS."""
        try:
            return self._info(path)[1]
        except StorageApiError as error:
            if bucket_checks.is_missing_file(error):
                return None
            raise

    def _holds(self, path: str, size: int, digest: str) -> bool:
        """True if exactly these bytes are stored there already. False if that cannot be found out."""
        try:
            return self._info(path) == (size, digest)
        except REQUEST_ERRORS:
            return False

    def _download(self, path: str) -> bytes | None:
        """Return a file's bytes, whose number and hash the server knows. None if there is no file. Raises: REQUEST_ERRORS."""
        try:
            size, digest = self._info(path)
            if size > MAX_BYTES:
                raise JobError("storage_too_large")
            content: object = _ask(lambda: self.bucket.download(path))
        except StorageApiError as error:
            if bucket_checks.is_missing_file(error):
                return None
            raise
        if not isinstance(content, bytes) or len(content) != size:
            raise UnexpectedAnswer("the file has another size")
        if digest not in {None, hashlib.sha256(content).hexdigest()}:
            raise UnexpectedAnswer("the file has another hash")
        return content

    def _info(self, path: str) -> tuple[int, object]:
        """Return a file's size, and its sha256 if it was stored with it. Raises: REQUEST_ERRORS."""
        info: object = _ask(lambda: self.bucket.info(path))
        size = info.get("size") if isinstance(info, dict) else None
        if not isinstance(info, dict) or not isinstance(size, int):
            raise UnexpectedAnswer("the description of a file has no size")
        metadata = info.get("metadata")
        return size, metadata.get("sha256") if isinstance(metadata, dict) else None

    def _describe(self) -> BaseBucket:
        """Ask for the bucket's properties. Raises: REQUEST_ERRORS."""
        return _ask(lambda: self.storage.get_bucket(self.bucket.id))

    def _sign(self, path: str) -> str:
        """Have a URL signed. Raises: REQUEST_ERRORS."""
        signed = _ask(lambda: self.bucket.create_signed_url(path, self.signed_url_s or 0))
        url = signed["signedUrl"] or ""
        if "/object/sign/" not in url or "?" not in url:
            raise UnexpectedAnswer("the signed URL is none")
        return url

    def _remove(self, paths: list[str]) -> None:
        """Remove files in one request. Raises: REQUEST_ERRORS."""
        removed: object = _ask(lambda: self.bucket.remove(paths))
        if not isinstance(removed, list):
            raise UnexpectedAnswer("the answer to a removal is no list")

    def _below(self, folder: str, depth: int = DEPTH) -> Iterator[str]:
        for path, is_file in self._list(folder):
            if is_file:
                yield path
            elif depth:
                yield from self._below(path, depth - 1)
            else:
                raise JobError("storage_unavailable")

    def _list(self, folder: str, search: str = "") -> list[tuple[str, bool]]:
        """List a folder's entries as (path, is a file). The server may match more than `search`."""
        entries: dict[str, bool] = {}
        while True:
            options: dict[str, Any] = {"limit": PAGE, "offset": len(entries), "search": search}
            page = self._retrying(lambda options=options: self._page(folder, options))  # type: ignore[misc]
            known = len(entries)
            entries |= page
            if len(page) < PAGE or len(entries) == known:
                return [
                    (f"{folder}/{name}" if folder else name, is_file) for name, is_file in entries.items()
                ]

    def _page(self, folder: str, options: Any) -> dict[str, bool]:
        """Return one page of a folder's entries: each name, and if it is a file's. Raises: REQUEST_ERRORS."""
        page: object = _ask(lambda: self.bucket.list(folder, options))
        if not isinstance(page, list):
            raise UnexpectedAnswer("the list is none")
        entries: dict[str, bool] = {}
        for entry in page:
            name = entry.get("name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name or "/" in name:
                raise UnexpectedAnswer("the list has an entry without a name")
            entries[name] = entry.get("id") is not None
        return entries


def _ask(request: Callable[[], T]) -> T:
    """Make a request. The client takes the shape of a success for granted, and here that is an error of its own.

    Raises: REQUEST_ERRORS.
    """
    try:
        return request()
    except CLIENT_ERRORS as error:
        # Its text may repeat a token.
        raise UnexpectedAnswer(f"not an answer of the storage ({type(error).__name__})") from error


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
