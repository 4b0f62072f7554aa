"""Starts the threads that come and go while a daemon works."""

import _thread
from collections.abc import Callable

START_S = 5.0  # for the first step of a new thread, however busy the machine


def start_thread(target: Callable[[], object]) -> None:
    """Runs it in a thread of its own, which ends with the process. Raises: RuntimeError where there is none to be had.

    threading.Thread.start() waits for the first step of the new thread, and for ever where there was no memory for that:
    whoever called it, a lane say, would never go on.
    """
    turn = _thread.allocate_lock()  # who takes it decides whether the target runs
    begun = _thread.allocate_lock()
    begun.acquire()

    def run() -> None:
        if turn.acquire(blocking=False):
            begun.release()
            target()

    _thread.start_new_thread(run, ())
    if not begun.acquire(timeout=START_S) and turn.acquire(blocking=False):
        raise RuntimeError("a new thread did not begin")
