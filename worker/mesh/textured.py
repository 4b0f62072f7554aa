"""A finished mesh with its texture: the one value that the file writers, the renderer and the checks take."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class TexturedMesh:
    """A triangle mesh with one texture, in the axes of glTF: x to the right, y up, the front towards +z.

    A vertex on a seam of the texture stands once for each side of the seam, with the same position and normal.

    Attributes:
        positions: (V, 3) float32, metres; the middle of the base is the origin, and nothing lies below y = 0.
        normals: (V, 3) float32 unit vectors that point outwards.
        uv: (V, 2) float32 in 0..1, u to the right and v downwards, as in an image.
        faces: (F, 3) int32 indices of vertices, counter-clockwise seen from outside.
        texture: (S, S, 3) uint8 sRGB, S a power of two.
        watertight: True if, for a reader that merges vertices at equal positions, every edge joins two faces that agree
            which side is outside. The inside of such a mesh cannot be seen.
    """

    positions: NDArray[np.float32]
    normals: NDArray[np.float32]
    uv: NDArray[np.float32]
    faces: NDArray[np.int32]
    texture: NDArray[np.uint8]
    watertight: bool

    @property
    def double_sided(self) -> bool:
        """True if faces must be drawn from both sides, because the inside can be seen."""
        return not self.watertight
