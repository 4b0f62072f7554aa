"""Infer the side that no photo shows of a product with two like sides: it looks like the other one in a mirror."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations_with_replacement, product

import numpy as np
from scipy import ndimage
from skimage.filters import rank

from worker.engines.relief.outline import FloatMap, grow, inner_distance
from worker.engines.views import OPPOSITE, Outline
from worker.mesh.project import box_of

SOFT = 1.0  # pixels at half of the resolution, over which colours are averaged that are compared in a mirror
THIN = 2.5  # pixels at half of the resolution; parts about as thin need no like on the other side
FINE = 9  # pixels of a square, whose median a mirrored photo shows: print is left out, and edges stay sharp
LETTERS = 19  # the same, at half of the resolution, where a product is plain but for lettering
PLAIN = (
    24,
    0.7,
)  # difference from that, 0 to 255, and the part of the surroundings that is closer to it: plain ground
SYMMETRIC = 0.85  # intersection over union of an outline and its mirror image, from which on it is symmetric
LIKE = 0.1  # mean difference of its colours in a mirror, below which it is symmetric; 1 is black to white


def mirrored(outlines: Sequence[Outline]) -> list[Outline]:
    """Return the mirror image of the one side that is shown, for the other side of a product that has two like sides.

    What is as fine as print is left out, so that none comes out mirrored.
    """
    sides = [outline for outline in outlines if outline.role in ("left", "right")]
    if len(sides) != 1 or not _is_symmetric(outlines[0]):
        return []
    (side,) = sides
    box = box_of(side.mask, 2 * FINE)
    color = grow(side.view[box], side.mask[box], inner_distance(side.mask)[box]) * 255
    color = np.ascontiguousarray(np.moveaxis(color, 2, 0))
    view = np.zeros_like(side.view)
    view[box][..., :3] = np.moveaxis(_without_lettering(_median(color, FINE), color), 0, 2)
    view[..., 3][side.mask] = 255
    view = np.ascontiguousarray(view[:, ::-1])
    camera = replace(side.camera, azimuth=(side.camera.azimuth + 180) % 360)
    return [Outline(OPPOSITE[side.role], view, view[..., 3] > 0, camera)]


def _median(color: FloatMap, size: int) -> FloatMap:
    """(3, H, W) the median of each channel in a square of `size` pixels."""
    square = np.ones((size, size), np.uint8)
    # To the nearest of 64 levels, which takes less than half as long: the colour itself is that of a pixel nearby.
    medians = [rank.median(of, square) for of in color.astype(np.uint8) // 4]  # type: ignore[no-untyped-call]  # has no types
    middle = np.stack(medians).astype(np.int16) * 4 + 2
    # Of three colours that meet, the medians of the channels would make a fourth one: take the likest that is there.
    best, least = middle, np.full(color.shape[1:], 3 * 256, np.int16)
    for down, right in product((-1, 0, 1), repeat=2):
        other = np.roll(color, (down * (size // 2), right * (size // 2)), (1, 2)).astype(np.int16)
        off = np.abs(other - middle).sum(axis=0, dtype=np.int16)
        best = np.where(off < least, other, best)
        least = np.minimum(off, least)
    return np.asarray(best, np.float32)


def _without_lettering(picture: FloatMap, color: FloatMap) -> FloatMap:
    """(3, H, W) the picture with the ground's colours in place of thin print on plain ground. `color`: (3, H, W) the photo."""
    # Half of the resolution will do to find it.
    color = np.ascontiguousarray(color[:, ::2, ::2])
    plain = _median(color, LETTERS)
    known = _far(color, plain) < PLAIN[0]
    ground = ndimage.uniform_filter(known.astype(np.float32), 3 * LETTERS) > PLAIN[1]
    ground &= _third_color(color) < PLAIN[0]
    # What is broad goes on as far as its colour does, into its corners and along its edges.
    known &= (
        _far(ndimage.maximum_filter(plain, (1, 3, 3)), ndimage.minimum_filter(plain, (1, 3, 3))) < PLAIN[0]
    )
    own = np.where(known, plain, np.float32(np.inf))
    for _ in range(LETTERS // 2):
        before = known
        for axis, step in product((1, 2), (1, -1)):
            beside = np.roll(own, step, axis)
            more = ~known & (_far(beside, color) < PLAIN[0])
            own[:, more] = beside[:, more]
            known = known | more
        if (known == before).all():
            break
    if not known.any():
        return picture
    # Between two broad parts are colours between theirs.
    high = ndimage.maximum_filter(np.where(known, own, -np.inf), (1, 5, 5)) + PLAIN[0] / 2
    low = ndimage.minimum_filter(own, (1, 5, 5)) - PLAIN[0] / 2
    print_ = ground & ~known & ~((low < color) & (color < high)).all(axis=0)
    print_ = ground & ndimage.binary_dilation(print_, np.ones((3, 3), bool))
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    beside = own[:, *nearest]
    height, width = picture.shape[1:]
    print_, beside = (of.repeat(2, -2).repeat(2, -1)[..., :height, :width] for of in (print_, beside))
    return np.where(print_, beside, picture)


def _far(color: FloatMap, other: FloatMap) -> FloatMap:
    """(H, W) the difference between (3, H, W) colours."""
    return np.asarray(np.abs(color - other).max(axis=0))


def _third_color(color: FloatMap) -> FloatMap:
    """(H, W) by how much the (3, H, W) colours around each pixel are not mixed of two: the deviation from a line between them."""
    mean = ndimage.uniform_filter(color, LETTERS, axes=(1, 2))
    spread = np.empty((3, 3, *color.shape[1:]), np.float32)
    for i, j in combinations_with_replacement(range(3), 2):
        spread[i, j] = spread[j, i] = ndimage.uniform_filter(color[i] * color[j], LETTERS) - mean[i] * mean[j]
    # The line's direction, by multiplying one with the covariance again and again.
    along = spread[np.arange(3), np.arange(3)].argmax(axis=0)
    line = np.take_along_axis(spread, along[None, None], axis=0)[0]
    for _ in range(3):
        line = line / (np.linalg.norm(line, axis=0) + np.float32(1e-6))
        line = (spread * line).sum(axis=1)
    rest = np.trace(spread) - np.linalg.norm(line, axis=0)
    return np.asarray(np.sqrt(np.maximum(rest, 0)), np.float32)


def _is_symmetric(front: Outline) -> bool:
    """Return true if the front looks about the same in a mirror. Thin parts do not count, and the photo may be tilted."""
    box = box_of(front.mask, round(6 * THIN))
    # Half of the resolution will do.
    view, mask = front.view[box][::2, ::2, :3], front.mask[box][::2, ::2]
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
