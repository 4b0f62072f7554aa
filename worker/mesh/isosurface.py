"""A grid of samples → the closed surface on which they cross a level."""

import numpy as np
from numpy.typing import NDArray
from skimage.measure import marching_cubes


def isosurface(
    volume: NDArray[np.float32], level: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The boundary of where `volume` exceeds `level`, closed also where that touches the volume's faces.

    Args:
        volume: (X, Y, Z) samples, greater inside.
        level: what separates inside from outside.

    Returns:
        (V, 3) vertices in units of samples, the first sample at 0, and (F, 3) faces, counter-clockwise seen from
        outside. Both are empty where nothing, or all, exceeds the level and for a volume that is not finite.
    """
    empty = np.empty((0, 3), np.float32), np.empty((0, 3), np.int32)
    low, high = float(volume.min()), float(volume.max())
    if not (np.isfinite(low) and np.isfinite(high) and high > level):
        return empty
    offset = 0
    faces_of_volume = (volume[[0, -1]], volume[:, [0, -1]], volume[:, :, [0, -1]])
    if any(bool((face > level).any()) for face in faces_of_volume):
        # One more layer of outside; mirroring the highest value puts the cap half a sample off at the most.
        volume = np.pad(volume, 1, constant_values=np.float32(min(low, 2 * level - high)))
        offset = 1
    vertices, faces, _, _ = marching_cubes(  # type: ignore[no-untyped-call]  # has no types
        volume, level, gradient_direction="ascent", allow_degenerate=False, method="lewiner"
    )
    return (vertices - offset).astype(np.float32), faces.astype(np.int32)
