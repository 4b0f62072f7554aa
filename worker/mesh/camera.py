"""Where a photo was taken from, so that it can be laid over the mesh and the mesh drawn as the photo shows it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Upright, in front of the product, looking along -z in the axes of glTF.

    The square picture holds of the plane z = `center`[2] a square of `side`, around `center`. The camera stands
    `distance` in front of that plane; infinity is a parallel projection. All in the unit of the mesh.
    """

    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    side: float
    distance: float = math.inf

    def project(self, points: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(N, 3) points → (N, 2) of the picture, 0..1 inside it, x to the right and y down; and (N,) how near they are.

        Nearness is greater for what is nearer, 0 on the plane, and linear on the picture inside a triangle, as a depth
        buffer needs it. A thing on it is seen 1 + nearness / `distance` times as large as on the plane.
        """
        away = points.astype(np.float64) - self.center
        size = 1 / np.maximum(1 - away[:, 2] / self.distance, 1e-6)
        flat = away[:, :2] * size[:, None] * (1 / self.side, -1 / self.side) + 0.5
        return flat.astype(np.float32), (away[:, 2] * size).astype(np.float32)

    def moved(self, base: NDArray[np.float64], scale: float) -> "Camera":
        """The same camera once every point p of the mesh is at (p - base) * scale."""
        x, y, z = ((np.asarray(self.center) - base) * scale).tolist()
        return Camera(center=(x, y, z), side=self.side * scale, distance=self.distance * scale)
