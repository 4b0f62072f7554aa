"""Infer the side that no photo shows of a product with two like sides: it looks like the other one in a mirror."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import rank

from worker.engines.relief.outline import grow, inner_distance
from worker.engines.views import OPPOSITE, Outline
from worker.mesh.project import box_of

SOFT = 2.0  # pixels, over which colours are averaged that are compared in a mirror
THIN = 5.0  # pixels; parts about as thin need no like on the other side
FINE = 5  # pixels of a square, whose median a mirrored photo shows: print is left out, and edges stay sharp
LETTERS = 19  # the same, where a product is plain but for lettering
PLAIN = (
    24,
    0.7,
)  # difference from that median, 0 to 255, and the part of the surroundings that is closer to it: plain
SYMMETRIC = 0.85  # intersection over union of an outline and its mirror image, from which on it is symmetric
LIKE = 0.1  # mean difference of its colours in a mirror, below which it is symmetric; 1 is black to white


def mirrored(outlines: Sequence[Outline]) -> list[Outline]:
    """Return the mirror image of the one side that is shown, for the other side of a product that has two like sides.

    What is fine is left out, so that print does not come out mirrored.
    """
    sides = [outline for outline in outlines if outline.role in ("left", "right")]
    if len(sides) != 1 or not _is_symmetric(outlines[0]):
        return []
    (side,) = sides
    box = box_of(side.mask, 2 * FINE)
    color = grow(side.view[box], side.mask[box], inner_distance(side.mask)[box]) * 255
    fine, plain = (_median(color.astype(np.uint8), size) for size in (FINE, LETTERS))
    near = (np.abs(color - plain).max(axis=2) < PLAIN[0]).astype(np.float32)
    lettering = ndimage.uniform_filter(near, 3 * LETTERS) > PLAIN[1]
    view = np.zeros_like(side.view)
    view[box][..., :3] = np.where(lettering[:, :, None], plain, fine)
    view[..., 3][side.mask] = 255
    view = np.ascontiguousarray(view[:, ::-1])
    camera = replace(side.camera, azimuth=(side.camera.azimuth + 180) % 360)
    return [Outline(OPPOSITE[side.role], view, view[..., 3] > 0, camera)]


def _median(color: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(H, W, 3) the median of each channel in a square of `size` pixels."""
    square = np.ones((size, size), np.uint8)
    medians = [rank.median(color[..., i], square) for i in range(3)]  # type: ignore[no-untyped-call]  # has no types
    middle = np.stack(medians, axis=2).astype(np.int16)
    # Of three colours that meet, the medians of the channels would make a fourth one: take the likest that is there.
    best, least = middle, np.full(color.shape[:2], 3 * 256, np.int16)
    for down, right in product((-1, 0, 1), repeat=2):
        other = np.roll(color, (down * (size // 2), right * (size // 2)), (0, 1)).astype(np.int16)
        off = np.abs(other - middle).sum(axis=2)
        best = np.where((off < least)[:, :, None], other, best)
        least = np.minimum(off, least)
    return np.asarray(best, np.uint8)


def _is_symmetric(front: Outline) -> bool:
    """Return true if the front looks about the same in a mirror. Thin parts do not count, and the photo may be tilted."""
    box = box_of(front.mask, round(3 * THIN))
    view, mask = front.view[box][..., :3], front.mask[box]
    mask = ndimage.gaussian_filter(mask.astype(np.float32), THIN) > 0.5
    width = mask.sum(axis=1)
    rows, columns = np.flatnonzero(width), np.arange(mask.shape[1])
    if len(rows) < 2:
        return False
    middle = (mask[rows] * columns).sum(axis=1) / width[rows]
    tilt, start = np.polyfit(rows, middle, 1, w=width[rows])
    axis = start + tilt * np.arange(len(mask))
    source = np.rint(2 * axis[:, None] - columns).astype(np.intp)
    there = (source >= 0) & (source < mask.shape[1])
    source = np.where(there, source, 0)
    other = np.take_along_axis(mask, source, axis=1) & there
    both = mask & other
    if both.sum() < SYMMETRIC * (mask | other).sum():
        return False
    soft = ndimage.gaussian_filter(view.astype(np.float32), (SOFT, SOFT, 0))
    row, column = np.nonzero(both)
    return bool(np.abs(soft[row, column] - soft[row, source[row, column]]).mean() < LIKE * 255)
