"""The key of a result: jobs with the same key give the same files and the same report."""

import hashlib
import json
import platform
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import worker
from worker import __version__

ROOMS = ("engines", "mesh", "pipeline", "tsr")  # that turn photos into files

# The libraries that they compute with. A test finds those that are missing.
LIBRARIES = (
    "fast-simplification",
    "manifold3d",
    "numpy",
    "onnxruntime",
    "pillow",
    "pyyaml",
    "rembg",
    "safetensors",
    "scikit-image",
    "scipy",
    "torch",
    "trimesh",
    "usd-core",
    "xatlas",
)


def digest(inputs: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON-able inputs in hex. The order of an object's keys does not matter."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


@cache
def code() -> str:
    """Return a hash of the code that makes the files: ours, the libraries', and Python's with the kind of its processor."""
    folder = Path(worker.__file__).parent
    sources = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for room in ROOMS
        for path in (folder / room).rglob("*.py")
    }
    return digest(
        {
            "sources": sources,
            "version": __version__,
            "libraries": {name: _version(name) for name in LIBRARIES},
            "python": [platform.python_version(), platform.machine()],
        }
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None  # the extra `usdz` may be missing
