"""What only the operating system knows or does: prctl(2), which does nothing on systems other than Linux, and the memory."""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_DUMPABLE = 4


def disable_core_dumps_and_ptrace() -> None:
    """Keep this process's memory and environment, which hold the secrets, from other processes of its user.

    Linux lets processes of one user read each other's: so could a child that a photo took over. From now on only root
    can, and no core dump is written.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def die_with_parent() -> None:
    """Have Linux kill this process when the thread that started it is gone."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def memory_bytes() -> int:
    """Return the memory of the host, or of its container if that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return total


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)
