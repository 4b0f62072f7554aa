"""What an operator can do: about a job that failed, and where no worker runs. For the command line and the dashboard.

What helps depends on how the daemon is run here, so no text names a program that does not run it.
"""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

DEV_FOLDER = "WORKER_DEV_DIR"
"""In the environment of `worker dev` and in its dev.env: the folder of its data."""
SYSTEMD = Path("/run/systemd/system")  # there where systemd is the init
UNITS = (
    Path("/etc/systemd/system/worker.service"),
    Path("/usr/local/lib/systemd/system/worker.service"),
    Path("/usr/lib/systemd/system/worker.service"),
)

_PHOTO = "Open the URL in a private window of a browser: the worker gets what you see there."
_OTHER_PHOTO = "Try a photo that is known to work: worker enqueue --watch --sample vase"
_STORE = "Test the store: worker doctor"

# `{id}` is the job's or its beginning, `{log}` the place of the daemon's log. What a merchant may read is in core/errors.py.
_BY_CODE = {
    "photo_url_refused": "Give a URL that begins with https:// and holds no password.",
    "photo_host_refused": "Allow its host in the worker's WORKER_PHOTO_HOSTS, restart the worker, then: worker retry {id}",
    "photo_not_found": f"{_PHOTO} Then: worker retry {{id}}",
    "photo_forbidden": f"{_PHOTO} Then: worker retry {{id}}",
    "photo_too_slow": "Upload the photo to the shop or to a faster server: the photos of a job have 60 s in all.",
    "photo_unreachable": "Try it from the worker's host: curl -sSI URL. {log}",
    "photo_too_large": _OTHER_PHOTO,
    "photo_too_many_pixels": _OTHER_PHOTO,
    "photo_too_small": _OTHER_PHOTO,
    "photo_not_an_image": f"{_PHOTO} A login page is not a photo.",
    "photo_too_complex": _OTHER_PHOTO,
    "photo_broken": _OTHER_PHOTO,
    "no_object": _OTHER_PHOTO,
    "no_surface": _OTHER_PHOTO,
    "out_of_memory": "See what else uses the memory: nvidia-smi, or top without a GPU. {log}",
    "no_space": "Free space on the disks of WORKER_TEMP_DIR and WORKER_STORAGE_DIR (df -h), then: worker retry {id}",
    "temp_unavailable": "Something deletes files in WORKER_TEMP_DIR or its disk fails; exclude it from clean-up jobs. {log}",
    "timed_out": "Raise WORKER_SOFT_LIMIT_S, or use --quality fast; a CPU may need more time. {log}",
    "internal_error": "{log}",
    "worker_lost": "The daemon or its host stopped, often for want of memory: dmesg | grep -i oom. {log}",
    "superseded": "A newer job for the same product ended first: worker status",
    "expired": "No worker began it by its start_by: worker status",
    "storage_unavailable": _STORE,
    "storage_denied": f"SUPABASE_SERVICE_ROLE_KEY must be the service key. {_STORE}",
    "storage_too_large": "Raise the bucket's limit on file size, then: worker retry {id}",
    "storage_refused": "The bucket may not allow the file's type: docs/storage.md. {log}",
}

CODES = frozenset(_BY_CODE)
PAGE = "docs/symptoms.md"
"""Has a section for each code, and for what people see otherwise."""
PRIVATE = (
    "The address is private, and workers download from public ones only: give a public URL, or the photo as a file. "
    "For photos of this host itself, in development: WORKER_PHOTO_LOOPBACK=true"
)


def supervisor() -> Literal["dev", "systemd", ""]:
    """Return what runs the daemon here: `worker dev`, systemd, or nothing that is known."""
    if os.environ.get(DEV_FOLDER):
        return "dev"
    return "systemd" if SYSTEMD.is_dir() and any(unit.exists() for unit in UNITS) else ""


def start_worker() -> str:
    """Say what to do where no worker is running."""
    return {
        "dev": "Start it again: worker dev",
        "systemd": "See: systemctl status worker",
        "": "Start one: worker run",
    }[supervisor()]


def is_private(url: str) -> bool:
    """True if a URL names a private address or this machine. A host's name is not looked up."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or not ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def on_job(job: Mapping[str, Any]) -> str | None:
    """Say what to do about a job that failed or that waits after a failure. None if it has no error."""
    code = job["error_code"]
    if code is None:
        return None
    log = {
        "dev": "The reason is in the terminal of `worker dev`: look for {id}",
        "systemd": "The reason is in the daemon's log: journalctl -u worker | grep {id}",
        "": "The reason is in the daemon's log: look for {id}",
    }[supervisor()]
    text = _BY_CODE.get(code, "{log}").replace("{log}", log)
    if code in {"photo_host_refused", "photo_url_refused"} and any(
        map(is_private, job.get("image_urls") or ())
    ):
        text = PRIVATE
    return text.replace("{id}", str(job.get("short") or job["id"]))
