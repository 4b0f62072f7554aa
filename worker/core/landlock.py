"""Take files, network and signals from this process and all that it starts, for ever, as far as the kernel can: Landlock of Linux.

It needs no privilege. What a version (`abi`) of it does not know stays as it is. See landlock(7).
"""

import ctypes
import os
import stat
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

# linux/landlock.h. The numbers of the system calls are the same on all of today's machines.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION = 1
_BENEATH, _PORT = 1, 2
_NO_NEW_PRIVILEGES = 38  # linux/prctl.h

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << n for n in range(6))
_MAKE_DIR, _MAKE_FILE, _REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 7, 1 << 8, 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_CONNECT, _BIND = 2, 1

LIST = _READ_DIR
READ = _READ_FILE | _READ_DIR
RUN = READ | _EXECUTE
DEVICE = READ | _WRITE_FILE | _IOCTL_DEVICE
WRITE = READ | _WRITE_FILE | _TRUNCATE | _MAKE_FILE | _MAKE_DIR | _REMOVE_FILE | _REMOVE_DIR | _REFER
"""Rights on a path and all below it. None of them makes links, sockets, pipes or device nodes, and WRITE runs nothing."""

NETWORK = 4  # the ABI from which TCP can be taken away
SCOPES = 6  # and signals to processes outside, and abstract Unix sockets


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _Port(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


def abi() -> int:
    """Return the version of the kernel's Landlock; 0 where there is none, or where a container's rules forbid it."""
    if sys.platform != "linux":
        return 0
    try:
        return _call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except OSError:
        return 0


def restrict(paths: Mapping[Path, int], ports: Collection[int] | None = ()) -> int:
    """Leave to this thread, and to all threads and processes that it starts, these paths with these rights and nothing else.

    Call it before there are other threads: they keep what they have. Files that are open stay usable.

    Args:
        paths: files and folders with LIST, READ, RUN, DEVICE or WRITE. Those that do not exist are left out.
        ports: of TCP, to connect to; None: all of them. None can be listened on.

    Returns the ABI, 0 if nothing was taken. Raises: OSError if the kernel refuses what its ABI promises.
    """
    version = abi()
    if not version:
        return 0
    handled = (1 << {1: 13, 2: 14}.get(version, 15)) - 1
    if version >= 5:
        handled |= _IOCTL_DEVICE
    ruleset = _Ruleset(fs=handled)
    if version >= NETWORK:
        ruleset.net = _BIND | (_CONNECT if ports is not None else 0)
    if version >= SCOPES:
        ruleset.scoped = 3
    # An older kernel knows a shorter structure, and takes a longer one whose rest is 0.
    rules = _call(_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(ctypes.sizeof(ruleset)), ctypes.c_uint32(0))
    try:
        for path, rights in paths.items():
            _allow(rules, path, rights & handled)
        for port in (ports or ()) if version >= NETWORK else ():
            rule = _Port(allowed=_CONNECT, port=port)
            _call(_ADD, rules, _PORT, ctypes.byref(rule), ctypes.c_uint32(0))
        _libc().prctl(_NO_NEW_PRIVILEGES, *map(ctypes.c_ulong, (1, 0, 0, 0)))
        _call(_RESTRICT, rules, ctypes.c_uint32(0))
    finally:
        os.close(rules)
    return version


def _allow(rules: int, path: Path, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it does not exist, or may not be opened anyway
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _OF_FILES
        if rights:
            rule = _Beneath(allowed=rights, parent=parent)
            _call(_ADD, rules, _BENEATH, ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(parent)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    answer: int = _libc().syscall(ctypes.c_long(number), *arguments)
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer
