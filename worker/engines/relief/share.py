"""Sample inflated outlines along the axes of a grid."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.relief.outline import FloatMap, body, inner_distance
from worker.engines.views import Mask, Outline
from worker.mesh.project import box_of

ALIKE = (
    0.15,
    0.5,
)  # of the top of its row: thinner runs than the first stay so, thicker ones than the second are raised


class Height(NamedTuple):
    """An inflated outline."""

    outline: Outline
    mask: Mask  # the outline's, its thin parts widened
    squared: FloatMap  # (S, S) the square of half the depth in the common unit; negative outside

    def at(self, across: NDArray[np.float32], up: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sample it at the (N,) places along x or z, whichever the photo shows, and the (M,) heights: (N, M)."""
        # The camera is upright and parallel: each place has a column of the photo, and each height a row.
        points = np.zeros((len(across) + len(up), 3), np.float32)
        points[: len(across), 0 if self.outline.role in ("front", "back") else 2] = across
        points[len(across) :, 1] = up
        flat, _ = self.outline.camera.project(points)
        place = flat * np.float32(len(self.squared)) - np.float32(0.5)
        rows = _between_rows(self.squared, place[len(across) :, 1])
        return _between_rows(rows.T, place[: len(across), 0])


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
    thin = _thin(height.mask, share)
    share = _lifted(share)
    inside, tops, plain, parts = (
        height._replace(squared=np.asarray(of, np.float32)).at(across, up)
        for of in (share, np.broadcast_to(top, share.shape), squared, thin)
    )
    inside = np.where(inside > 0, np.maximum(inside, 0) ** exponent.astype(np.float32), inside)
    return Share(inside, tops[0], plain, parts)


def _thin(mask: Mask, share: FloatMap) -> FloatMap:
    """Return 1 in the parts that stick out of the body and are much thinner than it is at the same height, else 0."""
    main = body(mask)
    rest = mask & ~main
    parts, count = ndimage.label(rest)
    if not count:
        return np.zeros(mask.shape, np.float32)
    # A corner of the body is no part: it does not reach far.
    away = np.zeros(mask.shape)
    box = box_of(mask, 0)
    away[box] = ndimage.distance_transform_edt(~main[box])
    reach = ndimage.maximum(away, parts, np.arange(1, count + 1))
    rest &= np.concatenate([[False], reach > inner_distance(mask).max() / 3])[parts]
    top = _tops(share, rest)
    return np.asarray(ndimage.gaussian_filter(rest * (1 - _ramp(top, *ALIKE)), 1.5), np.float32)


def _lifted(share: FloatMap) -> FloatMap:
    """Raise each run of a row to the row's top if it is not much thinner, so that the legs of a chair are equals."""
    top = _tops(share, share > 0)
    return np.asarray(share * (top + (1 - top) * _ramp(top, *ALIKE)) / top, np.float32)


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
