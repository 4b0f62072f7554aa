"""`worker enqueue --watch`: what is looked at before a test job is queued, and what to look at when it fails."""

from collections.abc import Sequence
from pathlib import Path

from worker.core.errors import JobError
from worker.core.finding import Finding, fail, ok
from worker.core.settings import ConfigError, Settings
from worker.jobs import queue
from worker.storage import open_store, sha256, version

TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".avif": "image/avif",
}

_PHOTO = "Open the address in a private window of a browser: the worker sees what it shows there."
_OTHER_PHOTO = "Is the worker itself well? Try one that works: worker enqueue --watch --sample vase.png"
_LOG = "The daemon's log has the reason: journalctl -u worker | grep {id}"
_STORE = (
    "Try the store out once more, with the fix where one is needed: worker enqueue --watch --sample vase.png"
)

# For the operator: what a merchant may read is in errors.py. `{id}` is the job's.
ADVICE = {
    "photo_url_refused": "Give an address that begins with https:// and holds no password. For this host's own: WORKER_PHOTO_LOOPBACK=true",
    "photo_host_refused": "Allow its host in WORKER_PHOTO_HOSTS of the worker, restart it, then: worker retry {id}",
    "photo_not_found": f"{_PHOTO} Then: worker retry {{id}}",
    "photo_forbidden": f"{_PHOTO} Then: worker retry {{id}}",
    "photo_unreachable": "From the worker's host: curl -sSI ADDRESS. Its log tells why: journalctl -u worker | grep {id}",
    "photo_too_large": _OTHER_PHOTO,
    "photo_too_many_pixels": _OTHER_PHOTO,
    "photo_too_small": _OTHER_PHOTO,
    "photo_not_an_image": f"{_PHOTO} A page that asks to log in is no photo.",
    "photo_too_complex": _OTHER_PHOTO,
    "photo_broken": _OTHER_PHOTO,
    "no_object": _OTHER_PHOTO,
    "no_surface": _OTHER_PHOTO,
    "out_of_memory": f"Is something else on the GPU? nvidia-smi. {_LOG}",
    "no_space": "Make room where WORKER_TEMP_DIR and WORKER_STORAGE_DIR lie (df -h), then: worker retry {id}",
    "timed_out": f"WORKER_SOFT_LIMIT_S is the limit; a CPU may need more, or --quality fast. {_LOG}",
    "internal_error": _LOG,
    "worker_lost": "The daemon or its host died: journalctl -u worker -e; dmesg | grep -i oom",
    "superseded": "A newer job for the same product ended first: worker status",
    "storage_unavailable": _STORE,
    "storage_denied": f"SUPABASE_SERVICE_ROLE_KEY must be the service key. {_STORE}",
    "storage_too_large": "Raise the bucket's limit on file size, then: worker retry {id}",
    "storage_refused": f"Must the bucket allow more types? See docs/storage.md. {_LOG}",
}


def check_photo(url: str, settings: Settings) -> Finding:
    """Say whether a worker with these settings takes a photo from this URL."""
    from worker.pipeline.address import Policy, redact_url, validate_url  # noqa: PLC0415 - brings the image libraries

    policy = Policy(
        hosts=tuple(settings.all_photo_hosts()), http=settings.photo_http, loopback=settings.photo_loopback
    )
    try:
        validate_url(url, policy)
    except JobError as error:
        fix = ADVICE[error.code].partition(",")[0]
        return fail("photo", f"{redact_url(url)}: {error.message.rstrip('.')}", fix)
    return ok("photo", redact_url(url))


def address(photo: str, settings: Settings) -> str:
    """A file goes to the store, under its content's hash, and from there by its address to the worker.

    Raises: ConfigError.
    """
    if "://" in photo:
        return photo
    file = Path(photo)
    if not file.is_file():
        raise ConfigError(f"{photo} is neither an address nor a file.")
    ending = file.suffix.lower()
    try:
        stored = open_store(settings).put(
            f"uploads/{version(sha256(file))}{ending}", file, TYPES.get(ending, "application/octet-stream")
        )
    except JobError as error:
        raise ConfigError(f"The store does not take {file.name}: {error.message}") from None
    if not stored.startswith("http"):
        raise ConfigError(
            f"{photo} is a file, and nothing serves the store. Run `worker dev`, or set WORKER_STORAGE_URL."
        )
    return stored


def sample(name: str) -> str:
    """The path of a bundled photo, by its name with or without the ending. Raises: ConfigError."""
    from worker.local import samples  # noqa: PLC0415 - brings the image libraries

    found = [known for known in samples.SAMPLES if name in {known, Path(known).stem}]
    if not found:
        raise ConfigError(f"There is no sample {name}. There are {', '.join(samples.SAMPLES)}.")
    return str(samples.path(found[0]))


def advice(job: queue.Row) -> str | None:
    """Where to look next, for a job that failed or waits after a failure."""
    code = job["error_code"]
    if code is None:
        return None
    return ADVICE.get(code, _LOG).replace("{id}", str(job["id"]))


def outcome(job: queue.Row) -> Sequence[str]:
    """What came of a completed job, a line each."""
    told = job["metadata"].get("worker", {})
    model, quality = told.get("model", {}), told.get("quality", {})
    if job["status"] != "completed":
        return []
    lines = [job["model_url"]]
    if "triangles" in model:
        lines.append(f"{model['triangles']:,} triangles, {model.get('glb_bytes', 0) / 1e6:.1f} MB")
    if "score" in quality:
        lines.append(f"quality {quality['score']:.0f} of 100")
    return [*lines, *quality.get("warnings", ())]
