"""The bucket, through supabase-py."""

from pathlib import Path

import httpx
import tenacity
from storage3.exceptions import StorageApiError
from supabase import Client, ClientOptions, create_client
from supabase.client import SupabaseException

from worker.errors import JobError
from worker.settings import ConfigError
from worker.storage import version


def _worth_another_try(error: BaseException) -> bool:
    """The server's own answers are final but for overload and its own faults; a broken connection never is."""
    if isinstance(error, StorageApiError):
        status = int(error.status)
        return status in {408, 429} or status >= 500
    return isinstance(error, httpx.TransportError)


class SupabaseStore:
    def __init__(self, url: str, key: str, bucket: str, *, wait_s: float = 1) -> None:
        # HTTP/1.1: the default client's HTTP/2 connections go stale between uploads that are minutes apart.
        # The read timeout covers what the socket's buffer still holds when the last byte is written.
        client = httpx.Client(timeout=httpx.Timeout(60, connect=10), follow_redirects=True, http2=False)
        try:
            supabase: Client = create_client(url, key, options=ClientOptions(httpx_client=client))
        except SupabaseException as error:
            raise ConfigError(f"SUPABASE_URL or SUPABASE_SERVICE_ROLE_KEY is malformed: {error}") from None
        self.bucket = supabase.storage.from_(bucket)
        self.patiently = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_worth_another_try),
            stop=tenacity.stop_after_attempt(5),
            wait=tenacity.wait_random_exponential(multiplier=wait_s, max=15 * wait_s),
            reraise=True,
        )

    def put(self, path: str, file: Path, content_type: str) -> str:
        # A year: the address changes with the content, so a copy in a cache is never out of date.
        options = {"content-type": content_type, "cache-control": "31536000", "upsert": "true"}
        try:
            # An upsert may be repeated without harm, whatever became of an answer that was lost.
            self.patiently(self.bucket.upload, path, file, options)
        except StorageApiError as error:
            if _worth_another_try(error):
                raise JobError("storage_unavailable") from error
            raise JobError("storage_refused") from error
        except httpx.HTTPError as error:
            raise JobError("storage_unavailable") from error
        public = self.bucket.get_public_url(path).rstrip("?")
        return f"{public}?v={version(file)}"
