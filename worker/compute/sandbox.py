"""What a child keeps, where the kernel has Landlock: the libraries, its weights, its device, its lane's folder, and the servers of photos.

A photo that takes the child over finds no file of the daemon's user, neither settings nor the files of other jobs, and reaches
no other port of another host than those of photos. Without Landlock the child is as any process of that user.
"""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import worker
from worker.compute.protocol import Start
from worker.core import landlock
from worker.core.landlock import DEVICE, LIST, READ, RUN, WRITE

PORTS = (80, 443, 53)  # of photos, and of DNS for an answer that is too long for UDP

PROGRAMS = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt/cuda", "/nix/store", "/gnu/store")
# The kernel's: processors, memory, GPUs. Of other processes it shows neither memory nor environment to one that is shut in.
KERNEL = ("/proc", "/sys")
# By name: /etc may hold the worker's own settings.
SETTINGS = tuple(
    f"/etc/{name}"
    for name in (
        "ld.so.cache", "ld.so.preload", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone", "passwd", "group",  # libraries
        "ssl", "pki", "ca-certificates", "crypto-policies",  # certificate authorities
        "host.conf", "gai.conf", "services", "protocols", "networks",  # the resolver
        "nvidia", "OpenCL",
    )
)  # fmt: skip
RESOLVER = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf")  # read again whenever they change
LISTED = ("/dev",)
DEVICES = ("null", "zero", "full", "random", "urandom", "nvidia*", "nvhost*", "nvmap", "dxg")
SHARED = ("/dev/shm", "/tmp/nvidia-mps")  # noqa: S108 - OpenMP's, CUDA's, and those of CUDA's multi-process service
# What CUDA compiles for a GPU that torch has no code for takes minutes, so its cache must last.
CUDA_CACHE = ".nv"


def shut_in(start: Start) -> None:
    """Keep what `allowed` lists and give up all other files, ports, and processes for ever."""
    for cache in _cuda_caches(start):
        with suppress(OSError):
            cache.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(start.folder)
    # Everybody's own machine is the network of a developer.
    landlock.restrict(allowed(start), None if start.photo_loopback else PORTS)


def allowed(start: Start) -> dict[Path, int]:
    """Return the paths that a child keeps, with Landlock's rights. Those that do not exist do not matter."""
    paths = dict.fromkeys(
        map(Path, (*PROGRAMS, sys.prefix, sys.base_prefix, os.path.realpath(sys.executable))), RUN
    )
    paths |= dict.fromkeys(
        map(Path, (*KERNEL, *SETTINGS, *_variables("LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"))), READ
    )
    paths |= dict.fromkeys(map(_at_rest, RESOLVER), READ)
    paths |= dict.fromkeys(map(Path, LISTED), LIST)
    package, here = Path(worker.__file__).parent, Path.cwd()
    for entry in map(Path, filter(None, sys.path)):
        # A checkout may hold more than the package, and the current folder anything at all.
        if entry in package.parents:
            paths.setdefault(entry, LIST)
        elif entry != here:
            paths.setdefault(entry, READ)
    paths |= dict.fromkeys((package, *_weights(start.weights_dir)), READ)
    paths |= {node: DEVICE for name in DEVICES for node in Path("/dev").glob(name)}
    shared = map(Path, (*SHARED, *_variables("CUDA_MPS_PIPE_DIRECTORY")))
    paths |= dict.fromkeys((*shared, *_cuda_caches(start)), WRITE)
    return paths | {start.folder: WRITE}


Identities = Mapping[str, tuple[int, int] | None]
"""Device and inode of each path."""


def identities(folder: Path) -> Identities:
    """Identify the files and the folder that a child may lose: it keeps what was there at its start, and not what replaces it."""
    watched: Sequence[str] = (str(folder), *RESOLVER) if landlock.abi() else ()
    return {path: _identity(path) for path in watched}


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - thrice as fast, and this is done for each job
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _at_rest(path: str) -> Path:
    """Return the file; of a link to a file elsewhere, the folder, where its owner replaces it."""
    real = Path(os.path.realpath(path))
    return real if real.parent == Path("/etc") else real.parent


def _weights(folder: Path) -> list[Path]:
    """Return the folder of the weights, and all that links lead to from there, such as the files of a hub's cache."""
    found = [folder]
    for known in found:  # it grows
        for path, folders, files in os.walk(known):
            links = (Path(path, name) for name in (*folders, *files))
            # Not Path.resolve(), which takes links in a circle for an error.
            found += {Path(os.path.realpath(link)) for link in links if link.is_symlink()}.difference(found)
    return found


def _cuda_caches(start: Start) -> list[Path]:
    if start.device != "cuda":
        return []
    homes = [Path(home, CUDA_CACHE) for home in _variables("HOME")]
    return [*homes, *map(Path, _variables("CUDA_CACHE_PATH"))]


def _variables(*names: str) -> list[str]:
    """Return the paths in these variables of the environment."""
    return [path for name in names for path in os.environ.get(name, "").split(os.pathsep) if path]
