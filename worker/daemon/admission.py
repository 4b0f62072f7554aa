"""Whether what a job makes could be kept: the store takes files, and the disks have room."""

import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from worker.core.finding import Level
from worker.storage import Store, StoreUnreachable

LONGEST_S = 30.0  # between two looks at a store that does not work

log = structlog.get_logger()


class Admission:
    """One for all lanes. While it is shut nothing is claimed: a job that cannot end well only loses an attempt."""

    def __init__(self, store: Store, folders: Sequence[Path | None], min_free_mb: int) -> None:
        self._store = store
        self._folders = [folder for folder in folders if folder]
        self._min_free_mb = min_free_mb
        self._lock = threading.Lock()
        self._store_works = True
        self._check_at = 0.0  # time.monotonic()
        self._wait_s = 1.0
        self._short = False

    @property
    def is_open(self) -> bool:
        """As it was found the last time."""
        return self._store_works and not self._short

    def close(self) -> None:
        """A job has failed because of the store, so it is looked at before the next one."""
        with self._lock:
            if self._store_works:
                self._store_works = False
                self._check_at, self._wait_s = 0.0, 1.0

    def check(self) -> bool:
        with self._lock:
            return (self._store_works or self._works_again()) and self._has_room()

    def _works_again(self) -> bool:
        if time.monotonic() < self._check_at:
            return False
        try:
            problems = [str(finding) for finding in self._store.check() if finding.level is Level.FAIL]
        except StoreUnreachable as error:
            problems = [str(error)]
        if problems:
            log.error("store_unavailable", problems=problems, next_try_s=self._wait_s)
            self._check_at = time.monotonic() + self._wait_s
            self._wait_s = min(LONGEST_S, self._wait_s * 2)
        else:
            log.info("store_recovered")
            self._store_works = True
        return self._store_works

    def _has_room(self) -> bool:
        free_mb = min((_free_mb(folder) for folder in self._folders if folder.exists()), default=0)
        short = free_mb < self._min_free_mb
        if short and not self._short:
            log.error("no_space", free_mb=free_mb, needed_mb=self._min_free_mb)
        elif self._short and not short:
            log.info("disk_recovered", free_mb=free_mb)
        self._short = short
        return not short


def _free_mb(folder: Path) -> int:
    return shutil.disk_usage(folder).free // 1_000_000
