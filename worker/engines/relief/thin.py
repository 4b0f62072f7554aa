"""Place the thin parts of an outline, such as handles, posts and legs: how deep they lie, its own photo does not show."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.relief.share import Share

Floats = NDArray[np.float32]

THIN_ROOM = 7  # samples across and up in which the thin part of another photo may be
HALF = 0.5  # of a thin part
BRANCHED = 1.2  # parts a height, above which it is a net and no post
CROSSING = 0.5  # how thin a part is in the other photo, from which on it is the same part
BEYOND = (3, 6, 9)  # samples from the end of a thin part, where it may go on as a leg
APART = 0.5  # of the width that two photos show at a height, which both show at least: less is a slender part at two places


def add_thin(
    volume: Floats,
    seen: Share,
    other: Share,
    along: Floats,
) -> None:
    """Give the thin parts of an outline their own thickness, in the middle of what the other photo shows at their height.

    Args:
        volume: (N, M, K) of the solid, changed in place.
        seen: (N, M) of the outline with the thin parts.
        other: (K, M) of the outline from the side.
        along: (K,) the samples along the other outline.
    """
    columns, rows = np.nonzero(seen.thin)
    weight = np.maximum(other.inside, 0) ** 4
    middle = (weight * along[:, None]).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-9)
    middle = ndimage.gaussian_filter1d(middle, 2)
    away = (along - middle[rows, None]) ** 2
    _go_on(away, volume, seen, along, columns, rows)
    own = seen.squared[columns, rows, None] - away
    own = np.minimum(own, (other.inside * other.top).T[rows])
    # A post at a corner is a thin part of both photos, and stays where they cross.
    share = seen.thin[columns, rows, None] * np.maximum(1 - other.thin.T[rows] / CROSSING, 0)
    whole = volume[columns, rows]
    volume[columns, rows] = whole + share * (own - whole)


def _go_on(
    away: Floats,
    volume: Floats,
    seen: Share,
    along: Floats,
    columns: NDArray[np.intp],
    rows: NDArray[np.intp],
) -> None:
    """Let a thin part that is a leg or a post above or below the body go on where it stands there.

    Args:
        away: (T, K) squared distances of the samples of the part from where it is; changed in place.
        volume: (N, M, K) of the solid without thin parts.
        seen: (N, M) of the outline with the thin parts.
        along: (K,) the samples along the other outline.
        columns: (T,) of the samples of the part.
        rows: (T,)
    """
    parts, count = ndimage.label(seen.thin > HALF)
    # (N, M) which part a sample belongs to, also where it only begins to be thin.
    nearest = ndimage.distance_transform_edt(parts == 0, return_distances=False, return_indices=True)
    its = parts[tuple(nearest)][columns, rows]
    for part in range(1, count + 1):
        inner = parts == part
        levels = np.flatnonzero(inner.any(axis=0))
        if (np.diff(inner.astype(np.int8), axis=0, prepend=0) == 1).sum() > BRANCHED * len(levels):
            continue
        standing: list[float] = []
        for end, step in ((levels[0], -1), (levels[-1], 1)):
            across = np.flatnonzero(ndimage.binary_dilation(inner[:, end], iterations=2))
            for beyond in BEYOND:
                row = min(max(end + step * beyond, 0), volume.shape[1] - 1)
                foot = across[(seen.squared[across, row] > 0) & (seen.thin[across, row] < HALF)]
                places, number = ndimage.label(volume[foot, row].max(axis=0, initial=-1) > 0)
                if number > 1:
                    standing += ndimage.mean(along, places, np.arange(1, number + 1)).tolist()
                    break
        if standing:
            of = its == part
            away[of] = ((along - np.array(standing, np.float32)[:, None]) ** 2).min(axis=0)


def one_thin(shares: list[Share]) -> list[Share]:
    """Take slender parts from the first of two photos: aligned by their bodies, both may show them at places that hardly overlap."""
    if len(shares) == 1:
        return shares
    first, second = shares
    shown = np.array([first.inside > 0, second.inside > 0])
    beside = np.array([first.thin, second.thin])
    thin = ndimage.grey_dilation(beside.max(axis=0), size=THIN_ROOM) * _apart(shown & (beside > 0))
    thin = np.maximum(thin, _apart(shown))
    inside, circle = (
        np.asarray(its + thin * (other - its), np.float32)
        for its, other in ((second.inside, first.inside), (second.circle, first.circle))
    )
    return [first, second._replace(inside=inside, circle=circle)]


def _apart(shown: NDArray[np.bool_]) -> Floats:
    """Return (M,) 1 at heights where two photos show one (2, N, M) part each, and both hardly overlap, else 0."""
    one = (np.diff(shown.astype(np.int8), axis=1, prepend=0) == 1).sum(axis=1) == 1
    apart = shown.all(axis=0).sum(axis=0) < APART * shown.any(axis=0).sum(axis=0)
    return np.asarray(ndimage.gaussian_filter1d((apart & one.all(axis=0)).astype(np.float32), 1.0))
