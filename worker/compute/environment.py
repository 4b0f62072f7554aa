"""What a child may know of our environment: how to find programs, libraries, the GPU and its own caches."""

import os

_INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TZ",
    "LD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
_INHERITED_PREFIXES = ("PYTHON", "OMP_", "MKL_", "NUMBA_", "NVIDIA_", "CUDA_")


def child_environment() -> dict[str, str]:
    """Return the variables of our environment that a child may see: no secret is among them."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
