"""Files below a folder, opened without following a link on the way: whoever writes there cannot send us elsewhere."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO without a writer would hold us up


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """Open a folder; yield its file descriptor, which stays at this folder whatever becomes of its path. Raises: OSError."""
    descriptor = os.open(folder, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(folder: int, parts: Sequence[str]) -> BinaryIO:
    """Open a regular file for reading. `parts` are the names on the way to it from the folder.

    Raises: FileNotFoundError; another OSError for a link, and for all that is not a regular file.
    """
    if not parts or any(part in {"", ".", ".."} or "/" in part or "\0" in part for part in parts):
        raise FileNotFoundError(errno.ENOENT, "no file name", "/".join(parts))
    inner = os.dup(folder)
    try:
        for part in parts[:-1]:
            above = inner
            inner = os.open(part, _FOLDER, dir_fd=above)
            os.close(above)
        return _open_regular(inner, parts[-1])
    finally:
        os.close(inner)


def _open_regular(folder: int, name: str) -> BinaryIO:
    # Looked at before it is opened, since opening a device may do something, and after it, since it may have been replaced.
    _require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False), name)
    file = os.open(name, _FILE, dir_fd=folder)
    try:
        _require_regular(os.fstat(file), name)
    except OSError:
        os.close(file)
        raise
    return os.fdopen(file, "rb")


def _require_regular(found: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", name)
