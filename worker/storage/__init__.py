"""Where the finished files go: a Supabase bucket or a local folder, with the same paths in both."""

import hashlib
from pathlib import Path
from typing import Protocol

from worker.settings import ConfigError, Settings


class Store(Protocol):
    """A place for files that can be fetched by an address."""

    def put(self, path: str, file: Path, content_type: str) -> str:
        """Stores or replaces, whole or not at all; gives the address. Raises: JobError `storage_…`, `no_space`."""
        ...


def open_store(settings: Settings) -> Store:
    """Raises: ConfigError where neither place is configured."""
    if settings.storage_dir:
        from worker.storage.local import LocalStore  # noqa: PLC0415 - each place imports its own libraries

        try:
            return LocalStore(settings.storage_dir, settings.storage_url)
        except OSError as error:
            raise ConfigError(f"WORKER_STORAGE_DIR cannot be used: {error}") from None
    if settings.supabase_url:
        if settings.supabase_service_role_key is None:
            raise ConfigError(
                "SUPABASE_SERVICE_ROLE_KEY is not set. Take it from the project's API settings."
            )
        from worker.storage.supabase import SupabaseStore  # noqa: PLC0415

        return SupabaseStore(
            settings.supabase_url,
            settings.supabase_service_role_key.get_secret_value(),
            settings.supabase_bucket_name,
        )
    raise ConfigError("No place for the models: set SUPABASE_URL, or WORKER_STORAGE_DIR for a local folder.")


def version(file: Path) -> str:
    """What an address carries so that a cache never shows a replaced file: the beginning of the file's sha256."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
