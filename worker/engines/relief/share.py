"""Sample inflated outlines along the axes of a grid."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.relief.outline import FloatMap, Measured, body, even_part
from worker.engines.views import Mask
from worker.mesh.project import box_of

ALIKE = (
    0.15,
    0.5,
)  # of the top of its row: thinner runs than the first stay so, thicker ones than the second are raised
CRUMB = 5  # pixels of a square, of which a thin part fills half at least
DENT = 8  # pixels, from one end to the other: what is thin for less, between thick parts, is no thin part
NEXT = 2  # pixels above and below it, where the part goes on
HARDLY = 0.5  # how thin a leg is, below which it is as thick as the others
LEAST = 0.25  # of a cell, squared, as half of a depth: below it the product ends
NEARLY = 0.8  # of a row's pixels: a run of more is the body, and the rest belongs to a handle or the like
CENTRED = 0.03  # of a row's width, by which the middle of the body may be off that of the row, if all of the row is the body
STEPS = 3.0  # rows, over which the steps of a pixel in the sides of a round body are smoothed


Rows = NDArray[np.bool_]  # (S,)
Places = NDArray[np.float32]  # (N,)


class Height(NamedTuple):
    """An inflated outline."""

    outline: Measured
    mask: Mask  # the outline's, its thin parts widened
    inner: FloatMap  # (S, S) of `inner_distance` of that
    squared: FloatMap  # (S, S) the square of half the depth in the common unit; negative outside

    def at(self, across: NDArray[np.float32], up: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sample it at the (N,) places along x or z, whichever the photo shows, and the (M,) heights: (N, M)."""
        return self.sample(self.squared, across, up)

    def sample(
        self, image: FloatMap, across: NDArray[np.float32], up: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Sample (S, S) values, or (S, 1) ones of whole rows, as `at` does."""
        # The camera is upright and parallel: each place has a column of the photo, and each height a row.
        points = np.zeros((len(across) + len(up), 3), np.float32)
        points[: len(across), 0 if self.outline.role in ("front", "back") else 2] = across
        points[len(across) :, 1] = up
        flat, _ = self.outline.camera.project(points)
        place = flat * np.float32(len(self.squared)) - np.float32(0.5)
        rows = _between_rows(image, place[len(across) :, 1])
        return rows.T if image.shape[1] == 1 else _between_rows(rows.T, place[: len(across), 0])

    def along(self, column: FloatMap) -> FloatMap:
        """Return the places along x or z of borders between pixels."""
        camera = self.outline.camera
        axis = 0 if self.outline.role in ("front", "back") else 2
        away = (column / len(self.squared) - 0.5) * camera.side
        return np.asarray(camera.center[axis] + camera.rotation[0, axis] * away, np.float32)


def _between_rows(image: FloatMap, row: NDArray[np.float32]) -> FloatMap:
    """Sample (H, W) at (N,) places between its rows, linearly: (N, W). Outside of the image its border is used."""
    row = np.clip(row, 0, len(image) - 1)
    upper = np.minimum(row.astype(np.intp), len(image) - 2)
    share = (row - upper)[:, None]
    return np.asarray(image[upper] * (1 - share) + image[upper + 1] * share, np.float32)


class Share(NamedTuple):
    """An inflated outline, sampled at N places across and M heights."""

    inside: NDArray[
        np.float32
    ]  # (N, M) its squared half depth as a share of the greatest at that height, to the exponent
    top: NDArray[np.float32]  # (M,) the greatest one
    squared: NDArray[np.float32]  # (N, M) the squared half depth itself
    thin: NDArray[np.float32]  # (N, M) 1 in thin parts beside the body, else 0
    circle: NDArray[np.float32]  # (N, M) the share that makes a circle
    once: NDArray[np.float32]  # (M,) 1 where that is known, because the body is crossed once, else 0
    middle: NDArray[np.float32]  # (M,) of the body there, along x or z
    half: NDArray[np.float32]  # (M,) of its width
    bridge: NDArray[np.float32]  # (M,) 1 where a rung joins legs, else 0

    def rounded(self, across: Places, weight: Places, rim: Places, least: Places) -> NDArray[np.float32]:
        """(N, M) between the share as it is, where the (M,) weight is 0, and that of a circle, where it is 1.

        Args:
            across: (N,) the places that are sampled.
            weight: (M,)
            rim: (M,) 1 where the circle is no wider than `least`, else 0
            least: (M,) half widths.
        """
        share = self.inside + weight * (self.circle - self.inside)
        rows = np.flatnonzero(rim * weight)
        away = (across[:, None] - self.middle[rows]) / np.maximum(least[rows], np.float32(1e-6))
        cut = np.minimum(share[:, rows], np.maximum(1 - away**2, -1))
        share[:, rows] += rim[rows] * weight[rows] * (cut - share[:, rows])
        return share


def share_of(
    height: Height,
    across: NDArray[np.float32],
    up: NDArray[np.float32],
    cell: float,
    exponent: NDArray[np.float64],
) -> Share:
    squared = height.squared
    # Below a cell the product ends, and a share would be noise. Beyond its ends the last one goes on.
    top = np.maximum(squared.max(axis=1), np.float32(cell**2))
    rows = np.flatnonzero(height.mask.any(axis=1))
    top = top[np.clip(np.arange(len(top)), rows[0], rows[-1])]
    # From row to row, an outline jumps by whole pixels.
    top = np.asarray(ndimage.gaussian_filter1d(top, 2.0), np.float32)[:, None]
    share = np.clip(squared / top, -1, 1)
    beside = _beside(height.mask, height.inner)
    # Where all is thinner than a cell, as thin legs are, its parts are still equals.
    equal = share / np.clip(share.max(axis=1, keepdims=True), LEAST, 1)
    # As thick as a part may be, squared: its pixels tell that to half of one.
    thicker = equal * np.asarray((1 + 0.5 / np.maximum(height.inner, 1)) ** 2, np.float32)
    thin = _thin(equal, thicker, height.mask, beside)
    share = _lifted(share, thicker)
    reach = float(height.inner.max() / 3)
    circle, once, run = _circle(share, height.mask, beside, reach)
    runs = (np.diff(height.mask.astype(np.int8), axis=1, prepend=0) == 1).sum(axis=1)
    bridge = _bridges(runs == 1, runs > 1, height.mask.sum(axis=1))
    bridge = ndimage.binary_dilation(bridge, iterations=2)  # sampled between rows, it would be half a rung
    left, right = height.along(run)
    middle, half = (left + right) / 2, np.abs(right - left) / 2
    inside, tops, plain, parts, circle, known, middle, half, rungs = (
        height.sample(of.astype(np.float32), across, up)
        for of in (share, top, squared, thin, circle, once[:, None], middle, half, bridge[:, None])
    )
    inside = np.where(inside > 0, np.maximum(inside, 0) ** exponent.astype(np.float32), inside)
    return Share(inside, tops[0], plain, parts, circle, known[0], middle[0], half[0], rungs[0])


def _beside(mask: Mask, inner: FloatMap) -> Mask:
    """Return the parts that stick out of the body."""
    main = body(mask, inner)
    rest = mask & ~main
    parts, count = ndimage.label(rest)
    if not count:
        return rest
    # A corner of the body is no part: it does not reach far.
    away = np.zeros(mask.shape)
    box = box_of(mask, 0)
    away[box] = ndimage.distance_transform_edt(~main[box])
    reach = np.zeros(count + 1)
    np.maximum.at(reach, parts[rest], away[rest])
    return np.asarray(rest & (reach > inner.max() / 3)[parts])


def _thin(equal: FloatMap, thicker: FloatMap, mask: Mask, beside: Mask) -> FloatMap:
    """Return 1 in the parts beside the body that are much thinner than it is at the same height, else 0."""
    if not beside.any():
        return np.zeros(equal.shape, np.float32)
    top = _tops(equal, beside)
    # Of two legs, half of a pixel makes none the thinner one. A rung or a handle is one run with what it joins.
    leg = _tops(equal, mask) <= top
    top = np.where(leg, _tops(thicker, mask), top)
    thin = beside * (1 - _ramp(top, *ALIKE))
    thin[leg & (thin < HARDLY)] = 0
    thin[ndimage.uniform_filter((thin > 0).astype(np.float32), CRUMB) < 0.5] = (
        0  # what is left at a joint would cut it through
    )
    _thicken_dents(thin, beside)
    return np.asarray(ndimage.gaussian_filter(thin, 1.5), np.float32)


def _thicken_dents(thin: FloatMap, beside: Mask) -> None:
    """Make nothing thin of a leg that is only dented, and thick above and below: it would break. `thin`: (S, S), changed in place."""
    parts, _ = ndimage.label(thin > 0)
    thick = beside & (parts == 0)
    for part, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        its = parts[rows, columns] == part
        ends = ((rows.start - NEXT, its[0]), (rows.stop - 1 + NEXT, its[-1]))
        short = rows.stop - rows.start <= DENT
        if short and all(0 <= row < len(thick) and thick[row, columns][end].any() for row, end in ends):
            thin[rows, columns][its] = 0


def _circle(share: FloatMap, mask: Mask, beside: Mask, reach: float) -> tuple[FloatMap, Rows, FloatMap]:
    """Return the share that makes circles of the rows that the body crosses once, and these rows, and the body's ends.

    An inflated outline is flatter in a disc, and narrower beside a step such as a shoulder or a rim.
    """
    main = mask & ~beside
    whole = _whole(mask, main, int(reach) + 1)
    main[whole] = mask[whole]
    main = even_part(main)
    change = np.diff(main.astype(np.int8), axis=1, prepend=0, append=0)
    rows, begins = np.nonzero(change == 1)
    ends = np.nonzero(change == -1)[1]
    # The longest run of each row comes last.
    order = np.lexsort((ends - begins, rows))
    longest = order[np.flatnonzero(np.diff(rows[order], append=-1))]
    run = np.zeros((2, len(main)), np.float32)
    run[:, rows[longest]] = begins[longest], ends[longest]
    width = run[1] - run[0]
    once = (width > 0) & (width >= NEARLY * main.sum(axis=1))
    once &= ~_bridges(once, (width > 0) & ~once, width)
    left, right = (run + np.clip(ndimage.gaussian_filter1d(run, STEPS) - run, -1, 1))[:, :, None]
    column = np.arange(main.shape[1])
    across = (2 * column + 1 - (left + right)) / np.maximum(right - left, 1)
    other = mask & ((column < run[0, :, None]) | (column >= run[1, :, None]))
    circle = np.maximum(np.clip(1 - across**2, -1, 1), np.where(other, share, -1))
    return np.where(once[:, None], circle, share).astype(np.float32), once, run[:, :, None]


def _whole(mask: Mask, main: Mask, reach: int) -> Rows:
    """Return the rows in which all belongs to the body, though it ends there: in a neck, a stand or a foot, and where they begin."""
    bare = ~main.any(axis=1)
    column = np.arange(mask.shape[1])
    count, its = mask.sum(axis=1), main.sum(axis=1)
    apart = (mask @ column) / np.maximum(count, 1) - (main @ column) / np.maximum(its, 1)
    near = ndimage.binary_dilation(bare & (count > 0), iterations=reach)
    return np.asarray(bare | (near & (np.abs(apart) < CENTRED * count)))


def _bridges(once: Rows, several: Rows, width: NDArray[np.float32]) -> Rows:
    """Return the rows that join parts which go on above and below, such as the rung of a stool.

    Args:
        once: (S,) rows that the body crosses once.
        several: (S,) rows of several parts.
        width: (S,) of the row, pixels.
    """
    bands, _ = ndimage.label(once)
    bridges = np.zeros(len(once), bool)
    several = np.pad(several, 1)  # a thin part that was widened much may reach the picture's border
    for (rows,) in ndimage.find_objects(bands):
        between = several[rows.start] and several[rows.stop + 1]
        bridges[rows] = between and rows.stop - rows.start < np.median(width[rows]) / 2
    return bridges


def _lifted(share: FloatMap, equal: FloatMap) -> FloatMap:
    """Raise each run of a row to the row's top if it is not much thinner, so that the legs of a chair are equals."""
    inside = share > 0
    top = _tops(share, inside)
    return np.asarray(share * (top + (1 - top) * _ramp(_tops(equal, inside), *ALIKE)) / top, np.float32)


def _tops(share: FloatMap, mask: Mask) -> FloatMap:
    """Return the greatest share in each run of a row of the mask, at its pixels, and 1 elsewhere."""
    top = np.ones_like(share)
    # Runs follow each other in the order of the pixels.
    starts = np.flatnonzero((mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1])[mask])
    if len(starts):
        tops = np.maximum(np.maximum.reduceat(share[mask], starts), 1e-6)
        top[mask] = np.repeat(tops, np.diff(starts, append=int(mask.sum())))
    return top


def _ramp(value: FloatMap, low: float, high: float) -> FloatMap:
    return np.asarray(np.clip((value - low) / (high - low), 0, 1), np.float32)
