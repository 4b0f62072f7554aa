"""The host: Python, libraries, memory, disks, and the GPU as its driver lists it."""

import getpass
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from worker import engines
from worker.compute import linux
from worker.compute.lanes import Host, plan
from worker.core import landlock
from worker.core.finding import Finding, advice, fail, ok
from worker.core.settings import Settings
from worker.ops.terminal.formats import file_size

PACKAGE = "shop-model-worker"
ROOMY_MB = 5000  # free on a disk: for weights, the files of a few jobs, and a core dump
ASK_S = 15


def python(_: Settings) -> Iterator[Finding]:
    """Check Python's version."""
    found, wanted = platform.python_version(), metadata.metadata(PACKAGE)["Requires-Python"]
    if SpecifierSet(wanted).contains(found):
        yield ok("python", f"{found} at {sys.executable}")
    else:
        yield fail(
            "python",
            f"{found}, but {wanted} is needed",
            "Create the virtual environment again with that Python.",
        )


def libraries(_: Settings) -> Iterator[Finding]:
    """Check that all libraries are installed in versions that fit."""
    unfit = []
    requirements = [Requirement(line) for line in metadata.requires(PACKAGE) or []]
    needed = [need for need in requirements if need.marker is None or need.marker.evaluate({"extra": ""})]
    for need in needed:
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            unfit.append(f"{need.name} is missing")
        else:
            if not need.specifier.contains(found, prereleases=True):
                unfit.append(f"{need.name} is {found}, not {need.specifier}")
    if unfit:
        yield fail(
            "libraries",
            "; ".join(unfit),
            "Install the lock's versions: pip install --require-hashes --no-deps -r requirements.lock",
        )
    else:
        yield ok("libraries", f"all {len(needed)} have versions that fit")


def memory(settings: Settings) -> Iterator[Finding]:
    """Check the memory of the host or of its container."""
    total = linux.memory_bytes()
    needed = engines.find(settings.engine).ram_gb
    text = file_size(total)
    if total / 1e9 < needed:
        yield advice(
            "memory",
            f"{text} in all, and {settings.engine} needs about {needed:g} GB per lane",
            "Give the host or the container more memory: jobs may fail with out_of_memory or worker_lost.",
        )
    else:
        yield ok("memory", text)


def disk(settings: Settings) -> Iterator[Finding]:
    """Check the free space where jobs, models and weights are stored."""
    places = {
        "WORKER_TEMP_DIR": settings.temp_dir,
        "WORKER_STORAGE_DIR": settings.storage_dir,
        "WORKER_WEIGHTS_DIR": settings.weights_dir,
    }
    for variable, place in places.items():
        if place is None:
            continue
        free = shutil.disk_usage(_standing(place)).free
        free_mb = free // 1_000_000
        text = f"{variable} ({place}) has {file_size(free)} free"
        if free_mb < settings.min_free_mb and variable != "WORKER_WEIGHTS_DIR":
            yield fail(
                "disk",
                f"{text}; no job is claimed below {file_size(settings.min_free_mb * 1e6)}",
                f"Free some space, point {variable} to a larger disk, or lower WORKER_MIN_FREE_MB.",
            )
        elif free_mb < ROOMY_MB:
            yield advice("disk", text, "Free some space before the disk is full.")
        else:
            yield ok("disk", text)


def temp_folder(settings: Settings) -> Iterator[Finding]:
    """Check that WORKER_TEMP_DIR can be written to. A missing folder is not created: it would belong to the doctor's user."""
    folder, user = settings.temp_dir, _user()
    fix = "Set WORKER_TEMP_DIR to a folder that the service's user can write to, and run the doctor as that user."
    try:
        if folder.is_dir():
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"probe")
            yield ok("temp folder", f"{user} can write to {folder}")
        elif (parent := _standing(folder)).is_dir() and os.access(parent, os.W_OK | os.X_OK):
            yield ok("temp folder", f"{user} can create {folder}")
        else:
            yield fail("temp folder", f"{user} cannot create {folder} in {parent}", fix)
    except OSError as error:
        yield fail("temp folder", f"{user} cannot write to {folder}: {error.strerror}", fix)


def sandbox(settings: Settings) -> Iterator[Finding]:
    """Say what the kernel takes from the processes that meet photos."""
    version = landlock.abi()
    if not settings.sandbox:
        yield advice(
            "sandbox",
            f"off: a photo that takes a child over can open all that {_user()} can",
            "Unset WORKER_SANDBOX.",
        )
    elif not version:
        yield advice(
            "sandbox",
            f"no Landlock here: a photo that takes a child over can open all that {_user()} can",
            "Linux has it from 5.13 on if /sys/kernel/security/lsm lists landlock, and Docker lets it through from 23 on.",
        )
    elif version < landlock.NETWORK:
        yield advice(
            "sandbox",
            f"Landlock's ABI {version}: children keep their own files, and all ports",
            "Linux 6.7 or later takes the ports too.",
        )
    else:
        yield ok(
            "sandbox",
            f"Landlock's ABI {version}: children keep their own files and the ports of photos, decoders nothing",
        )


def gpu(settings: Settings) -> Iterator[Finding]:
    """Compare the GPUs that the driver lists with the settings; the check `torch` says what torch finds."""
    asked = settings.cuda_visible_devices
    if settings.device == "cpu" or asked == "":
        yield ok("gpu", "not used: the lanes are on the CPU")
        return
    listed = _driver()
    if isinstance(listed, str):
        text = f"not found: {listed}"
        if settings.device == "cuda" or asked:
            yield fail(
                "gpu",
                text,
                "Install NVIDIA's driver (nvidia-smi must list the GPU), or set WORKER_DEVICE=cpu.",
            )
        elif "cuda" in engines.find(settings.engine).devices and settings.device == "auto":
            yield advice(
                "gpu",
                f"{text}; {settings.engine} on a CPU needs half a minute or more for a model",
                "Install NVIDIA's driver, or set WORKER_DEVICE=cpu if this is intended.",
            )
        else:
            yield ok("gpu", "none: the lanes are on the CPU")
        return
    numbers = {line.split(",")[0].strip() for line in listed}
    for name in filter(None, (part.strip() for part in (asked or "").split(","))):
        if name.isdigit() and name not in numbers:
            yield fail(
                "gpu",
                f"CUDA_VISIBLE_DEVICES names GPU {name}, but there are only {', '.join(sorted(numbers))}",
                "Name GPUs that nvidia-smi lists, or unset it to use all of them.",
            )
    for line in listed:
        yield ok("gpu", line)


def lanes(settings: Settings) -> Iterator[Finding]:
    """Share the host out between lanes as the daemon does, and check that its memory is enough for them."""
    host, spec = Host.measure(), engines.find(settings.engine)
    planned = plan(settings, host)
    for warning in planned.warnings:
        yield advice("lanes", warning, "Correct CUDA_VISIBLE_DEVICES.")
    needed_gb = sum(
        device.lanes * (spec.gpu_ram_gb if device.gpu else spec.ram_gb) for device in planned.devices
    )
    for device in planned.devices:
        name = f"{device.id} ({device.gpu.name})" if device.gpu else device.id
        yield ok("lanes", f"{name}: {device.lanes}, by {device.reason}")
    if settings.lanes != "auto" and needed_gb > host.memory_gb:
        yield advice(
            "lanes",
            f"{needed_gb:.0f} GB may be needed, and {host.memory_gb:.0f} GB of memory are free",
            "Lower WORKER_LANES: jobs may fail with out_of_memory or worker_lost.",
        )


def _driver() -> list[str] | str:
    """Return a line for each GPU: number, name, driver, memory; or why there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "nvidia-smi is not installed"
    query = ["--query-gpu=index,name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run([program, *query], capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi does not answer ({type(error).__name__})"
    lines = answer.stdout.splitlines()
    if answer.returncode or not lines:
        return " ".join((answer.stdout + answer.stderr).split())[:200] or "nvidia-smi lists none"
    return lines


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.geteuid()}"


def _standing(place: Path) -> Path:
    """Return the place itself, or the nearest folder above it that exists."""
    return next(folder for folder in (place, *place.absolute().parents) if folder.exists())
