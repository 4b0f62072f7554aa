"""Measure and mend outlines: masks on the pixels of a view."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

from worker.engines.surface import View
from worker.engines.views import Mask, Outline
from worker.mesh.project import box_of, colors_of

FloatMap = NDArray[np.float32]  # (S, S) or (S, S, C), on the pixels of a view

MOST = 3  # of four pixels, from which on one of half of the resolution is inside: fewer would make solids too fat
EVEN = 2.0  # pixels by which the middle of a row may be off a body's axis
UPRIGHT = 0.6  # of a body's rows, of which the middle is on its axis if it is upright
ONE_SIDED = 0.7  # of half of a row's width: less is no half of a body
STRAIGHT = 0.1  # tangent of the angle to the upright or the level, below which an outline is straight


class Measured(Outline):
    """An outline, and what several steps ask of it: each is measured once."""

    @cached_property
    def inner(self) -> FloatMap:
        """(S, S) of `inner_distance`."""
        return inner_distance(self.mask)

    @cached_property
    def body(self) -> Mask:
        """(S, S) of `body`."""
        return body(self.mask, self.inner)

    @cached_property
    def colors(self) -> FloatMap:
        """(S, S, 3) of `grow`."""
        return grow(self.view, self.mask, self.inner)


def inner_distance(mask: Mask) -> FloatMap:
    """Return each pixel's distance to the nearest pixel outside of the mask, in pixels; 0 outside."""
    distance = np.zeros(mask.shape, np.float32)
    box = box_of(mask, 1)
    distance[box] = ndimage.distance_transform_edt(mask[box])
    return distance


def halved(outline: Outline) -> Measured:
    """Return the outline and its photo at half of the resolution, which is about that of the grid. No thin part gets lost.

    The photo's transparency is that of four pixels on average, so that it tells where between pixels the outline is.
    """
    mask = outline.mask.astype(np.uint8)
    mask = mask[::2] + mask[1::2]
    count = mask[:, ::2] + mask[:, 1::2]
    small, any_ = count >= MOST, count > 0
    lost = any_ & ~ndimage.binary_dilation(small)
    if lost.any():
        small |= any_ & ndimage.binary_dilation(lost, iterations=2)
    view = outline.view[::2, ::2].copy()
    alpha = outline.view[..., 3].astype(np.uint16)
    alpha = alpha[::2] + alpha[1::2]
    view[..., 3] = (alpha[:, ::2] + alpha[:, 1::2] + 2) // 4
    return Measured(outline.role, view, small, outline.camera)


def thicken(mask: Mask, inner: FloatMap, radius: float) -> Mask:
    """Widen thin parts to `radius` pixels on each side of their spine, so that the grid can resolve them.

    Args:
        mask: (S, S)
        inner: (S, S) of `inner_distance`.
        radius: pixels.
    """
    whole = box_of(mask, 1)
    spine = np.zeros_like(mask)
    spine[whole] = skeletonize(mask[whole])  # type: ignore[no-untyped-call]  # has no types
    spine &= inner < radius
    if not spine.any():
        return mask
    box = box_of(spine, int(radius) + 1)
    wide = mask.copy()
    wide[box] |= ndimage.distance_transform_edt(~spine[box]) <= radius - 0.5
    return wide


def body(mask: Mask, inner: FloatMap) -> Mask:
    """Open the mask by a third of its greatest inner radius, and keep the largest part: no handles, arms and tails.

    Args:
        mask: (S, S)
        inner: (S, S) of `inner_distance`.
    """
    reach = float(inner.max()) / 3
    cores, count = ndimage.label(inner > reach)
    core = cores == np.argmax(np.bincount(cores.ravel())[1:]) + 1 if count > 1 else cores > 0
    box = box_of(mask, 0)
    opened = np.zeros_like(mask)
    opened[box] = ndimage.distance_transform_edt(~core[box]) <= reach
    return np.asarray(opened & mask)


def even_part(main: Mask) -> Mask:
    """Return an upright body without what sticks out of one side of it, where a spout or a handle grows from it."""
    rows = np.flatnonzero(main.any(axis=1))
    left, right = main[rows].argmax(axis=1), main.shape[1] - main[rows][:, ::-1].argmax(axis=1)
    middle = (left + right) / 2
    axis = np.median(middle)
    if (np.abs(middle - axis) < EVEN).mean() < UPRIGHT:
        return main
    half = np.minimum(axis - left, right - axis) + EVEN
    half[half < ONE_SIDED * (right - left) / 2] = np.inf
    even = main.copy()
    even[rows] &= np.abs(np.arange(main.shape[1]) + 0.5 - axis) < half[:, None]
    return even


def straightness(mask: Mask) -> float:
    """Return the part of the outline that runs upright or level, 0..1: about 0.13 for a disk, 1 for a box."""
    soft = np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), 2))
    down, right = np.abs(np.gradient(soft))
    slope = np.hypot(down, right)
    along = np.minimum(down, right) < STRAIGHT * np.maximum(down, right)
    return float((slope * along).sum() / max(float(slope.sum()), 1e-9))


def longer_side(mask: Mask) -> int:
    """Return the longer side of the mask's box in pixels, limited so that the grid is not finer than the photo."""
    rows, columns = np.nonzero(mask)
    return max(int(np.ptp(rows)), int(np.ptp(columns)), len(mask) // 8) + 1


def grow(view: View, mask: Mask, inner: FloatMap) -> FloatMap:
    """Return the photo's colours, (S, S, 3), with the product's colours continued past its rim, over the background."""
    # A part that is too thin to have an inside keeps the colours of its spine.
    sure = mask & (view[..., 3] > 127) & ((inner > 2.5) | (inner >= ndimage.maximum_filter(inner, 5)))
    nearest = ndimage.distance_transform_edt(~sure, return_distances=False, return_indices=True)
    return colors_of(view, nearest)


def lookup(image: FloatMap, row: FloatMap, column: FloatMap) -> FloatMap:
    """Sample (H, W) or (H, W, C) between its pixels, bilinearly. Outside of the image the border is used."""
    row = np.clip(row, 0, image.shape[0] - 1)
    column = np.clip(column, 0, image.shape[1] - 1)
    r = np.minimum(row.astype(np.intp), image.shape[0] - 2)
    c = np.minimum(column.astype(np.intp), image.shape[1] - 2)
    flat = image.reshape(-1, *image.shape[2:])
    at = r * image.shape[1] + c
    shape = (*row.shape, *(1,) * (image.ndim - 2))
    down, right = (row - r).reshape(shape), (column - c).reshape(shape)
    upper = flat.take(at, axis=0) * (1 - right) + flat.take(at + 1, axis=0) * right
    at += image.shape[1]
    lower = flat.take(at, axis=0) * (1 - right) + flat.take(at + 1, axis=0) * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)
