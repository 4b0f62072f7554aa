"""Decides if jobs may be claimed: only while the store takes files, and the folders can be used and have room."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from worker.core.errors import one_line
from worker.core.finding import Level
from worker.daemon.scratch import Scratch
from worker.storage import Store, StoreUnreachable

LONGEST_S = 10.0  # between two checks of a store that does not work
RECHECK_S = 10.0  # between two checks of the folders while no lane has a reason to check them
MIN_FREE_FILES = 100  # a job makes some twenty

log = structlog.get_logger()


@dataclass(frozen=True)
class _Trouble:
    """Why the folders cannot be used. `kind` tells it from others, `text` is for people, and `log` writes the line."""

    kind: Literal["room", "temp", "store"]
    text: str
    log: Callable[[], None]


class Admission:
    """One for all lanes. While it is closed nothing is claimed: a job whose files cannot be kept only loses an attempt."""

    def __init__(self, store: Store, scratch: Scratch, storage_dir: Path | None, min_free_mb: int) -> None:
        """`storage_dir` is the store's folder, if it is one."""
        self._store = store
        self._scratch = scratch
        self._storage_dir = storage_dir
        self._min_free_mb = min_free_mb
        self._lock = threading.Lock()
        self._store_works = True
        self._check_at = 0.0  # time.monotonic()
        self._wait_s = 1.0
        self._trouble: _Trouble | None = None
        self._checked_at = float("-inf")

    @property
    def store_problem(self) -> str:
        """The problem of the store at the last check; an empty string if it works."""
        return "" if self._store_works else "it does not work"

    @property
    def folder_problem(self) -> str:
        """The problem of the folders of running jobs and of models at the last check; an empty string if they work."""
        return self._trouble.text if self._trouble else ""

    @property
    def is_open(self) -> bool:
        """True if jobs could be claimed at the last check."""
        return not self.store_problem and not self.folder_problem

    def close(self) -> None:
        """Have the store checked before the next claim: a job has just failed because of it."""
        with self._lock:
            if self._store_works:
                self._store_works = False
                self._check_at, self._wait_s = 0.0, 1.0

    def check(self) -> bool:
        """Check the folders, and a closed store when its wait is over. True if a job may be claimed."""
        with self._lock:
            return (self._store_works or self._store_recovered()) and self._check_folders()

    def recheck(self) -> None:
        """Check the folders if nobody has done so for RECHECK_S: `/readyz` must not promise what an idle daemon cannot do."""
        with self._lock:
            if time.monotonic() - self._checked_at > RECHECK_S:
                self._check_folders()

    def _store_recovered(self) -> bool:
        if time.monotonic() < self._check_at:
            return False
        if problems := store_problems(self._store):
            log.error("store_unavailable", problems=problems, next_try_s=self._wait_s)
            self._check_at = time.monotonic() + self._wait_s
            self._wait_s = min(LONGEST_S, self._wait_s * 2)
        else:
            log.info("store_recovered")
            self._store_works = True
        return self._store_works

    def _check_folders(self) -> bool:
        found, before = self._find_trouble(), self._trouble
        if found and (before is None or before.kind != found.kind):
            found.log()
        elif before and not found:
            if before.kind == "store":
                log.info("store_recovered")
            else:
                log.info("disk_recovered")
        self._trouble = found
        self._checked_at = time.monotonic()
        return found is None

    def _find_trouble(self) -> _Trouble | None:
        # Room first: on a full disk, nothing else works either.
        folders = {"WORKER_TEMP_DIR": self._scratch.root, "WORKER_STORAGE_DIR": self._storage_dir}
        for name, folder in folders.items():
            if folder and (trouble := self._find_lack_of_room(name, folder)):
                return trouble
        try:
            self._scratch.ensure()
        except OSError as error:
            reason = one_line(error)
            return _Trouble(
                "temp",
                f"WORKER_TEMP_DIR cannot be used: {reason}",
                lambda: log.error("temp_unavailable", reason=reason),  # noqa: TRY400 - it names itself
            )
        # A folder is checked before each claim, since that costs nothing.
        if self._storage_dir and (problems := store_problems(self._store)):
            return _Trouble(
                "store",
                " ".join(problems),
                lambda: log.error("store_unavailable", problems=problems, next_try_s=1.0),
            )
        return None

    def _find_lack_of_room(self, name: str, folder: Path) -> _Trouble | None:
        try:
            found = os.statvfs(folder)
        except OSError:
            return None  # it is missing, and may be made anew
        free_mb, needed_mb = found.f_bavail * found.f_frsize // 1_000_000, self._min_free_mb
        if free_mb < needed_mb:
            return _Trouble(
                "room",
                f"the disk of {name} has {free_mb} MB free and needs {needed_mb}",
                lambda: log.error("no_space", folder=name, free_mb=free_mb, needed_mb=needed_mb),
            )
        # A file system without a fixed number of files, such as btrfs, says 0 of 0.
        if found.f_files and found.f_favail < MIN_FREE_FILES:
            return _Trouble(
                "room",
                f"the disk of {name} has room for {found.f_favail} more files and needs {MIN_FREE_FILES}",
                lambda: log.error(
                    "no_space", folder=name, free_files=found.f_favail, needed_files=MIN_FREE_FILES
                ),
            )
        return None


def store_problems(store: Store) -> list[str]:
    """Return why the store takes no files now; nothing if it does."""
    try:
        return [str(finding) for finding in store.check() if finding.level is Level.FAIL]
    except StoreUnreachable as error:
        return [str(error)]
