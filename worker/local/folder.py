"""A folder belongs to one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.core.settings import ConfigError


@contextmanager
def own_folder(folder: Path, command: str) -> Iterator[None]:
    """Make the folder and hold its lock, a file with our process id. The kernel releases it however the process ends.

    Raises: ConfigError if the folder cannot be used, or if another process holds it; nothing is touched then.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+")
    except OSError as error:
        why = "it is a file" if folder.is_file() else error.strerror
        raise ConfigError(f"{command} cannot use the folder {folder}: {why}.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ConfigError(f"{command} already runs here (pid {lock.read().strip()}): {folder}") from None
        except OSError as error:
            raise ConfigError(f"{command} cannot lock the folder {folder}: {error.strerror}.") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
