"""Move a photo's camera until the mesh's outline is the photo's."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.mesh.camera import Camera
from worker.mesh.project import Floats, View, depth_buffer

LEAST_OVERLAP = 0.75  # intersection over union of the two outlines; below it the photo shows something else


class Fit(NamedTuple):
    """A camera, and how well its view of the mesh covers the photo."""

    camera: Camera
    overlap: float  # intersection over union of the outlines, 0..1


def fit(vertices: Floats, faces: NDArray[np.int32], view: View, camera: Camera) -> Fit:
    """Move the camera sideways, up and down, and widen its picture, until the mesh's box is the box of the photo.

    A network's mesh is a little larger or smaller than the photo, or beside it. Only that is corrected, and only if the
    outlines agree better afterwards.

    Args:
        vertices: (V, 3)
        faces: (F, 3)
        view: (S, S, 4) of the photo.
        camera: that sees the mesh about as the photo shows it.

    Returns:
        The better of the given and the moved camera, and its overlap, measured at half of the photo's size.
    """
    size = len(view) // 2
    solid = view[..., 3] > 127
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not rows.size or not len(faces):
        return Fit(camera, 0.0)
    wanted = solid[::2, ::2][:size, :size]

    def overlap(camera: Camera) -> float:
        seen = depth_buffer(vertices, faces, camera, size) > -np.inf
        return float((seen & wanted).sum() / max(1, (seen | wanted).sum()))

    flat, _ = camera.project(vertices[np.unique(faces)])
    box = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]) / len(view)
    given, moved = Fit(camera, overlap(camera)), _onto(flat, box, camera)
    if np.abs(flat.min(axis=0) - box[0]).max() < 1 / len(view) > np.abs(flat.max(axis=0) - box[1]).max():
        return given
    return max(given, Fit(moved, overlap(moved)), key=lambda fit: fit.overlap)


def _onto(flat: Floats, box: NDArray[np.float64], camera: Camera) -> Camera:
    """Move the camera so that the points' box has the middle of `box`, scaled by the geometric mean of the sides' ratios."""
    low, high = flat.min(axis=0), flat.max(axis=0)
    ratio = float(np.sqrt(np.prod((box[1] - box[0]) / np.maximum(high - low, 1e-6))))
    side = camera.side / ratio
    right, down = ((box[0] + box[1]) / 2 - 0.5) * side - ((low + high) / 2 - 0.5) * camera.side
    x, y, z = (camera.center + np.array([-right, down, 0]) @ camera.rotation).tolist()
    return replace(camera, center=(x, y, z), side=side)
