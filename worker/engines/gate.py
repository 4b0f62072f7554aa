"""Bound how many lanes of a device compute on it at the same time: each of them takes one of its places.

Each lane's child is a process of its own, and all that share a device have one open file. A place is a lock on a byte
of it, which the system releases whatever ends the process; the file's first byte holds the number of places.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN_S = 0.01  # between two tries for a place; a network computes for some 0.1 s
MOST = 255  # a byte


class Gate:
    """The places of one device. The daemon makes it with `create`; its children open it by its file descriptor."""

    def __init__(self, fd: int, lanes: int) -> None:
        self.fd = fd
        self.lanes = min(lanes, MOST)

    @classmethod
    def create(cls, lanes: int) -> "Gate":
        """Make the gate of a device with so many lanes. Each of them has a place at first."""
        if hasattr(os, "memfd_create"):  # Linux: no disk is needed
            gate = cls(os.memfd_create("gate"), lanes)
        else:
            with tempfile.TemporaryFile() as file:
                gate = cls(os.dup(file.fileno()), lanes)
        os.pwrite(gate.fd, bytes([gate.lanes]), 0)
        return gate

    @property
    def places(self) -> int:
        """Return the number of lanes that may compute now, 1 to all. The file is not trusted: a child could write anything into it."""
        written = os.pread(self.fd, 1, 0)
        return min(self.lanes, max(1, written[0])) if written else 1

    @contextmanager
    def enter(self) -> Iterator[int]:
        """Wait for a place and keep it for the block. Yields the number of places there were."""
        place, places = self._take()
        try:
            yield places
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, place)

    def lower(self, seen: int) -> bool:
        """Halve the number of places, which was `seen`, unless another lane has lowered it since. False if it was 1."""
        if seen <= 1:
            return False
        fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, 0)
        try:
            if self.places >= seen:
                os.pwrite(self.fd, bytes([seen // 2]), 0)
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, 0)
        return True

    def close(self) -> None:
        """Close the file of this process."""
        os.close(self.fd)

    def _take(self) -> tuple[int, int]:
        while True:
            places = self.places
            for place in range(1, places + 1):
                try:
                    fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                except (BlockingIOError, PermissionError):  # the two that POSIX allows for a lock of another
                    continue
                return place, places
            time.sleep(AGAIN_S)
