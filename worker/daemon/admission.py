"""Decides if jobs may be claimed: only while the store takes files and the disks have room for them."""

import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from worker.core.finding import Level
from worker.storage import Store, StoreUnreachable

LONGEST_S = 30.0  # between two checks of a store that does not work

log = structlog.get_logger()


class Admission:
    """One for all lanes. While it is closed nothing is claimed: a job whose result cannot be stored only loses an attempt."""

    def __init__(self, store: Store, folders: Sequence[Path | None], min_free_mb: int) -> None:
        self._store = store
        self._folders = [folder for folder in folders if folder]
        self._min_free_mb = min_free_mb
        self._lock = threading.Lock()
        self._store_works = True
        self._check_at = 0.0  # time.monotonic()
        self._wait_s = 1.0
        self._disk_full = False

    @property
    def is_open(self) -> bool:
        """What the last check found."""
        return self._store_works and not self._disk_full

    def close(self) -> None:
        """Have the store checked before the next claim: a job has just failed because of it."""
        with self._lock:
            if self._store_works:
                self._store_works = False
                self._check_at, self._wait_s = 0.0, 1.0

    def check(self) -> bool:
        """Check the disks, and a closed store when its wait is over. True if a job may be claimed."""
        with self._lock:
            return (self._store_works or self._store_recovered()) and self._has_room()

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

    def _has_room(self) -> bool:
        free_mb = min((_free_mb(folder) for folder in self._folders if folder.exists()), default=0)
        full = free_mb < self._min_free_mb
        if full and not self._disk_full:
            log.error("no_space", free_mb=free_mb, needed_mb=self._min_free_mb)
        elif self._disk_full and not full:
            log.info("disk_recovered", free_mb=free_mb)
        self._disk_full = full
        return not full


def store_problems(store: Store) -> list[str]:
    """Return why the store takes no files now; nothing if it does."""
    try:
        return [str(finding) for finding in store.check() if finding.level is Level.FAIL]
    except StoreUnreachable as error:
        return [str(error)]


def _free_mb(folder: Path) -> int:
    return shutil.disk_usage(folder).free // 1_000_000
