"""`worker enqueue`: prepare a job's photos, and say what to do about a job that failed."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from worker.cli.output import die
from worker.core.errors import JobError, redact_url
from worker.core.finding import Finding, fail, ok
from worker.core.settings import ConfigError, Settings
from worker.database import Row
from worker.ops.terminal.formats import file_size
from worker.storage import Store, open_store
from worker.storage.hashes import sha256

TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".avif": "image/avif",
}

_PHOTO = "Open the URL in a private window of a browser: the worker gets what you see there."
_OTHER_PHOTO = "Try a photo that is known to work: worker enqueue --watch --sample vase.png"
_LOG = "The daemon's log has the reason: journalctl -u worker | grep {id}"
_STORE = "Test the store: worker doctor"

# For the operator: what a merchant may read is in errors.py. `{id}` is the job's.
ADVICE = {
    "photo_url_refused": "Give a URL that begins with https:// and holds no password. For this host's own: WORKER_PHOTO_LOOPBACK=true",
    "photo_host_refused": "Allow its host in the worker's WORKER_PHOTO_HOSTS, restart the worker, then: worker retry {id}",
    "photo_not_found": f"{_PHOTO} Then: worker retry {{id}}",
    "photo_forbidden": f"{_PHOTO} Then: worker retry {{id}}",
    "photo_too_slow": "Upload the photo to the shop or to a faster server: the photos of a job have 60 s in all.",
    "photo_unreachable": f"Try it from the worker's host: curl -sSI URL. {_LOG}",
    "photo_too_large": _OTHER_PHOTO,
    "photo_too_many_pixels": _OTHER_PHOTO,
    "photo_too_small": _OTHER_PHOTO,
    "photo_not_an_image": f"{_PHOTO} A login page is not a photo.",
    "photo_too_complex": _OTHER_PHOTO,
    "photo_broken": _OTHER_PHOTO,
    "no_object": _OTHER_PHOTO,
    "no_surface": _OTHER_PHOTO,
    "out_of_memory": f"See what else uses the GPU: nvidia-smi. {_LOG}",
    "no_space": "Free space on the disks of WORKER_TEMP_DIR and WORKER_STORAGE_DIR (df -h), then: worker retry {id}",
    "temp_unavailable": f"Something deletes files in WORKER_TEMP_DIR or its disk fails; exclude it from clean-up jobs. {_LOG}",
    "timed_out": f"Raise WORKER_SOFT_LIMIT_S, or use --quality fast; a CPU may need more time. {_LOG}",
    "internal_error": _LOG,
    "worker_lost": "The daemon or its host stopped: journalctl -u worker -e; dmesg | grep -i oom",
    "superseded": "A newer job for the same product ended first: worker status",
    "expired": "No worker began it by its start_by: worker status; docs/jobs.md",
    "storage_unavailable": _STORE,
    "storage_denied": f"SUPABASE_SERVICE_ROLE_KEY must be the service key. {_STORE}",
    "storage_too_large": "Raise the bucket's limit on file size, then: worker retry {id}",
    "storage_refused": f"The bucket may not allow the file's type: docs/storage.md. {_LOG}",
}


# What the store says of a photo: its errors' own sentences are of a finished model.
STORE_ERRORS = {
    "no_space": "Its disk is full.",
    "storage_unavailable": "It does not answer.",
    "storage_denied": "The worker has no access to it.",
    "storage_too_large": "The photo is larger than it allows.",
    "storage_refused": "It allows neither the photo's type nor PNG.",
}


def check_photo(url: str, settings: Settings) -> Finding:
    """Say whether a worker with these settings takes a photo from this URL."""
    from worker.pipeline.address import Policy, validate_url  # noqa: PLC0415 - brings the image libraries

    policy = Policy(
        hosts=tuple(settings.all_photo_hosts()), http=settings.photo_http, loopback=settings.photo_loopback
    )
    try:
        validate_url(url, policy)
    except JobError as error:
        fix = ADVICE[error.code].partition(",")[0]
        return fail("photo", f"{redact_url(url)}: {error.message.rstrip('.')}", fix)
    return ok("photo", redact_url(url))


def photo_url(photo: str, settings: Settings) -> str:
    """Return a photo's URL. A file is uploaded to the store first, under its content's hash. Raises: ConfigError."""
    if "://" in photo:
        return photo
    file = Path(photo)
    if not file.is_file():
        raise ConfigError(f"{photo} is neither a URL nor a file.")
    try:
        url = _upload(file, open_store(settings))
    except JobError as error:
        status = os.EX_TEMPFAIL if error.retryable else os.EX_CONFIG
        said = STORE_ERRORS.get(error.code)
        what = f"The store does not take {file.name}: {said} See: worker doctor" if said else error.message
        die(what, status)
    if not url.startswith("http"):
        raise ConfigError(
            f"{photo} is a file, and nothing serves the store. Run `worker dev`, or set WORKER_STORAGE_URL."
        )
    return url


def _upload(file: Path, store: Store) -> str:
    """Store a photo as it is, or as PNG if the store does not allow its type. Return its URL. Raises: JobError."""
    from worker.pipeline.decode import decode_in_subprocess  # noqa: PLC0415 - brings the image libraries

    try:
        return _put(file, store)
    except JobError as error:
        if error.code != "storage_refused":
            raise
    # A bucket may allow the types of the worker's own files alone, and PNG is always one of them.
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / f"{file.stem}.png"
        decode_in_subprocess(file).save(png)
        return _put(png, store)


def _put(file: Path, store: Store) -> str:
    ending = file.suffix.lower()
    content_type = TYPES.get(ending, "application/octet-stream")
    store.check_files([(file, content_type)])
    return store.put(f"uploads/{sha256(file)[:16]}{ending}", file, content_type)


def sample(name: str) -> str:
    """Return the path of a bundled photo, named with or without the ending. Raises: ConfigError."""
    from worker.local import samples  # noqa: PLC0415 - brings the image libraries

    found = [known for known in samples.SAMPLES if name in {known, Path(known).stem}]
    if not found:
        raise ConfigError(f"There is no sample {name}. There are {', '.join(samples.SAMPLES)}.")
    return str(samples.path(found[0]))


def advice(job: Row) -> str | None:
    """Say what the operator can do about a job that failed or that waits after a failure."""
    code = job["error_code"]
    if code is None:
        return None
    return ADVICE.get(code, _LOG).replace("{id}", str(job["id"]))


def outcome(job: Row) -> Sequence[str]:
    """Describe what a completed job made, a line each."""
    if job["status"] != "completed":
        return []
    lines = [job["model_url"]]
    if job["review"] == "wanted":
        lines.append(f"Not published: it waits for review. See: worker review approve {job['id']}")
    if isinstance(source := job["report"].get("cached"), str):
        lines.append(f"The same result as that of job {source}")
    match job["report"].get("model"):
        case {"triangles": int() as triangles, "glb_bytes": int() as size}:
            lines.append(f"{triangles:,} triangles, {file_size(size)}")
    match job["report"].get("quality"):
        case {"score": int() | float() as score, "warnings": list() as warnings}:
            lines += [f"quality {score:.0f} of 100", *map(str, warnings)]
    return lines
