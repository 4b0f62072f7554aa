"""Model the camera of a photo, so that the photo can be laid over the mesh and the mesh drawn as the photo shows it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera that stands upright in front of the product and looks along -z, in the axes of glTF.

    Attributes:
        center: the point in the middle of the picture. The plane through it, at z = `center`[2], faces the camera.
        side: of the square of that plane that fills the square picture.
        distance: from the camera to that plane; infinity is a parallel projection.

    All are in the unit of the mesh.
    """

    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    side: float
    distance: float = math.inf

    def project(self, points: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Project (N, 3) points to the picture.

        Returns:
            (N, 2) positions in the picture, 0..1 inside it, x to the right and y down; and (N,) nearness, in the unit of
            the mesh. Nearness is 0 on the plane, greater for what is nearer, and linear in the picture across a triangle,
            as a depth buffer needs it. A thing looks 1 + nearness / `distance` times as large as it does on the plane.
        """
        away = points.astype(np.float64) - self.center
        size = 1 / np.maximum(1 - away[:, 2] / self.distance, 1e-6)
        flat = away[:, :2] * size[:, None] * (1 / self.side, -1 / self.side) + 0.5
        return flat.astype(np.float32), (away[:, 2] * size).astype(np.float32)

    def moved(self, base: NDArray[np.float64], scale: float) -> "Camera":
        """Return the camera that sees the same after every point p of the mesh moves to (p - base) * scale; base is (3,)."""
        x, y, z = ((np.asarray(self.center) - base) * scale).tolist()
        return Camera(center=(x, y, z), side=self.side * scale, distance=self.distance * scale)
