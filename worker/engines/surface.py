"""What an engine takes and what it gives: framed views in, one surface out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worker.engines.presets import Preset
from worker.mesh.camera import Camera

View = NDArray[np.uint8]
"""One framed photo: (512, 512, 4) RGBA, sRGB, straight alpha; the product centred in 0.85 of the square."""


@dataclass(frozen=True, kw_only=True)
class SourceView:
    """The photo that a surface was made from, and the camera that sees the surface as the photo shows it."""

    view: View
    camera: Camera


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The boundary of the product, in the axes of glTF: x right, y up, z from the product to the photo's camera."""

    vertices: NDArray[np.float32]  # (V, 3), any unit
    faces: NDArray[np.int32]  # (F, 3), counter-clockwise seen from outside
    color: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    """(N, 3) points on or near the surface → (N, 3) sRGB colours in 0..1."""
    source_view: SourceView | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    """What making it cost, for `metadata.worker`."""


class Engine(Protocol):
    """What turns the framed photos of one product into its surface."""

    name: str
    version: str
    details: Mapping[str, Any]
    """What else made the models: device, precision, weights; for the row and the file."""

    def reconstruct(self, views: Sequence[View], preset: Preset) -> Surface:
        """Make the surface of the product that the views show, the best view first.

        Raises: JobError `no_surface`, `out_of_memory`; DeviceLost.
        """
        ...
