"""Make a daemon or its child misbehave on demand.

PYTHON_ROGUE names a folder, which reaches the child too. A file `<pid>` in it holds the name of a function of this
module, which that process runs. While a file `hold` lies there, the child's engine waits in the stage `generating`,
and obeys `<pid>-engine`.
"""

import ctypes
import os
import resource
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

FOLDER = Path(os.environ["PYTHON_ROGUE"])


def leave() -> None:
    os._exit(7)


def hang() -> None:
    """Lock one mutex twice, in C and holding the GIL, so that no Python code of the process runs again."""
    libc = ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(64)
    while True:
        libc.pthread_mutex_lock(mutex)


def lose_upkeep() -> None:
    """Raise an exception in that thread that no handler expects."""
    thread = next(thread for thread in threading.enumerate() if thread.name == "upkeep")
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(MemoryError)
    )


def starve(least: int = 1 << 20) -> None:
    """Use up the memory that the process may have, for a second. Meanwhile there is a file `<pid>-starves`."""
    mark = FOLDER / f"{os.getpid()}-starves"
    mark.touch()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, ((pages << 12) + (64 << 20), limits[1]))
    taken = []
    try:
        with suppress(MemoryError):
            while True:
                taken.append(bytearray(1 << 20))
        while True:
            taken.append(bytearray(least))
    except MemoryError:
        time.sleep(1)
        raise
    finally:
        taken.clear()
        resource.setrlimit(resource.RLIMIT_AS, limits)
        mark.unlink()


def famish() -> None:
    """Use up all but the last bytes, so that a new thread may have no memory for its first step."""
    starve(1 << 6)


def a_day_ahead() -> None:
    """The host's wall clock jumps."""
    _shift_clock(86_400)


def a_day_behind() -> None:
    """The host's wall clock jumps back."""
    _shift_clock(-86_400)


def _shift_clock(seconds: float) -> None:
    now = time.time
    time.time = lambda: now() + seconds


def _obey() -> None:
    while True:
        with suppress(MemoryError):
            _obey_file(FOLDER / str(os.getpid()))
        time.sleep(0.02)


def _obey_file(order: Path) -> None:
    if order.exists():
        name = order.read_text()
        order.unlink()  # it is being obeyed
        globals()[name]()


def _wait_while_held() -> None:
    """Wait and obey orders while the file `hold` exists."""
    while (FOLDER / "hold").exists():
        _obey_file(FOLDER / f"{os.getpid()}-engine")
        time.sleep(0.02)


def install() -> None:
    """Obey orders from now on."""
    threading.Thread(target=_obey, name="rogue", daemon=True).start()
    if "worker.compute.main" in sys.orig_argv:
        from worker.compute import sandbox
        from worker.core import landlock

        allowed = sandbox.allowed
        sandbox.allowed = lambda start: allowed(start) | {FOLDER: landlock.WRITE}
        import small

        small.use(small.Tetrahedron(_wait_while_held))
