"""The real pipeline at the smallest size that it has, for tests about rows, signals, webhooks and storage.

A job takes 0.2 s of a processor instead of 2 to 7 s. Every step runs as in production, from the download to the report. Only
the engine differs, whose surface is always a tetrahedron, and the number of pixels of texture, poster and turntable. Real
engines and full sizes are tested by daemons with `real_models=True` and in `tests/engines`, `tests/mesh` and `tests/pipeline`.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from worker import engines
from worker.engines.presets import PRESETS, Preset
from worker.engines.surface import Surface
from worker.pipeline import preview


class Tetrahedron:
    """An engine whose surface has another colour each time, so that no two files are the same."""

    name = "tetrahedron"
    version = "1"
    details: dict[str, str] = {}  # noqa: RUF012 - the protocol's

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        """`wait` is called when a real engine would compute."""
        self.wait = wait

    def reconstruct(self, _views: object, _preset: Preset) -> Surface:
        self.wait()
        shade = np.random.default_rng().random(3, np.float32)
        return Surface(
            vertices=np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32),
            faces=np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [3, 2, 1]], np.int32),
            color=lambda points: np.broadcast_to(shade, points.shape),
        )


def install() -> None:
    """Make this process write small models, whatever engine it must load."""
    use(Tetrahedron())
    for name, preset in PRESETS.items():
        PRESETS[name] = replace(preset, texture=64)
    preview.SIZE = 32
    preview.TRIES = ((32, 80),) * 6


def use(engine: Tetrahedron) -> None:
    engines.load = lambda *_: engine  # type: ignore[assignment]
