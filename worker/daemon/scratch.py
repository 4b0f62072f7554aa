"""Folders for the files of running jobs: deleted after each job, and at the next start after a crash."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


class Scratch:
    """This process's own folder below `root`, locked for as long as the process lives. Raises: OSError."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(root)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root))
        # The kernel releases the lock when the process ends, however it ends.
        self._lock = _lock(self.folder)

    @contextmanager
    def job(self, name: str) -> Iterator[Path]:
        """Yield an empty folder, and delete it afterwards."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def touch(self) -> None:
        """Show that the daemon lives: a container's health check reads the time of the lock file."""
        with suppress(OSError):
            os.utime(self.folder / ".lock")

    def close(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock:
            self._lock.close()


def _sweep(root: Path) -> None:
    """Delete the folders of ended processes. Several daemons may share a root."""
    for folder in root.iterdir():
        if folder.is_dir() and not folder.is_symlink() and (lock := _lock(folder)):
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()


def _lock(folder: Path) -> TextIO | None:
    """Take the folder's lock. None if a living process holds it."""
    try:
        file = (folder / ".lock").open("w")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
