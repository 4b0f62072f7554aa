"""Read a photo's colours at points of the mesh, and rate how well its camera saw them."""

from copy import copy
from functools import cached_property
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.mesh.camera import Camera
from worker.mesh.rasterize import nearest, signed_area

Floats = NDArray[np.float32]
View = NDArray[np.uint8]  # (S, S, 4) sRGB, straight alpha

# What a photo says of a point rises from 0 at the first figure to 1 at the second.
INSIDE = (1.0, 3.5)  # by the distance to the product's outline, pixels of the photo
BESIDE = (3.0, 6.0)  # by the distance to something nearer, pixels of the photo: outlines never fit exactly
# It falls from 1 at the first figure to 0 at the second.
BEHIND = (0.01, 0.017)  # by how far behind something nearer the point lies, parts of the picture's side
STEP = 0.03  # between neighbouring pixels: a greater one is the outline of something nearer, parts of the picture's side
BLUR = 6  # pixels of the photo
DEEP = 8.0  # pixels of one of several photos, from its outline inwards, where no background shines through
REACH = 30  # pixels of the photo: what is farther from the outline is equally far
MARGIN = 16  # pixels of the photo around the product, in which its colours go on


class Projection(NamedTuple):
    """What a photo says of the N points of a mesh that its camera saw."""

    at: NDArray[np.intp]  # (N,) which of the points, ascending
    color: Floats  # (N, 3) sRGB in 0..1
    clear: Floats  # (N,) 0..1, above 0: less where the point is close to the product's outline or to something nearer
    cosine: Floats  # (N,) between the surface's normal and the direction to the camera
    resolution: Floats  # (N,) pixels of the photo for a unit of the mesh, on a plane that faces the camera


def depth_buffer(vertices: Floats, faces: NDArray[np.int32], camera: Camera, size: int) -> Floats:
    """Return (size, size) the nearness of the nearest face at every pixel, as `Camera.project` counts it; -inf for none.

    Faces that turn away from the camera are not looked at: in a closed mesh, others hide them.
    """
    flat, near = camera.project(vertices)
    corners = (flat * np.float32(size))[faces]
    ahead = np.flatnonzero(signed_area(corners) < 0)
    seen = nearest(corners[ahead], near[faces[ahead]], size, size)
    return seen.near.reshape(size, size)


class Photo:
    """A photo, and how far inside of the product each of its pixels lies."""

    def __init__(self, view: View, *, deep: float = np.inf) -> None:
        """Take (S, S, 4) sRGB, straight alpha. From `deep` pixels inside on, a colour counts even where alpha is unsure."""
        self.view = view
        self.solid = solid = view[..., 3] > 127
        # Farther from the product nothing is asked.
        box = box_of(solid, MARGIN)
        near = solid[box]
        around = [(side.start, size - side.stop) for side, size in zip(box, solid.shape, strict=True)]
        depth = ndimage.distance_transform_edt(np.pad(near, 1))[1:-1, 1:-1].astype(np.float32)
        self.depth = np.pad(depth, around)  # (S, S) pixels to the nearest one outside, 0 outside
        # A thin part has no inside far from its outline: its middle line counts as inside.
        depth = (
            np.where(depth >= ndimage.maximum_filter(depth, 5), np.maximum(depth, INSIDE[1]), depth) * near
        )
        self.inside = np.pad(depth, around)  # (S, S) pixels to the product's outline, 0 outside
        # (S, S, 3) sRGB in 0..1
        self.colors = np.pad(_grow(view[box], near, depth, deep), [*around, (0, 0)], mode="edge")

    def brightened(self, gain: Floats) -> "Photo":
        """Return the photo with its colours multiplied by the (3,) gain."""
        other = copy(self)
        other.colors = np.minimum(self.colors * gain, np.float32(1))
        other.blurred = np.minimum(self.blurred * gain, np.float32(1))
        return other

    @cached_property
    def signed(self) -> Floats:
        """(S, S) pixels from the product's outline, which runs between pixels: positive inside, and at most `REACH`."""
        box = box_of(self.solid, REACH + 1)
        outside = ndimage.distance_transform_edt(~self.solid[box])
        signed = np.full(self.solid.shape, -REACH, np.float32)
        signed[box] = np.clip(np.where(self.solid[box], self.depth[box] - 0.5, 0.5 - outside), -REACH, REACH)
        return signed

    @cached_property
    def blurred(self) -> Floats:
        """(S / 2, S / 2, 3) the colours without what is finer than a few pixels."""
        return np.asarray(ndimage.gaussian_filter(self.colors[::2, ::2], (BLUR / 2, BLUR / 2, 0)), np.float32)


class Shot(NamedTuple):
    """A photo of a mesh, with the camera that took it."""

    photo: Photo
    camera: Camera
    buffer: Floats  # (S, S) of `depth_buffer`
    beside: Floats  # (S, S) pixels to something nearer, as far as `BESIDE` asks

    def project(
        self, points: Floats, normals: Floats, least_cosine: float, *, blurred: bool = False
    ) -> Projection:
        """Read the photo's colours at points of the mesh.

        Args:
            points: (P, 3) on the mesh.
            normals: (P, 3) the surface's normals there, of any length.
            least_cosine: points that the camera saw at a lower angle than this are left out.
            blurred: True for the colours without what is finer than a few pixels.
        """
        camera, size = self.camera, len(self.buffer)
        cosine = _cosine(points, normals, camera)
        at = np.flatnonzero(cosine > least_cosine)
        flat, near = camera.project(points[at])
        position = np.stack([flat[:, 1], flat[:, 0]]) * size - 0.5
        row, column = np.clip(np.rint(position), 0, size - 1).astype(np.intp)
        hidden = (self.buffer[row, column] - near) / np.float32(camera.side)
        clear = 1 - rise(hidden, *BEHIND)
        # Most points are far from all outlines.
        unsure = np.flatnonzero(~self._sure[row, column])
        inside = ndimage.map_coordinates(self.photo.inside, position[:, unsure], order=1, mode="constant")
        beside = ndimage.map_coordinates(self.beside, position[:, unsure], order=1, mode="nearest")
        clear[unsure] = rise(inside, *INSIDE) * clear[unsure] * rise(beside, *BESIDE)
        shown = np.flatnonzero(clear)
        at, flat, near, clear = at[shown], flat[shown], near[shown], clear[shown]
        return Projection(
            at=at,
            color=sample(self.photo.blurred if blurred else self.photo.colors, flat),
            clear=clear,
            cosine=cosine[at].astype(np.float32),
            resolution=(1 + near / np.float32(camera.distance)) * np.float32(size / camera.side),
        )

    @property
    def _sure(self) -> NDArray[np.bool_]:
        """(S, S) pixels that lie, with all around them, inside of the product and of what is nearer."""
        far = np.pad((self.photo.inside >= INSIDE[1]) & (self.beside >= BESIDE[1]), 1)
        far = far[:-2] & far[1:-1] & far[2:]
        return np.asarray(far[:, :-2] & far[:, 1:-1] & far[:, 2:])


def shoot(photo: Photo, camera: Camera, vertices: Floats, faces: NDArray[np.int32]) -> Shot:
    """Look at the whole mesh, (V, 3) and (F, 3), which may hide parts of itself, as the camera of the photo did."""
    size = len(photo.view)
    buffer = depth_buffer(vertices, faces, camera, size)
    seen = buffer > -np.inf
    box = box_of(seen, 1)
    behind = np.where(seen[box], buffer[box], np.inf)
    nearer = np.zeros_like(seen)
    nearer[box] = ndimage.maximum_filter(buffer[box], 3) - behind > STEP * camera.side
    # The distance to the step is smooth across the pixels, so that the photo ends in a line and not in stairs.
    beside = np.full((size, size), size, np.float32)
    if nearer.any():
        box = box_of(nearer, ceil(BESIDE[1]) + 2)
        beside[box] = ndimage.distance_transform_edt(~nearer[box])
    return Shot(photo, camera, buffer, beside)


def box_of(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Return the rows and columns of the mask's box with a margin, inside the picture; all of it for an empty mask."""
    sides = []
    for axis in (1, 0):
        there, size = np.flatnonzero(mask.any(axis=axis)), mask.shape[1 - axis]
        first, last = (int(there[0]), int(there[-1])) if len(there) else (0, size - 1)
        sides.append(slice(max(first - margin, 0), min(last + 1 + margin, size)))
    return sides[0], sides[1]


def sample(image: Floats, flat: Floats) -> Floats:
    """(N, 3) colours between the pixels of (S, S, 3), at (N, 2) positions as `Camera.project` gives them."""
    position = np.stack([flat[:, 1], flat[:, 0]]) * len(image) - 0.5
    channels = [ndimage.map_coordinates(image[..., i], position, order=1, mode="nearest") for i in range(3)]
    return np.stack(channels, axis=1).astype(np.float32)


def rise(value: Floats, low: float, high: float) -> Floats:
    """0 below `low`, 1 above `high`, smooth between (Hermite's 3t² - 2t³)."""
    share = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def _cosine(points: Floats, normals: Floats, camera: Camera) -> NDArray[np.float64]:
    """(P,) between the normals and the directions to the camera."""
    away = camera.distance if np.isfinite(camera.distance) else 1e6 * camera.side
    eye = camera.center + away * camera.rotation[2]
    along, toward, length = np.zeros((3, len(points)))
    for axis in range(3):
        to_camera, normal = (
            eye[axis] - points[:, axis].astype(np.float64),
            normals[:, axis].astype(np.float64),
        )
        along += to_camera * normal
        toward += to_camera * to_camera
        length += normal * normal
    return np.asarray(along / np.sqrt(np.maximum(toward * length, 1e-60)))


def _grow(view: View, solid: NDArray[np.bool_], depth: Floats, deep: float) -> Floats:
    """(S, S, 3) sRGB in 0..1: replace colours at and beyond the outline, which hold background, by the nearest inner ones."""
    sure = solid & ((view[..., 3] > 250) | (depth >= deep)) & (depth >= min(1.5, float(depth.max())))
    if not sure.any():
        sure = solid
    if not sure.any():
        return np.asarray(view[..., :3] / np.float32(255), np.float32)
    nearest = ndimage.distance_transform_edt(~sure, return_distances=False, return_indices=True)
    return np.asarray(view[..., :3][tuple(nearest)] / np.float32(255), np.float32)
