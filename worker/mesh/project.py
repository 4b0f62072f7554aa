"""Lay the photo over the part of the mesh that its camera saw."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.mesh.camera import Camera
from worker.mesh.rasterize import rasterize

Floats = NDArray[np.float32]
View = NDArray[np.uint8]  # (S, S, 4) sRGB, straight alpha

# The photo's share of a colour rises from 0 at the first figure to 1 at the second.
FACING = (0.15, 0.55)  # by the cosine between the surface's normal and the direction to the camera
INSIDE = (1.0, 3.5)  # by the distance to the product's outline, pixels of the photo
# It falls from 1 at the first figure to 0 at the second.
BEHIND = (0.03, 0.05)  # by how far behind something nearer the point lies, parts of the picture's side
REACH = 4  # pixels around something nearer that take no photo: outlines never fit exactly
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


def depth_buffer(vertices: Floats, faces: NDArray[np.int32], camera: Camera, size: int) -> Floats:
    """Return (size, size) the nearness of the nearest face at every pixel, as `Camera.project` counts it; -inf for none."""
    flat, near = camera.project(vertices)
    buffer = np.full(size * size, -np.inf, np.float32)
    corners = near[faces]
    for batch in rasterize(flat[faces] * np.float32(size), size, size):
        np.maximum.at(buffer, batch.pixel, np.einsum("ij,ij->i", batch.weight, corners[batch.face]))
    return buffer.reshape(size, size)


def project(
    vertices: Floats, faces: NDArray[np.int32], points: Floats, normals: Floats, view: View, camera: Camera
) -> tuple[Floats, Floats]:
    """Read the photo's colour at points of the mesh, and rate how reliable it is there.

    Args:
        vertices: (V, 3) of the whole mesh, which may hide the points.
        faces: (F, 3)
        points: (N, 3) on the mesh.
        normals: (N, 3) the surface's normals there, of any length.
        view: (S, S, 4) of the photo.
        camera: that took the photo.

    Returns:
        (N, 3) sRGB in 0..1, and (N,) the photo's share in 0..1: 0 where the camera did not see the point, saw it at a
        low angle, or saw it close to the product's outline or to something nearer.
    """
    size = len(view)
    flat, near = camera.project(points)
    row, column = flat[:, 1] * size - 0.5, flat[:, 0] * size - 0.5

    buffer = depth_buffer(vertices, faces, camera, size)
    nearest = ndimage.maximum_filter(buffer, 2 * REACH + 1)
    pixel_row, pixel_column = (np.clip(np.rint(axis), 0, size - 1).astype(np.intp) for axis in (row, column))
    before = (nearest[pixel_row, pixel_column] - near) / np.float32(camera.side)
    # Behind something at the very pixel, with a smaller tolerance: an inner wall.
    hidden = (buffer[pixel_row, pixel_column] - near) / np.float32(camera.side)

    away = camera.distance if np.isfinite(camera.distance) else 1e6 * camera.side
    to_camera = (camera.center - points.astype(np.float64)) + away * camera.rotation[2]
    cosine = np.einsum("ij,ij->i", _unit(to_camera), _unit(normals.astype(np.float64)))

    solid = view[..., 3] > 127
    depth = ndimage.distance_transform_edt(np.pad(solid, 1))[1:-1, 1:-1].astype(np.float32)
    # A thin part has no inside far from its outline: its middle line counts as inside.
    depth = np.where(depth >= ndimage.maximum_filter(depth, 5), np.maximum(depth, INSIDE[1]), depth) * solid
    position = np.stack([row, column])
    inside = ndimage.map_coordinates(depth, position, order=1, mode="constant")
    grown = _grow(view, solid, depth)
    color = np.stack(
        [ndimage.map_coordinates(grown[..., i], position, order=1, mode="nearest") for i in range(3)], axis=1
    )
    share = (
        _rise(cosine, *FACING)
        * _rise(inside, *INSIDE)
        * (1 - _rise(before, *BEHIND))
        * (1 - _rise(hidden, BEHIND[0] / 3, BEHIND[1] / 3))
    )
    return color.astype(np.float32), share.astype(np.float32)


def _grow(view: View, solid: NDArray[np.bool_], depth: Floats) -> Floats:
    """(S, S, 3) sRGB in 0..1: replace colours at and beyond the outline, which hold background, by the nearest inner ones."""
    sure = solid & (view[..., 3] > 250) & (depth >= min(1.5, float(depth.max())))
    if not sure.any():
        sure = solid
    if not sure.any():
        return np.asarray(view[..., :3] / np.float32(255), np.float32)
    nearest = ndimage.distance_transform_edt(~sure, return_distances=False, return_indices=True)
    return np.asarray(view[..., :3][tuple(nearest)] / np.float32(255), np.float32)


def _onto(flat: Floats, box: NDArray[np.float64], camera: Camera) -> Camera:
    """Move the camera so that the points' box has the middle of `box`, scaled by the geometric mean of the sides' ratios."""
    low, high = flat.min(axis=0), flat.max(axis=0)
    ratio = float(np.sqrt(np.prod((box[1] - box[0]) / np.maximum(high - low, 1e-6))))
    side = camera.side / ratio
    right, down = ((box[0] + box[1]) / 2 - 0.5) * side - ((low + high) / 2 - 0.5) * camera.side
    x, y, z = (camera.center + np.array([-right, down, 0]) @ camera.rotation).tolist()
    return replace(camera, center=(x, y, z), side=side)


def _rise(value: Floats, low: float, high: float) -> Floats:
    """0 below `low`, 1 above `high`, smooth between (Hermite's 3t² - 2t³)."""
    share = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30))
