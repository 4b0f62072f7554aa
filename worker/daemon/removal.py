"""Remove the folder of a job, whatever a child that a photo has taken over has left in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it. Raises: OSError."""
    try:
        shutil.rmtree(folder)
    except (RecursionError, PermissionError):
        # Folders in folders without end, or with rights that keep us out.
        with _opened(str(folder), None) as top:
            _empty(top)
        folder.rmdir()


def _empty(top: int) -> None:
    """Remove what is in an open folder, one level after the other: what lies deeper is moved up first. No link is followed."""
    numbers = count()
    left = True
    while left:
        left = False
        for name, is_folder in _entries(top):
            if not is_folder:
                os.unlink(name, dir_fd=top)
                continue
            with _opened(name, top) as inner:
                for deeper, is_folder_too in _entries(inner):
                    if is_folder_too:
                        _make_ours(deeper, inner)  # a folder that keeps us out cannot be moved either
                    os.rename(deeper, f".{os.getpid()}-{next(numbers)}", src_dir_fd=inner, dst_dir_fd=top)
                    left = True
            os.rmdir(name, dir_fd=top)


def _entries(folder: int) -> list[tuple[str, bool]]:
    """Return the names in an open folder, and which of them are folders."""
    with os.scandir(folder) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _make_ours(name: str, above: int | None) -> None:
    """Give ourselves the rights to a folder, in the open folder above it."""
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        os.chmod(f"/proc/self/fd/{path}", 0o700)  # noqa: PTH101 - of what is open, not of a path
    finally:
        os.close(path)


@contextmanager
def _opened(name: str, above: int | None) -> Iterator[int]:
    """Open a folder, and give ourselves the rights to it first."""
    _make_ours(name, above)
    opened = os.open(name, _FOLDER, dir_fd=above)
    try:
        yield opened
    finally:
        os.close(opened)
