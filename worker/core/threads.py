"""Threads that come and go while a daemon works, and the jitter of their waits."""

import _thread
import random
from collections.abc import Callable

# Our own generator: the threads that draw from it leave the state of `random`, which tests and libraries seed, alone.
_generator = random.Random()  # noqa: S311 - jitter needs no secure random numbers

START_S = 5.0  # for the first step of a new thread, however busy the machine is


def start_thread(target: Callable[[], object]) -> None:
    """Run `target` in a daemon thread. Raises: RuntimeError if no thread can be started.

    threading.Thread.start() waits for the first step of the new thread, for ever if there is no memory for it: its
    caller, say a lane, would never go on.
    """
    turn = _thread.allocate_lock()  # the side that takes it decides if `target` runs
    started = _thread.allocate_lock()
    started.acquire()

    def run() -> None:
        if turn.acquire(blocking=False):
            started.release()
            target()

    _thread.start_new_thread(run, ())
    if not started.acquire(timeout=START_S) and turn.acquire(blocking=False):
        raise RuntimeError("a new thread did not start")


def jitter(low: float, high: float) -> float:
    """Return a random number between the two, so that many daemons do not act at the same moment."""
    return _generator.uniform(low, high)
