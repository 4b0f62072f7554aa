"""Checks of a bucket and its key, with the fix for each problem."""

import base64
import json
import re
from collections.abc import Iterator, Sequence

import httpx
from storage3.exceptions import StorageApiError
from storage3.types import BaseBucket

from worker.core.errors import is_retryable_status, one_line, parse_retry_after
from worker.core.finding import Finding, advice, fail
from worker.core.settings import ConfigError
from worker.storage import StoreUnreachable

LOCKED = 423  # another upload to the same path is running
LARGEST_MODEL = 10_000_000  # bytes; models of the preset `quality` are smaller
STATUS = re.compile("[1-9][0-9]{2}", re.ASCII)


class UnexpectedAnswer(Exception):
    """A success whose body has another shape than the storage's: something else has answered."""


def status(error: StorageApiError) -> int:
    """Return an error's status. It is in the body, while HTTP's own is mostly 400; if the body has none, return 500."""
    return int(error.status) if STATUS.fullmatch(str(error.status)) else 500


def is_retryable(error: BaseException) -> bool:
    """True if the same request may succeed later: the server is busy, failed, or could not be reached."""
    if isinstance(error, StorageApiError):
        return is_retryable_status(status(error)) or status(error) == LOCKED
    return isinstance(error, httpx.RequestError)


def is_missing_file(error: StorageApiError) -> bool:
    """True if the bucket is there and has no file at the path."""
    return status(error) == 404 and error.code == "not_found"


def retry_after_s(error: BaseException | None) -> float:
    """Return the seconds that the server asked to wait, 0 if it did not ask. The client's errors hide the answer behind them."""
    while error is not None:
        if isinstance(error, httpx.HTTPStatusError):
            return parse_retry_after(error.response.headers.get("retry-after")) or 0.0
        error = error.__cause__ or error.__context__
    return 0.0


def reason(error: BaseException) -> str:
    """Return an error as one short line, for the log and for people."""
    if isinstance(error, StorageApiError):
        parts = f"{error.status} {error.code}: {error.message}"
        return " ".join(parts.split())[:250]
    return f"{type(error).__name__}: {one_line(error)[:200]}"


def validate_key(key: str) -> str:
    """Return the key without spaces around it. Raises: ConfigError if it cannot be a service key; the message hides it."""
    key = key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            "SUPABASE_SERVICE_ROLE_KEY or SUPABASE_SECRET_KEY contains a character that no key has. Copy the whole key again."
        )
    if key.startswith("sb_publishable_") or _role(key) in {"anon", "authenticated"}:
        raise ConfigError(
            "SUPABASE_SERVICE_ROLE_KEY or SUPABASE_SECRET_KEY is the project's public key, which cannot write. Take "
            "the service_role key, or a secret key (sb_secret_…), from the project's API settings."
        )
    return key


def _role(key: str) -> str | None:
    """Return the role of a legacy key, None for any other. Such a key is a JWT, and its second part is readable."""
    parts = key.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "==")) if len(parts) == 3 else {}
    except ValueError:
        return None
    role = claims.get("role") if isinstance(claims, dict) else None
    return role if isinstance(role, str) else None


def check_bucket(bucket: BaseBucket, content_types: Sequence[str], *, signed: bool) -> Iterator[Finding]:
    """Yield what is wrong with a bucket's properties.

    content_types: those of the files to be stored.
    signed: the URLs of its files are signed.
    """
    edit = f'In Supabase open Storage, "{bucket.id}", Edit bucket'
    if not bucket.public and not signed:
        yield fail(
            "store",
            f'The bucket "{bucket.id}" is private: nobody can fetch a model by its public URL',
            f"{edit}, and make it public; or set WORKER_SIGNED_URL_S for signed URLs.",
        )
    if bucket.public and signed:
        yield fail(
            "store",
            f'WORKER_SIGNED_URL_S is set, but the bucket "{bucket.id}" is public: whoever guesses a URL needs no signature',
            f"{edit}, and make it private; or unset WORKER_SIGNED_URL_S.",
        )
    if missing := refused_types(bucket, content_types):
        yield fail(
            "store",
            f'The bucket "{bucket.id}" does not allow {" and ".join(missing)}',
            f"{edit}, and allow the MIME types {', '.join(content_types)}.",
        )
    limit = bucket.file_size_limit
    if limit is not None and limit < LARGEST_MODEL:
        yield advice(
            "store",
            f'The bucket "{bucket.id}" takes files of up to {limit / 1e6:.1f} MB, and a detailed model can be larger',
            f"{edit}, and allow {LARGEST_MODEL / 1e6:.0f} MB or more.",
        )


def refused_types(bucket: BaseBucket, content_types: Sequence[str]) -> list[str]:
    """Return those of the types that the bucket does not allow."""
    allowed = bucket.allowed_mime_types or ["*/*"]
    return [
        kind
        for kind in content_types
        if not {kind, f"{kind.partition('/')[0]}/*", "*/*"}.intersection(allowed)
    ]


def explain_error(error: BaseException, bucket: str) -> Finding:
    """Return what keeps the worker from the bucket. Raises: StoreUnreachable if a retry can help."""
    if is_retryable(error):
        raise StoreUnreachable(reason(error)) from error
    said = f"({reason(error)})"
    match error:
        case StorageApiError(code="Bucket not found"):
            return fail(
                "store",
                f'There is no bucket "{bucket}"',
                "In Supabase open Storage, New bucket, and make it; or name another with SUPABASE_BUCKET_NAME.",
            )
        case StorageApiError() if status(error) in {401, 403}:
            return fail(
                "store",
                f"Supabase Storage refuses the key {said}",
                "Take the service_role key, or a secret key (sb_secret_…), of this project from its API settings, "
                "and set it as SUPABASE_SERVICE_ROLE_KEY.",
            )
        case StorageApiError() if error.code != "InternalError":
            return fail("store", f'The bucket "{bucket}" cannot be used {said}', "")
    return fail(
        "store",
        f"SUPABASE_URL does not answer as Supabase Storage does {said}",
        "It should be https://PROJECT.supabase.co.",
    )
