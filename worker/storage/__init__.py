"""The store for finished files: a Supabase bucket or a local folder, with the same paths in both."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from worker.core.errors import JobError
from worker.core.finding import Finding
from worker.core.settings import ConfigError, Settings

CONTENT_TYPES = {
    ".glb": "model/gltf-binary",
    ".png": "image/png",
    ".webp": "image/webp",
    ".usdz": "model/vnd.usdz+zip",
}
"""The type of each file that the worker stores, by its ending."""

YEAR_S = 31_536_000
"""The seconds for which a file may be cached whose path never gets other bytes."""

MAX_BYTES = 500_000_000  # of a file that is fetched; those that the worker stores are smaller


class StoreUnreachable(Exception):
    """The store does not answer now, and may later. The message tells the operator why."""


class NotStored(JobError):
    """No file lies at this path. As `storage_unavailable` to whoever does not expect that."""

    def __init__(self, path: str) -> None:
        super().__init__("storage_unavailable")
        self.path = path


class Store(Protocol):
    """A place for files, each of which has a URL."""

    def check_files(self, files: Sequence[tuple[Path, str]]) -> None:
        """Check the size and the content type of files that belong together, before the first of them is stored.

        Raises: JobError `storage_too_large`, `storage_refused`, `no_space`.
        """
        ...

    def put(
        self,
        path: str,
        file: Path,
        content_type: str,
        check: Callable[[], None] = lambda: None,
        *,
        cache_s: int = YEAR_S,
    ) -> str:
        """Store a file under a path, or replace it, whole or not at all. Return its URL.

        Args:
            path: as `worker.storage.paths` makes it, with an ending.
            file: the file to store.
            content_type: one of CONTENT_TYPES, or another type that the bucket allows.
            check: called before each try and during the waits between them. To stop the upload, it raises.
            cache_s: the seconds for which caches may keep the file; a path whose bytes change needs a short time.

        Raises: JobError `storage_…`, `no_space`; what `check` raises.
        """
        ...

    def fetch(self, path: str, file: Path, check: Callable[[], None] = lambda: None) -> None:
        """Copy a stored file to a local one, whole or not at all. `check` is that of `put`.

        Raises: NotStored if there is none; JobError `storage_…`, `no_space`, `temp_unavailable`; what `check` raises.
        """
        ...

    def locate(self, path: str, digest: str, check: Callable[[], None] = lambda: None) -> str:
        """Return the URL of a stored file whose sha256 is `digest`, in hex. `check` is that of `put`.

        Raises: NotStored if there is none, or another one; JobError `storage_…`; what `check` raises.
        """
        ...

    def find(self, stem: str) -> list[str]:
        """Return the paths of a stem's files: `{stem}.…`, and all files below `{stem}/`. Raises: JobError `storage_…`."""
        ...

    def remove(self, paths: Sequence[str], check: Callable[[], None] = lambda: None) -> None:
        """Remove files. A path without a file is no error. `check` as for `put`: to keep the other files, it raises.

        Raises: JobError `storage_…`; what `check` raises.
        """
        ...

    def check(self) -> list[Finding]:
        """Write and remove a small file. Return what is wrong: nothing, or findings of level FAIL and ADVICE.

        Raises: StoreUnreachable.
        """
        ...


def open_store(settings: Settings) -> Store:
    """Open the store that is configured. Raises: ConfigError if none is, or if its settings cannot be right."""
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
            content_types=stored_types(settings),
            signed_url_s=settings.signed_url_s,
            timeout_s=settings.storage_timeout_s,
        )
    raise ConfigError("No place for the models: set SUPABASE_URL, or WORKER_STORAGE_DIR for a local folder.")


def stored_types(settings: Settings) -> list[str]:
    """Return the content types of the files that a worker with these settings stores."""
    optional = {".webp": settings.turntable, ".usdz": settings.usdz}
    return [kind for ending, kind in CONTENT_TYPES.items() if optional.get(ending, True)]
