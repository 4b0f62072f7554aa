"""Folders for the files of running jobs: deleted after each job, and at the next start after a crash."""

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from worker.daemon.removal import remove_tree

TRIES = 10  # to make a folder: another daemon's sweep may delete it before it is locked


class Scratch:
    """This process's own folder below `root`, locked for as long as the process lives. `open` it first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folder: Path | None = None
        self._lock: TextIO | None = None
        self._opening = threading.Lock()
        self._left: set[Path] = set()  # folders of jobs that could not be deleted

    @property
    def folder(self) -> Path:
        """The folder. `ensure` may replace it by another one."""
        assert self._folder  # noqa: S101 - opened
        return self._folder

    def open(self) -> None:
        """Delete what ended processes left below the root, and make the folder. Raises: OSError."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(self.root)
        self.ensure()

    def ensure(self) -> None:
        """Make sure that a job's folder and a file in it can be made. If our own folder is gone, make a new one. Raises: OSError."""
        with self._opening:
            if not self._is_ours():
                self._make()
        folder = Path(tempfile.mkdtemp(prefix=".check-", dir=self.folder))
        try:
            (folder / "file").write_bytes(b"probe")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        while self._left:
            with suppress(OSError):
                remove_tree(self._left.pop())

    def lane(self, name: str) -> Path:
        """Return the folder that a lane's child may write to, and make it if it is missing. Raises: OSError."""
        below = f"lane-{name.replace('/', '-')}"
        if not (self.folder / below).is_dir():
            self.ensure()  # our own folder may be gone, too
            (self.folder / below).mkdir(mode=0o700, exist_ok=True)
        return self.folder / below

    @contextmanager
    def job(self, name: str, lane: str | None = None) -> Iterator[Path]:
        """Yield an empty folder, ours alone or in that of a lane, and delete it afterwards. Raises: OSError."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.lane(lane) if lane else self.folder))
        try:
            yield folder
        finally:
            try:
                remove_tree(folder)
            except OSError:
                self._left.add(folder)  # the disk is away; what is on it comes back with it

    def touch(self) -> None:
        """Show that the daemon lives: a container's health check reads the time of the lock file."""
        with suppress(OSError):
            os.utime(self.folder / ".lock")

    def close(self) -> None:
        """Delete the folder."""
        if self._folder:
            with suppress(OSError):
                remove_tree(self._folder)
        if self._lock:
            self._lock.close()

    def _is_ours(self) -> bool:
        """True if the folder holds the lock file that we have locked. Raises: OSError if the folder cannot be read."""
        return bool(self._folder and self._lock and _is_at(self._lock, self._folder / ".lock"))

    def _make(self) -> None:
        """Make and lock a folder, or lock ours again if only its lock file is gone: jobs may run in it. Raises: OSError."""
        if self._folder and (lock := _lock(self._folder)):
            self._replace(self._folder, lock)
            return
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(TRIES):
            folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self.root))
            if lock := _lock(folder):
                self._replace(folder, lock)
                return
        raise OSError(f"{self.root} does not keep the folders that are made in it")

    def _replace(self, folder: Path, lock: TextIO) -> None:
        if self._lock:
            self._lock.close()
        # The kernel releases the lock when the process ends, however it ends.
        self._folder, self._lock = folder, lock


def _sweep(root: Path) -> None:
    """Delete the folders of ended processes. Several daemons may share a root."""
    for folder in root.iterdir():
        if folder.is_dir() and not folder.is_symlink() and (lock := _lock(folder)):
            with suppress(OSError):
                remove_tree(folder)
            lock.close()


def _lock(folder: Path) -> TextIO | None:
    """Take the folder's lock. None if a living process holds it, or if the folder is gone."""
    path = folder / ".lock"
    try:
        file = path.open("w")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(file, path):  # not if a sweep deleted it between the two calls
            return file
    except OSError:
        pass
    file.close()
    return None


def _is_at(file: TextIO, path: Path) -> bool:
    """True if the open file is the one at this path. Raises: OSError if the path cannot be read."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
