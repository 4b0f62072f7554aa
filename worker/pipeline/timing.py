"""Measure how long a step takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Write the wall-clock seconds of the block to `seconds[step]`, rounded to 1 ms, also if it fails."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[step] = round(time.perf_counter() - began, 3)
