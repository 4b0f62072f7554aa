"""The files of a version by their endings. Their paths are in worker.storage.paths."""

from collections.abc import Callable, Mapping
from pathlib import Path

from worker.core.errors import JobError
from worker.storage import CONTENT_TYPES, Store
from worker.storage.hashes import sha256

NAMES: Mapping[str, str] = {
    ".cutout.png": "cutout.png",
    ".png": "poster.png",
    ".webp": "turntable.webp",
    ".usdz": "model.usdz",
    ".glb": "model.glb",
}
"""The name of each file in a job's folder, by its ending. In the order of storing: who sees a new model finds its new poster."""

URLS: Mapping[str, str] = {
    ".cutout.png": "cutout_url",
    ".png": "poster_url",
    ".webp": "turntable_url",
    ".usdz": "usdz_url",
    ".glb": "model_url",
}
"""The name of each file's URL in a job's report; that of the model is a column of the row."""


def content_type(ending: str) -> str:
    """Return the content type of a file with this ending."""
    return CONTENT_TYPES[suffix(ending)]


def suffix(ending: str) -> str:
    """Return the part of an ending that names the kind of the file."""
    return f".{ending.rpartition('.')[2]}"


def fetch(store: Store, stem: str, ending: str, digest: str, file: Path, check: Callable[[], None]) -> Path:
    """Fetch a version's file into a local one, which is returned.

    stem: the path of the version's files, without an ending.
    digest: the sha256 in hex that the file must have.

    Raises: JobError `storage_unavailable` if it has another one; what `Store.fetch` raises.
    """
    store.fetch(stem + ending, file, check)
    if sha256(file) != digest:
        raise JobError("storage_unavailable", f"{stem}{ending} is not the file that was stored")
    return file
