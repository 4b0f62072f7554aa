"""Read a photo's colours at points of the mesh, and rate how well its camera saw them."""

from copy import copy
from functools import cached_property
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.mesh.camera import Camera
from worker.mesh.rasterize import depth_map, signed_area

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
# By how much something nearer may show beside its outline, for each unit that it is nearer; and at most, pixels of the photo.
SPILT = (0.3, 24.0)
ACROSS = 3  # pixels beyond that outline, where the colour of what is nearer is read
BEYOND = (
    2,
    5,
    8,
    12,
    16,
    20,
    25,
    30,
)  # pixels beyond where something nearer may be shown, where a pixel's own kind is
AWAY = (3, 6)  # pixels, where what is close to a step goes on
ALIKE = 0.08  # between colours, below which they are the same thing's; 1 is black to white
REACH = 30  # pixels of the photo: what is farther from the outline is equally far
GUESS = 0.015  # by which the surface may lie elsewhere, along its normals, parts of the picture's side
UNSTEADY = 0.25  # between a colour and that beside it which it were then: half as sure; 1 is black to white
MARGIN = 16  # pixels of the photo around the product, in which its colours go on


class Projection(NamedTuple):
    """What a photo says of the N points of a mesh that its camera saw."""

    at: NDArray[np.intp]  # (N,) which of the points, ascending
    clear: Floats  # (N,) 0..1, above 0: less where the point is close to the product's outline or to something nearer
    cosine: Floats  # (N,) between the surface's normal and the direction to the camera
    resolution: Floats  # (N,) pixels of the photo for a unit of the mesh, on a plane that faces the camera
    shot: "Shot"  # that saw them
    flat: Floats  # (N, 2) where the photo shows the points, as `Camera.project` gives it
    normal: Floats  # (N, 3) the surface's normals, of any length

    def colors(self, some: NDArray[np.intp]) -> Floats:
        """(M, 3) sRGB in 0..1 of some of the points. Where another photo is better, nobody asks."""
        return sample(self.shot.photo.colors, self.flat.take(some, axis=0))

    def steady(self, some: NDArray[np.intp]) -> Floats:
        """(M,) for some of the points, 0..1, above 0: less where the colour would be another one if the surface lay a little elsewhere.

        The mesh is a guess. Seen straight on, it makes no difference how near the surface is. Seen at a low angle, print beside
        which there is another colour may belong elsewhere; what goes on alike, or runs to the outline, may not.
        """
        image = self.shot.photo.blurred
        size, normal = len(image), self.normal.take(some, axis=0)
        step = normal @ (self.shot.camera.rotation[:2].T * (GUESS * size)).astype(np.float32)
        step /= np.linalg.norm(normal, axis=1, keepdims=True)
        step[:, 1] *= -1
        place = self.flat.take(some, axis=0) * np.float32(size) - np.float32(0.5)
        here, nearer, farther = (
            image[tuple(np.clip(np.rint(at[:, ::-1]), 0, size - 1).astype(np.intp).T)]
            for at in (place, place + step, place - step)
        )
        off = np.maximum(np.abs(nearer - here), np.abs(farther - here)).max(axis=1)
        return np.asarray(1 / (1 + (off / np.float32(UNSTEADY)) ** 2), np.float32)


def depth_buffer(vertices: Floats, faces: NDArray[np.int32], camera: Camera, size: int) -> Floats:
    """Return (size, size) the nearness of the nearest face at every pixel, as `Camera.project` counts it; -inf for none.

    Faces that turn away from the camera are not looked at: in a closed mesh, others hide them.
    """
    flat, near = camera.project(vertices)
    corners = (flat * np.float32(size)).take(faces, axis=0)
    ahead = np.flatnonzero(signed_area(corners) < 0)
    seen = depth_map(corners.take(ahead, axis=0), near.take(faces.take(ahead, axis=0)), size, size)
    return seen.reshape(size, size)


class Photo:
    """A photo, and how far inside of the product each of its pixels lies."""

    def __init__(self, view: View, *, several: bool = False) -> None:
        """Take (S, S, 4) sRGB, straight alpha. `several`: it is one of several photos, so that what it shows badly is left out."""
        self.view, self.several = view, several
        deep = DEEP if several else np.inf
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

    @cached_property
    def contrast(self) -> Floats:
        """(S / 2, S / 2, 1) the standard deviation of the brightness around each pixel of `blurred`, parts of the brightness."""
        bright, mean = self.colors[::2, ::2].mean(axis=2), self.blurred.mean(axis=2)
        variance = ndimage.gaussian_filter(bright * bright, BLUR / 2) - mean * mean
        return np.asarray(np.sqrt(np.maximum(variance, 0)) / np.maximum(mean, 0.05), np.float32)[..., None]


class Shot(NamedTuple):
    """A photo of a mesh, with the camera that took it."""

    photo: Photo
    camera: Camera
    buffer: Floats  # (S, S) of `depth_buffer`
    beside: Floats  # (S, S) pixels to something nearer, as far as `BESIDE` asks

    def project(self, points: Floats, normals: Floats, least_cosine: float) -> Projection:
        """Find out what the photo says of points of the mesh.

        Args:
            points: (P, 3) on the mesh.
            normals: (P, 3) the surface's normals there, of any length.
            least_cosine: points that the camera saw at a lower angle than this are left out.
        """
        camera, size = self.camera, len(self.buffer)
        cosine = _cosine(points, normals, camera)
        at = np.flatnonzero(cosine > least_cosine)
        flat, near = camera.project(points.take(at, axis=0))
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
        at, near, clear, flat = at[shown], near[shown], clear[shown], flat.take(shown, axis=0)
        return Projection(
            at=at,
            clear=clear,
            cosine=cosine[at].astype(np.float32),
            resolution=(1 + near / np.float32(camera.distance)) * np.float32(size / camera.side),
            shot=self,
            flat=flat,
            normal=normals.take(at, axis=0),
        )

    def contrast(self, points: Floats) -> Floats:
        """(P,) by how much the photo's brightness varies around (P, 3) points, parts of the brightness."""
        flat, _ = self.camera.project(points)
        return np.asarray(sample(self.photo.contrast, flat)[:, 0])

    @property
    def _sure(self) -> NDArray[np.bool_]:
        """(S, S) pixels that lie, with all around them, inside of the product and of what is nearer."""
        far = np.pad((self.photo.inside >= INSIDE[1]) & (self.beside >= BESIDE[1]), 1)
        far = far[:-2] & far[1:-1] & far[2:]
        return np.asarray(far[:, :-2] & far[:, 1:-1] & far[:, 2:])


def shoot(photo: Photo, camera: Camera, vertices: Floats, faces: NDArray[np.int32]) -> Shot:
    """Look at the whole mesh, (V, 3) and (F, 3), which may hide parts of itself, as the camera of the photo did."""
    buffer = depth_buffer(vertices, faces, camera, len(photo.view))
    gap = gaps(buffer)
    nearer = gap > STEP * camera.side
    # The distance to the step is smooth across the pixels, so that the photo ends in a line and not in stairs.
    beside = np.full(buffer.shape, len(buffer), np.float32)
    if nearer.any():
        box = box_of(nearer, ceil(SPILT[1] if photo.several else BESIDE[1]) + 2)
        distance, step = ndimage.distance_transform_edt(~nearer[box], return_indices=True)
        if photo.several:
            most = np.minimum(
                gap[box][tuple(step)] * np.float32(SPILT[0] * len(buffer) / camera.side), SPILT[1]
            )
            distance = _guarded(photo.colors[box], buffer[box], gap[box], step, distance, most)
        beside[box] = distance
    return Shot(photo, camera, buffer, beside)


def gaps(near: Floats) -> Floats:
    """(H, W) by how much something nearer stands beside each pixel. `near`: (H, W), -inf for nothing."""
    seen = near > -np.inf
    box = box_of(seen, 1)
    gap = np.zeros_like(near)
    gap[box] = ndimage.maximum_filter(near[box], 3) - np.where(seen[box], near[box], np.inf)
    return np.maximum(gap, 0)


def behind(near: Floats, gap: Floats, step: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(H, W) which pixels are on the far side of a step. `gap`: of `gaps`; `step`: (2, H, W) where the nearest one is."""
    there = tuple(step)
    return np.asarray(near < near[there] + gap[there] / 2)


def _guarded(
    colors: Floats, near: Floats, gap: Floats, step: NDArray[np.int32], distance: Floats, most: Floats
) -> Floats:
    """(H, W) the distances to steps, 0 where a pixel may show something nearer, and large where it shows itself for certain.

    Where a step is, is a guess. A pixel on its far side that has the colour of what is nearer may show that, except where what is
    far has that colour farther away too. Any other pixel that goes on in its colour, away from the step, shows itself.

    Args:
        colors: (H, W, 3)
        near: (H, W) nearness; -inf for nothing.
        gap: (H, W) of `gaps`.
        step: (2, H, W) where the nearest step is.
        distance: (H, W) pixels to it.
        most: (H, W) pixels, beyond which nothing nearer is shown.
    """
    close = (distance > 0) & (distance < np.maximum(most, BESIDE[1])) & (near > -np.inf)
    row, column = np.nonzero(close)
    here, there = np.array([row, column]), step[:, row, column]
    off = distance[row, column]
    towards = (there - here) / off
    size = np.array(near.shape)[:, None] - 1
    color, rest = colors[row, column], np.maximum(most[row, column] - off, 0)

    def going_on(some: NDArray[np.bool_], place: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Which of some pixels have the colour that is at their places."""
        y, x = np.clip(np.rint(place[:, some]), 0, size).astype(np.intp)
        alike = some.copy()
        alike[some] = np.abs(color[some] - colors[y, x]).max(axis=1) < ALIKE
        return alike

    spilt = going_on(behind(near, gap, step)[row, column], there + towards * ACROSS)
    sure = (off < BESIDE[1]) & ~spilt
    for away in AWAY:
        sure = going_on(sure, here - towards * away)
    # Stripes may have one colour before and behind.
    for beyond in BEYOND:
        spilt &= ~going_on(spilt, here - towards * (rest + beyond))
    guarded = distance.astype(np.float32)
    guarded[row[sure], column[sure]] = len(near)
    # The pixels of a step between two sides that show themselves.
    guarded = ndimage.grey_closing(guarded, 5)
    spilt &= off < most[row, column]
    guarded[row[spilt], column[spilt]] = 0
    return np.asarray(guarded)


def box_of(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Return the rows and columns of the mask's box with a margin, inside the picture; all of it for an empty mask."""
    sides = []
    for axis in (1, 0):
        there, size = np.flatnonzero(mask.any(axis=axis)), mask.shape[1 - axis]
        first, last = (int(there[0]), int(there[-1])) if len(there) else (0, size - 1)
        sides.append(slice(max(first - margin, 0), min(last + 1 + margin, size)))
    return sides[0], sides[1]


def sample(image: Floats, flat: Floats) -> Floats:
    """(N, C) values between the pixels of (S, S, C), at (N, 2) positions as `Camera.project` gives them."""
    position = np.stack([flat[:, 1], flat[:, 0]]) * len(image) - 0.5
    channels = [
        ndimage.map_coordinates(channel, position, order=1, mode="nearest")
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack(channels, axis=1).astype(np.float32)


def rise(value: Floats, low: float, high: float) -> Floats:
    """0 below `low`, 1 above `high`, smooth between (Hermite's 3t² - 2t³)."""
    share = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def colors_of(view: View, at: NDArray[np.int32]) -> Floats:
    """(H, W, 3) sRGB in 0..1 of the pixels at (2, H, W) rows and columns."""
    row, column = at
    # The four bytes of a pixel together, which takes a third of the time.
    found = view.reshape(-1, 4).take(row * view.shape[1] + column, axis=0)
    return np.asarray(found[..., :3] / np.float32(255), np.float32)


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
    return colors_of(view, nearest)
