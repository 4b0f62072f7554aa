"""The input and output of an engine: framed views in, one surface out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from worker.engines.presets import Preset
from worker.mesh.camera import Camera

View = NDArray[np.uint8]
"""A framed photo: (512, 512, 4) RGBA, sRGB, straight alpha. The product is centred and 0.85 of the square long."""

Role = Literal["front", "left", "back", "right"]
"""The side of the product that a photo shows. "left" is the product's own left."""

AZIMUTHS: Mapping[Role, float] = MappingProxyType({"front": 0.0, "left": 90.0, "back": 180.0, "right": 270.0})
"""Where the camera of a photo stands, in degrees around the product as in `worker.mesh.camera`."""

Points = NDArray[np.float32]
"""(N, 3), in the unit and the axes of a surface."""

Colors = NDArray[np.float32]
"""(N, 3) in 0..1, sRGB."""


class PosedView(NamedTuple):
    """A framed photo, and the side of the product that it shows. Each photo was framed alone."""

    role: Role
    view: View


@dataclass(frozen=True, kw_only=True)
class SourceView:
    """A photo that a surface was made from, and the camera that sees the surface as the photo shows it."""

    role: Role
    view: View
    camera: Camera


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The boundary of the product, in the axes of glTF: x right, y up, z from the product to the photo's camera."""

    vertices: Points  # (V, 3), in any unit
    faces: NDArray[np.int32]  # (F, 3), counter-clockwise seen from outside
    color: Callable[[Points], Colors]
    """Points on or near the surface → their colours."""
    source_views: Sequence[SourceView] = ()
    """The front first. Empty if no photo is to be laid over the surface."""
    mirrored_views: Mapping[Role, View] = field(default_factory=dict)
    """Likely pictures of sides that no photo shows: what the photo of the opposite side shows, in a mirror at x = 0. They are laid where no
    photo saw the surface better, and counted nowhere."""
    view_from_above: tuple[NDArray[np.uint8], Camera] | None = None
    """A likely picture of the top, (S, S, 4) sRGB, straight alpha, and its camera. It is laid as mirrored views are."""
    depth_factors: tuple[float, float] = (2 / 3, 3 / 2)
    """The least and the most by which the depth may be stretched to the product's own, if that is known."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able figures of its making, for `metadata.worker.surface`. If it has holes, `watertight` is false."""


class Engine(Protocol):
    """An engine, loaded with its weights. `tests/engines/test_contract.py` states what it must do."""

    name: str
    version: str
    details: Mapping[str, Any]
    """JSON-able facts about how the models are made, for the row, the file and the key of a result: device, precision, weights, and
    every setting that changes a model.
    """

    def reconstruct(self, views: Sequence[PosedView], preset: Preset) -> Surface:
        """Make the surface of the product that the views show: the front first, each role at most once.

        Raises: JobError `no_surface`, `out_of_memory`; DeviceLost.
        """
        ...
