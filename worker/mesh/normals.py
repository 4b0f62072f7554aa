"""Compute the direction of the surface at its vertices."""

import numpy as np
from numpy.typing import NDArray


def normals(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return (V, 3) unit vectors that point outwards: the mean of the faces' normals, weighted by their angles at the vertex.

    The weights make the result independent of how a flat area is cut into triangles (Thürmer and Wüthrich, "Computing
    vertex normals from polygonal facets", 1998). Where only triangles of no area meet, the result is (0, 0, 1).
    """
    corners = vertices[faces].astype(np.float64)  # (F, 3, 3)
    ahead = _unit(np.roll(corners, -1, axis=1) - corners)
    behind = -np.roll(ahead, 1, axis=1)
    angle = np.arccos(np.clip((ahead * behind).sum(axis=2), -1, 1))
    of_face = _unit(np.cross(ahead[:, 0], ahead[:, 1]).astype(np.float64))
    weighted = angle[:, :, None] * of_face[:, None, :]
    total = np.zeros((len(vertices), 3))
    for axis in range(3):
        total[:, axis] = np.bincount(faces.ravel(), weighted[:, :, axis].ravel(), len(vertices))
    total[(total**2).sum(axis=1) < 1e-20] = (0, 0, 1)  # only slivers meet here: any direction is as good
    return _unit(total).astype(np.float32)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30))
