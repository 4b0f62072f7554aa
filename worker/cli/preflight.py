"""`worker enqueue`: look at a job's photos as a worker would, and upload those that are files."""

import ipaddress
import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import typer

from worker.cli.output import die
from worker.core.errors import JobError, redact_url
from worker.core.finding import Finding, fail, ok, unreachable
from worker.core.settings import ConfigError, Settings
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

# What the store says of a photo: its errors' own sentences are of a finished model.
STORE_ERRORS = {
    "no_space": "Its disk is full.",
    "storage_unavailable": "It does not answer.",
    "storage_denied": "The worker has no access to it.",
    "storage_too_large": "The photo is larger than it allows.",
    "storage_refused": "It allows neither the photo's type nor PNG.",
}


def is_url(photo: str) -> bool:
    """True if a photo is given by its URL, and not as a file."""
    return "://" in photo


def sample(name: str) -> tuple[list[str], list[str]]:
    """Return the files of a bundled sample, and the sides that they show if it has several. Raises: BadParameter."""
    from worker.local import samples  # noqa: PLC0415 - brings the image libraries

    try:
        found = samples.files(name)
    except KeyError:
        raise typer.BadParameter(
            f"There is no sample {name}. There are {', '.join(samples.NAMES)}."
        ) from None
    return [str(file) for file in found.values()], list(found) if len(found) > 1 else []


def open_file(photo: str) -> Finding:
    """Open a file as a worker opens a photo, and say what it is.

    Raises: ConfigError if it is no photo that a worker takes, BadParameter if there is none.
    """
    from worker.pipeline.download import MAX_BYTES  # noqa: PLC0415 - brings the image libraries

    file = Path(photo)
    if not file.is_file():
        raise typer.BadParameter(f"{photo} is neither a URL nor a file.")
    if file.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{photo} cannot be used: it has more than {file_size(MAX_BYTES)}.")
    try:
        return ok("photo", f"{photo}: {_opened(file)}")
    except JobError as error:
        raise ConfigError(f"{photo} cannot be used: {error.message}") from None


def fetch_and_open(url: str, target: Path, settings: Settings) -> Finding:
    """Download a photo from here by the worker's rules and open it, and say what it is or why a worker refuses it."""
    from worker.pipeline.address import Policy  # noqa: PLC0415 - see above
    from worker.pipeline.download import download  # noqa: PLC0415

    policy = Policy(
        hosts=tuple(settings.all_photo_hosts()), http=settings.photo_http, loopback=settings.photo_loopback
    )
    shown = redact_url(url)
    try:
        download(url, target, policy)
        return ok("photo", f"{shown}: {_opened(target)}")
    except JobError as error:
        if error.code in {"photo_host_refused", "photo_url_refused"} and (private := _private(url)):
            return fail("photo", f"{shown}: {private}", PRIVATE_FIX)
        text, fix = f"{shown}: {error.message.rstrip('.')}", FIXES.get(error.code, FIX)
        return unreachable("photo", text, fix) if error.retryable else fail("photo", text, fix)


FIX = "Try another photo."
PRIVATE_FIX = "Give a public URL, or the photo as a file. For this host's own, in development: WORKER_PHOTO_LOOPBACK=true"
FIXES = {
    "photo_url_refused": "Give a URL that begins with https:// and holds no password.",
    "photo_host_refused": "Allow its host in WORKER_PHOTO_HOSTS.",
    "photo_not_found": "Open the URL in a private window of a browser: the worker gets what you see there.",
    "photo_forbidden": "Open the URL in a private window of a browser: the worker gets what you see there.",
    "photo_unreachable": "Try it with: curl -sSI URL",
}


def _private(url: str) -> str:
    """Say of a URL whose host is no public one that it is private; nothing of others."""
    from worker.pipeline.address import is_public, resolve  # noqa: PLC0415 - see above

    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    try:
        addresses = [str(ipaddress.ip_address(host))]
    except ValueError:
        try:
            addresses = resolve(host)
        except (OSError, UnicodeError):
            return ""
    private = [address for address in addresses if not is_public(address)]
    if not private:
        return ""
    verb = "is" if host in private else f"has {private[0]},"
    return f"{host} {verb} a private address, and workers download from public ones only"


def _opened(file: Path) -> str:
    """Decode a photo as a worker does. Return its type, pixels and bytes. Raises: JobError."""
    from worker.pipeline.decode import decode_in_subprocess  # noqa: PLC0415 - see above

    image = decode_in_subprocess(file)
    width, height = image.info["original"]
    return f"{image.info['format']}, {width:,} by {height:,} pixels, {file_size(file.stat().st_size)}"


def photo_url(photo: str, settings: Settings) -> str:
    """Return a photo's URL. A file is uploaded to the store first, under its content's hash. Raises: ConfigError."""
    if is_url(photo):
        return photo
    file = Path(photo)
    if settings.storage_dir and not settings.storage_url:
        raise ConfigError(
            f"{file.name} is a file, and nothing serves the store. Run `worker dev`, or set WORKER_STORAGE_URL."
        )
    try:
        return _upload(file, open_store(settings))
    except JobError as error:
        status = os.EX_TEMPFAIL if error.retryable else os.EX_CONFIG
        said = STORE_ERRORS.get(error.code)
        what = f"The store does not take {file.name}: {said} See: worker doctor" if said else error.message
        die(what, status)


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
