"""Measure how long a step takes."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Add the wall-clock seconds of the block to `seconds[step]`, rounded to 1 ms, also if it fails."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[step] = round(seconds.get(step, 0.0) + time.perf_counter() - began, 3)


@contextmanager
def timed_step(report: dict[str, Any], step: str) -> Iterator[None]:
    """Add the block's wall-clock seconds to `report["seconds"][step]`, and to `report["cpu_seconds"][step]` those of the
    processors, of this process with its threads and of the children that ended.
    """
    began = _cpu_seconds()
    try:
        with timed(report.setdefault("seconds", {}), step):
            yield
    finally:
        seconds = report.setdefault("cpu_seconds", {})
        seconds[step] = round(seconds.get(step, 0.0) + _cpu_seconds() - began, 3)


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)
