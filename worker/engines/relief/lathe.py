"""Recognise a product that was turned on a lathe, such as a bottle, from one outline, and give it round sections."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.relief.outline import FloatMap, body, inner_distance
from worker.engines.views import Mask

# All must be reached. The margins are thin: a figure has 0.95 of the first and of the second.
SYMMETRY = 0.98  # intersection over union of the body and its mirror image
ONE_RUN = 0.97  # part of the rows in which the body is one run
BODY = 0.82  # part of the outline's area that is body, and not handle or spout
UNEVEN = 0.06  # of a row's width, between what lies to the left and to the right of the axis
STEP = 4  # pixels: the most by which the width of a rim that flares grows from one row to the next


def turned(mask: Mask) -> FloatMap | None:
    """Return the squared half depth of a turned product's body in pixels², 0 beside it; None if it may not be turned.

    Args:
        mask: (S, S), true where the product is.
    """
    main = body(mask, inner_distance(mask))
    axis, symmetry = _axis(main)
    if main.sum() < BODY * mask.sum() or symmetry < SYMMETRY:
        return None
    # A neck is too thin for the body, and turned like it.
    profile = np.where(main.any(axis=1, keepdims=True), main, mask)
    flared = _flared(mask, profile, axis)
    profile[flared] = mask[flared]
    rows = np.flatnonzero(profile.any(axis=1))
    starts = profile & ~np.pad(profile, ((0, 0), (1, 0)))[:, :-1]
    if (starts[rows].sum(axis=1) == 1).mean() < ONE_RUN:
        return None
    half = np.zeros(len(mask))
    half[rows] = ndimage.gaussian_filter1d(ndimage.median_filter(profile[rows].sum(axis=1) / 2, 9), 1.5)
    away = np.arange(mask.shape[1]) - axis
    return np.maximum(half[:, None] ** 2 - away**2, 0).astype(np.float32)


def _flared(mask: Mask, profile: Mask, axis: float) -> Mask:
    """Return the rows, (S,), of a rim, a shoulder or a foot that is too sharp for the body's opening, and belongs to it.

    They reach as far to the left as to the right, and at one end at least their width passes into that of the body row by row.
    What stands out at once on both sides, such as two handles, is no part of the body.
    """
    columns = np.arange(mask.shape[1])
    left = np.where(mask, columns, mask.shape[1]).min(axis=1)
    right = np.where(mask, columns, -1).max(axis=1)
    width, narrow = mask.sum(axis=1), profile.sum(axis=1)
    one_run = (width > 0) & (right - left + 1 == width)
    even = one_run & (np.abs(left + right - 2 * axis) <= UNEVEN * width)
    parts, count = ndimage.label(even & (width > narrow))
    flared = np.zeros(len(mask), bool)
    for part in range(1, count + 1):
        rows = np.flatnonzero(parts == part)
        ends = ((rows[0], max(rows[0] - 1, 0)), (rows[-1], min(rows[-1] + 1, len(mask) - 1)))
        steps = [abs(int(width[row]) - int(narrow[beside])) for row, beside in ends if narrow[beside]]
        flared[rows] = not steps or min(steps) <= STEP
    return flared


def _axis(mask: Mask) -> tuple[float, float]:
    """Return the column in which the mask is most like its mirror image, and the two's intersection over union."""
    columns = np.flatnonzero(mask.any(axis=0))
    middle = (columns[0] + columns[-1]) / 2
    best = (middle, 0.0)
    for axis in middle + np.arange(-8, 8.5, 0.5):
        mirrored = _mirrored(mask, float(axis))
        overlap = float((mask & mirrored).sum() / (mask | mirrored).sum())
        if overlap > best[1]:
            best = (float(axis), overlap)
    return best


def _mirrored(mask: Mask, axis: float) -> Mask:
    source: NDArray[np.intp] = np.rint(2 * axis - np.arange(mask.shape[1])).astype(np.intp)
    there = (source >= 0) & (source < mask.shape[1])
    return np.asarray(mask[:, np.clip(source, 0, mask.shape[1] - 1)] & there)
