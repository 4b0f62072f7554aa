"""Read a photo's colours at points of the mesh, and rate how well its camera saw them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.mesh.camera import Camera
from worker.mesh.rasterize import nearest

Floats = NDArray[np.float32]
View = NDArray[np.uint8]  # (S, S, 4) sRGB, straight alpha

# What a photo says of a point rises from 0 at the first figure to 1 at the second.
INSIDE = (1.0, 3.5)  # by the distance to the product's outline, pixels of the photo
BESIDE = (3.0, 6.0)  # by the distance to something nearer, pixels of the photo: outlines never fit exactly
# It falls from 1 at the first figure to 0 at the second.
BEHIND = (0.01, 0.017)  # by how far behind something nearer the point lies, parts of the picture's side
STEP = 0.03  # between neighbouring pixels: a greater one is the outline of something nearer, parts of the picture's side


class Projection(NamedTuple):
    """What a photo says of the N points of a mesh that face its camera."""

    at: NDArray[np.intp]  # (N,) which of the points, ascending
    color: Floats  # (N, 3) sRGB in 0..1
    clear: Floats  # (N,) 0..1: 0 where the point is hidden, or close to the product's outline or to something nearer
    cosine: Floats  # (N,) between the surface's normal and the direction to the camera
    resolution: Floats  # (N,) pixels of the photo for a unit of the mesh, on a plane that faces the camera


def depth_buffer(vertices: Floats, faces: NDArray[np.int32], camera: Camera, size: int) -> Floats:
    """Return (size, size) the nearness of the nearest face at every pixel, as `Camera.project` counts it; -inf for none."""
    flat, near = camera.project(vertices)
    seen = nearest(flat[faces] * np.float32(size), near[faces], size, size)
    return seen.near.reshape(size, size)


def project(
    vertices: Floats,
    faces: NDArray[np.int32],
    points: Floats,
    normals: Floats,
    view: View,
    camera: Camera,
    least_cosine: float,
) -> Projection:
    """Read the photo's colours at points of the mesh.

    Args:
        vertices: (V, 3) of the whole mesh, which may hide the points.
        faces: (F, 3)
        points: (P, 3) on the mesh.
        normals: (P, 3) the surface's normals there, of any length.
        view: (S, S, 4) of the photo.
        camera: that took the photo.
        least_cosine: points that the camera saw at a lower angle than this are left out.
    """
    cosine = _cosine(points, normals, camera)
    at = np.flatnonzero(cosine > least_cosine)
    size = len(view)
    flat, near = camera.project(points[at])
    position = np.stack([flat[:, 1], flat[:, 0]]) * size - 0.5

    buffer = depth_buffer(vertices, faces, camera, size)
    row, column = np.clip(np.rint(position), 0, size - 1).astype(np.intp)
    hidden = (buffer[row, column] - near) / np.float32(camera.side)
    # By the distance to the step, which is smooth across the pixels, so that the photo ends in a line and not in stairs.
    nearer = (
        ndimage.maximum_filter(buffer, 3) - np.where(buffer > -np.inf, buffer, np.inf) > STEP * camera.side
    )
    beside = ndimage.distance_transform_edt(~nearer).astype(np.float32) if nearer.any() else None

    solid = view[..., 3] > 127
    depth = ndimage.distance_transform_edt(np.pad(solid, 1))[1:-1, 1:-1].astype(np.float32)
    # A thin part has no inside far from its outline: its middle line counts as inside.
    depth = np.where(depth >= ndimage.maximum_filter(depth, 5), np.maximum(depth, INSIDE[1]), depth) * solid
    inside = ndimage.map_coordinates(depth, position, order=1, mode="constant")
    clear = rise(inside, *INSIDE) * (1 - rise(hidden, *BEHIND))
    if beside is not None:
        clear *= rise(ndimage.map_coordinates(beside, position, order=1, mode="nearest"), *BESIDE)
    grown = _grow(view, solid, depth)
    color = np.stack(
        [ndimage.map_coordinates(grown[..., i], position, order=1, mode="nearest") for i in range(3)], axis=1
    )
    resolution = (1 + near / np.float32(camera.distance)) * np.float32(size / camera.side)
    return Projection(at, color.astype(np.float32), clear, cosine[at].astype(np.float32), resolution)


def rise(value: Floats, low: float, high: float) -> Floats:
    """0 below `low`, 1 above `high`, smooth between (Hermite's 3t² - 2t³)."""
    share = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def _cosine(points: Floats, normals: Floats, camera: Camera) -> NDArray[np.float64]:
    """(P,) between the normals and the directions to the camera."""
    away = camera.distance if np.isfinite(camera.distance) else 1e6 * camera.side
    to_camera = (camera.center - points.astype(np.float64)) + away * camera.rotation[2]
    return np.asarray(np.einsum("ij,ij->i", _unit(to_camera), _unit(normals.astype(np.float64))))


def _grow(view: View, solid: NDArray[np.bool_], depth: Floats) -> Floats:
    """(S, S, 3) sRGB in 0..1: replace colours at and beyond the outline, which hold background, by the nearest inner ones."""
    sure = solid & (view[..., 3] > 250) & (depth >= min(1.5, float(depth.max())))
    if not sure.any():
        sure = solid
    if not sure.any():
        return np.asarray(view[..., :3] / np.float32(255), np.float32)
    nearest = ndimage.distance_transform_edt(~sure, return_distances=False, return_indices=True)
    return np.asarray(view[..., :3][tuple(nearest)] / np.float32(255), np.float32)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30))
