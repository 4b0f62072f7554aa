"""Photo → surface. An engine is a class with a name, a version and `reconstruct`; `load` makes one by its name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worker.presets import Preset

View = NDArray[np.uint8]
"""One framed photo: (512, 512, 4) RGBA, sRGB, straight alpha; the product centred in 0.85 of the square."""


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The boundary of the product, in the axes of glTF: x right, y up, z from the product to the photo's camera."""

    vertices: NDArray[np.float32]  # (V, 3), any unit
    faces: NDArray[np.int32]  # (F, 3), counter-clockwise seen from outside
    color: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    """(N, 3) points on or near the surface → (N, 3) sRGB colours in 0..1."""


class Engine(Protocol):
    """What turns the framed photos of one product into its surface."""

    name: str
    version: str

    def reconstruct(self, views: Sequence[View], preset: Preset) -> Surface:
        """Raises: JobError `no_surface`, `out_of_memory`."""
        ...


class EngineUnavailable(Exception):
    """The engine cannot be loaded on this machine; the message says what to do."""


def load(name: str, **_options: Any) -> Engine:
    """Raises: EngineUnavailable."""
    if name == "relief":
        from worker.engines.relief import Relief  # noqa: PLC0415 - only the chosen engine's libraries are imported

        return Relief()
    raise EngineUnavailable(f"There is no engine '{name}'. Set WORKER_ENGINE to one of: relief.")
