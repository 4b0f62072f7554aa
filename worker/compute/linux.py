"""Requests to Linux by prctl(2). On other systems these functions do nothing."""

import ctypes
import signal
import sys

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


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)
