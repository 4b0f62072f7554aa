"""Where the finished files go: a Supabase bucket or a local folder, with the same paths in both."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from worker.core.finding import Finding
from worker.core.settings import ConfigError, Settings

# What the worker stores, by a file's ending; a bucket must allow these types.
CONTENT_TYPES = {
    ".glb": "model/gltf-binary",
    ".png": "image/png",
    ".webp": "image/webp",
    ".usdz": "model/vnd.usdz+zip",
}


class StoreUnreachable(Exception):
    """The store cannot be tried out at the moment; the message says why, to the operator."""


class Store(Protocol):
    """A place for files that can be fetched by an address."""

    def put(self, path: str, file: Path, content_type: str, check: Callable[[], None] = lambda: None) -> str:
        """Stores or replaces, whole or not at all; gives the address. `check` is called before every try and while
        waiting for one, and may end it all by raising. Raises: JobError `storage_…`, `no_space`.
        """
        ...

    def find(self, stem: str) -> list[str]:
        """The paths of all files of a stem: `{stem}.…`, and whatever lies below `{stem}/`. Raises: JobError."""
        ...

    def remove(self, paths: Sequence[str]) -> None:
        """What is not there counts as removed. Raises: JobError."""
        ...

    def check(self) -> list[Finding]:
        """Write and remove a small file. Return what is wrong: nothing, or findings of level FAIL and ADVICE.

        Raises: StoreUnreachable.
        """
        ...


def open_store(settings: Settings) -> Store:
    """Raises: ConfigError where neither place is configured, or what is configured cannot be right."""
    if settings.storage_dir:
        from worker.storage.local import LocalStore  # noqa: PLC0415 - each place imports its own libraries

        try:
            return LocalStore(settings.storage_dir, settings.storage_url)
        except OSError as error:
            raise ConfigError(f"WORKER_STORAGE_DIR cannot be used: {error}") from None
    if settings.supabase_url:
        key = settings.supabase_secret_key or settings.supabase_service_role_key
        if key is None:
            raise ConfigError(
                "SUPABASE_SERVICE_ROLE_KEY is not set. Take it, or a secret key (sb_secret_…), from the project's "
                "API settings."
            )
        from worker.storage.supabase import SupabaseStore  # noqa: PLC0415

        return SupabaseStore(
            settings.supabase_url,
            key.get_secret_value(),
            settings.supabase_bucket_name,
            signed_url_s=settings.signed_url_s,
            timeout_s=settings.storage_timeout_s,
        )
    raise ConfigError("No place for the models: set SUPABASE_URL, or WORKER_STORAGE_DIR for a local folder.")


def version(digest: str) -> str:
    """What an address carries so that a cache never shows a replaced file: the beginning of its sha256."""
    return digest[:16]
