"""Files below a folder, opened without following a link on the way: whoever writes there cannot send us elsewhere."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO


def open_file(folder: Path, parts: Sequence[str]) -> BinaryIO:
    """Open a regular file for reading. `parts` are the names on the way to it from the folder, which is trusted itself.

    Raises: OSError, also for a link or a part that is not one plain name, and for anything that is not a regular file.
    """
    if not parts or any(part in {"", ".", ".."} or "/" in part or "\0" in part for part in parts):
        raise FileNotFoundError(f"no file name: {'/'.join(parts)!r}")
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            above = opened
            opened = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            os.close(above)
        # A FIFO without a writer would hold us up for ever.
        file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=opened)
    finally:
        os.close(opened)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(f"{parts[-1]} is not a regular file")
    return os.fdopen(file, "rb")
