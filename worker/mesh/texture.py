"""Paints a texture from a function that knows the colour of every point."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.mesh.raster import raster


def bake(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    uv: NDArray[np.float32],
    color: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    size: int,
) -> NDArray[np.uint8]:
    """The (size, size, 3) sRGB texture; what no triangle covers repeats the nearest texel that one does.

    Args:
        vertices: (V, 3) in the space of `color`.
        faces: (F, 3)
        uv: (V, 2) in 0..1, v downwards.
        color: (N, 3) points → (N, 3) sRGB in 0..1.
        size: texels a side.
    """
    texture = np.zeros((size * size, 3), np.uint8)
    bare = np.ones(size * size, bool)
    corners = vertices[faces]
    for batch in raster(uv[faces] * np.float32(size), size, size):
        points = np.einsum("ki,kij->kj", batch.weight, corners[batch.face])
        texture[batch.pixel] = np.clip(color(points) * 255 + 0.5, 0, 255).astype(np.uint8)
        bare[batch.pixel] = False
    nearest = ndimage.distance_transform_edt(
        bare.reshape(size, size), return_distances=False, return_indices=True
    )
    return np.asarray(texture.reshape(size, size, 3)[tuple(nearest)])
