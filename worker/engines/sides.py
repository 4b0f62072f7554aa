"""Correct the depth of a surface that was guessed from the front by the outlines that photos from its sides show.

A photo from the left or the right shows at each height how far the product reaches to the front and to the back. It does not
show where the product's depth begins: that stays where the guess has it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.surface import AZIMUTHS, Points, PosedView
from worker.engines.views import silhouette
from worker.mesh.camera import Camera
from worker.mesh.project import depth_buffer

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]  # (S, S)

SIZE = 256  # pixels a side of the pictures in which the depths are compared, and heights at which they are
SURE = 1.05  # a guess whose depth is off by less at half of the heights stays: photos cannot tell better
MOST = 1.6  # by how much the depth may become larger or smaller at a height
ALIKE = 0.07, 0.02  # of the heights: over the first the median is taken, and then over the second the mean
STEPS = 3  # of the correction
LEAST_OVERLAP = 0.8  # of the two outlines, after the depth was corrected; below it nothing is cut off
MARGIN = 1.5  # pixels of the photo that are left outside of its outline


class Outline(NamedTuple):
    """A photo's outline, with the camera that sees the corrected surface as the photo shows the product."""

    signed: Floats  # (S, S) pixels to the outline, positive inside
    camera: Camera


class Correction(NamedTuple):
    """At each height the depth that the photos show, against the one that was guessed; and what is to be cut off."""

    heights: Floats  # (H,) ascending
    guessed: Floats  # (H,) the middle of the depth, of the guess
    shown: Floats  # (H,) of the photos
    scale: Floats  # (H,) from the guessed depth to the one that is shown
    outlines: Sequence[Outline]  # outside of which there is nothing; may be empty

    def guess_of(self, points: Points) -> Points:
        """Return the points of the guess that move to (N, 3) points."""
        scale, shown, guessed = self._at(points)
        moved = points.copy()
        moved[:, 2] = guessed + (points[:, 2] - shown) / scale
        return moved

    def move(self, points: Points) -> Points:
        """Return where (N, 3) points of the guess move to."""
        scale, shown, guessed = self._at(points)
        moved = points.copy()
        moved[:, 2] = shown + (points[:, 2] - guessed) * scale
        return moved

    def inside(self, points: Points) -> Floats:
        """(N,) how far points lie inside of all outlines, negative outside, in the unit of the surface."""
        found = np.full(len(points), np.inf, np.float32)
        for signed, camera in self.outlines:
            flat, _ = camera.project(points)
            at = np.stack([flat[:, 1], flat[:, 0]]) * len(signed) - 0.5
            far = ndimage.map_coordinates(signed, at, order=1, mode="nearest")
            np.minimum(found, (far + MARGIN) * np.float32(camera.side / len(signed)), out=found)
        return found

    def _at(self, points: Points) -> list[Floats]:
        return [
            np.interp(points[:, 1], self.heights, of).astype(np.float32)
            for of in (self.scale, self.shown, self.guessed)
        ]


def correct(
    vertices: Points, faces: NDArray[np.int32], views: Sequence[PosedView], camera: Camera
) -> Correction | None:
    """Compare the depths of a guessed surface with those that photos from its sides show.

    Args:
        vertices: (V, 3) of the guess; a coarse one will do.
        faces: (F, 3)
        views: all photos; those from the left and the right count.
        camera: of a photo from the front.

    Returns:
        None if no photo shows the product from a side, or if the guess is as good as the photos can tell.
    """
    masks = [(role, silhouette(view[..., 3])) for role, view in views if role in ("left", "right")]
    masks = [(role, mask) for role, mask in masks if mask.any()]
    if not masks:
        return None
    low, high = float(vertices[:, 1].min()), float(vertices[:, 1].max())
    heights = np.linspace(low, high, SIZE, dtype=np.float32)
    none = np.zeros(SIZE, np.float32)
    now = Correction(heights=heights, guessed=none, shown=none, scale=none + 1, outlines=())
    placed = [_as_high(replace(camera, azimuth=AZIMUTHS[role]), vertices, mask) for role, mask in masks]
    found: list[tuple[float, Correction]] = []
    # In perspective, what is nearer hides more, so that it takes a few steps to settle.
    for _ in range(STEPS + 1):
        moved = now.move(vertices)
        guesses, photos, overlaps, outlines = [], [], [], []
        for (_, mask), there in zip(masks, placed, strict=True):
            guess = _depths(depth_buffer(moved, faces, there, SIZE) > -np.inf, there, heights)
            photo = _depths(mask, there, heights)
            # Each photo was framed alone: its depths begin where those of the guess do.
            shift = float(np.median(guess.mean(axis=0) - photo.mean(axis=0)))
            x, y, z = there.center
            shifted = replace(there, center=(x, y, z + shift))
            guesses.append(guess)
            photos.append(photo + shift)
            overlaps.append(_overlap(depth_buffer(moved, faces, shifted, SIZE) > -np.inf, mask))
            if overlaps[-1] > LEAST_OVERLAP:
                outlines.append(Outline(_signed(mask), shifted))
        found.append((float(np.mean(overlaps)), now._replace(outlines=outlines)))
        guess, photo = (np.mean(ends, axis=0) for ends in (guesses, photos))
        scale = np.clip(np.ptp(photo, axis=0) / np.maximum(np.ptp(guess, axis=0), 1e-6), 1 / MOST, MOST)
        if len(found) == 1 and np.median(np.abs(np.log(scale))) < np.log(SURE):
            return None
        now = _then(now, _smooth(guess.mean(axis=0)), _smooth(photo.mean(axis=0)), _smooth(scale))
    _, best = max(found, key=lambda one: one[0])
    return None if best is found[0][1] else best


def _then(first: Correction, guessed: Floats, shown: Floats, scale: Floats) -> Correction:
    """Correct what was corrected before."""
    both = np.clip(first.scale * scale, 1 / MOST, MOST)
    return first._replace(scale=both, shown=shown + scale * (first.shown - guessed))


def _as_high(camera: Camera, vertices: Points, mask: Mask) -> Camera:
    """Move and widen the camera until the surface is as high in its picture as the product is in the photo."""
    rows = np.flatnonzero(mask.any(axis=1))
    top, bottom = rows[0] / len(mask), (rows[-1] + 1) / len(mask)
    # In perspective, moving the camera changes a little what it sees, so that it takes a few steps to settle.
    for _ in range(3):
        flat, _ = camera.project(vertices)
        high, low = float(flat[:, 1].min()), float(flat[:, 1].max())
        side = camera.side * (low - high) / (bottom - top)
        down = ((top + bottom) / 2 - 0.5) * side - ((high + low) / 2 - 0.5) * camera.side
        x, y, z = camera.center
        camera = replace(camera, center=(x, y + down, z), side=side)
    return camera


def _depths(mask: Mask, camera: Camera, heights: Floats) -> NDArray[np.float64]:
    """(2, H) the z of the outline's two ends at each height, smaller first, as the plane through the camera's centre has it."""
    size = len(mask)
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1) / size
    last = 1 - mask[rows, ::-1].argmax(axis=1) / size
    # z grows to the right of a photo from the right side, and to the left of one from the left side.
    ends = np.stack([first, last]) - 0.5
    z = np.sort(camera.center[2] + np.sign(camera.rotation[0, 2]) * ends * camera.side, axis=0)
    y = camera.center[1] + (0.5 - (rows + 0.5) / size) * camera.side
    return np.stack([np.interp(heights, y[::-1], end[::-1]) for end in z])


def _smooth(values: NDArray[np.float64]) -> Floats:
    """Smooth values over the heights, so that a thin part that only one of the outlines has moves nothing."""
    median = ndimage.median_filter(values, int(ALIKE[0] * SIZE) | 1, mode="nearest")
    return np.asarray(ndimage.gaussian_filter1d(median, ALIKE[1] * SIZE, mode="nearest"), np.float32)


def _overlap(seen: Mask, mask: Mask) -> float:
    step = len(mask) // len(seen)
    wanted = mask[::step, ::step]
    return float((seen & wanted).sum() / max(1, (seen | wanted).sum()))


def _signed(mask: Mask) -> Floats:
    inside, outside = (ndimage.distance_transform_edt(of) for of in (mask, ~mask))
    return np.asarray(inside - outside, np.float32)
