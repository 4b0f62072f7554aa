"""Model the camera of a photo, so that the photo can be laid over the mesh and the mesh drawn as the photo shows it.

Directions are azimuths around the product, in degrees from its front at +z towards +x, which is the product's own left,
and elevations above the horizon, in the axes of glTF.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


def rotation(azimuth: float, elevation: float) -> NDArray[np.float64]:
    """Return the (3, 3) matrix from the mesh's axes to a camera's: its rows point right, up, and towards the camera."""
    (cos_a, sin_a), (cos_e, sin_e) = _cos_sin(azimuth), _cos_sin(elevation)
    around = np.array([[cos_a, 0, -sin_a], [0, 1, 0], [sin_a, 0, cos_a]])
    over = np.array([[1, 0, 0], [0, cos_e, -sin_e], [0, sin_e, cos_e]])
    return np.asarray(over @ around, np.float64)


def _cos_sin(degrees: float) -> tuple[float, float]:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera that looks at the product and has no roll, in the axes of glTF.

    Attributes:
        center: the point in the middle of the picture. The plane through it faces the camera.
        side: of the square of that plane that fills the square picture.
        distance: from the camera to that plane; infinity is a parallel projection.
        azimuth: degrees around the product.
        elevation: degrees above the horizon.

    Lengths are in the unit of the mesh.
    """

    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    side: float
    distance: float = math.inf
    azimuth: float = 0.0
    elevation: float = 0.0

    @property
    def rotation(self) -> NDArray[np.float64]:
        """(3, 3) from the mesh's axes to the camera's: right, up, towards the camera."""
        return rotation(self.azimuth, self.elevation)

    def project(self, points: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Project (N, 3) points to the picture.

        Returns:
            (N, 2) positions in the picture, 0..1 inside it, x to the right and y down; and (N,) nearness, in the unit of
            the mesh. Nearness is 0 on the plane, greater for what is nearer, and linear in the picture across a triangle,
            as a depth buffer needs it. A thing looks 1 + nearness / `distance` times as large as it does on the plane.
        """
        # Axis by axis: a product of matrices would wake all cores for so little work.
        x, y, z = (points[:, axis].astype(np.float64) - self.center[axis] for axis in range(3))
        if self.azimuth:
            cos, sin = _cos_sin(self.azimuth)
            x, z = cos * x - sin * z, sin * x + cos * z
        if self.elevation:
            cos, sin = _cos_sin(self.elevation)
            y, z = cos * y - sin * z, sin * y + cos * z
        size = 1 / np.maximum(1 - z / self.distance, 1e-6)
        flat = np.empty((len(points), 2), np.float32)
        flat[:, 0] = x * size * (1 / self.side) + 0.5
        flat[:, 1] = y * size * (-1 / self.side) + 0.5
        return flat, (z * size).astype(np.float32)

    def moved(self, base: NDArray[np.float64], scale: float) -> "Camera":
        """Return the camera that sees the same after every point p of the mesh moves to (p - base) * scale; base is (3,)."""
        x, y, z = ((np.asarray(self.center) - base) * scale).tolist()
        return replace(self, center=(x, y, z), side=self.side * scale, distance=self.distance * scale)

    def mirrored(self) -> "Camera":
        """Return the camera that sees, in a mirror at x = 0, what this one sees: its picture is turned left to right."""
        x, y, z = self.center
        return replace(self, center=(-x, y, z), azimuth=-self.azimuth % 360)
