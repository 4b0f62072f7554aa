"""Choose the photo that shows each point of the mesh best, and mix two in narrow bands where they meet."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.mesh.cells import Cells
from worker.mesh.project import Floats, Projection, rise
from worker.mesh.seams import cut

FACING_OF_SEVERAL = (
    0.1,
    0.3,
)  # a photo's share rises from 0 at the first cosine to 1 at the second; its neighbours go on where its angle is too low
AGREE = 2.0  # cells: within about this distance, points take the same photo
SEAM = 0.7  # cells: within about this distance of a seam, two photos mix
HIGHLIGHT = (
    0.8  # by how much a photo is worse where it is white and another one is not: gloss moves with the camera
)
SEEN = 0.5  # points of a cell that a photo sees, at least
LIKELY = 0.5  # of a photo's resolution counts in an inferred picture
LOSER = 0.1  # of its score is left to a photo where another one gets the cell


class _Candidates(NamedTuple):
    """Photos of which the best is chosen."""

    photos: Sequence[Projection]
    uses: Sequence[Floats]  # (N,) of each photo's points: how far it can be used there, 0..1
    few: Sequence[NDArray[np.intp]]  # (M,) of each photo: which of its N points are compared
    colors: Sequence[Floats]  # (M, 3) of each photo, of these
    real: int  # how many of the photos, the first ones, are not inferred

    def sure(self, n: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """(S,) the points, of the few, that a photo shows well; and which of its M few they are."""
        sure = self.uses[n][self.few[n]] > 0.5
        return self.photos[n].at[self.few[n][sure]], sure


def usable(photo: Projection) -> Floats:
    """(N,) how far one of several photos can be used at its points, 0..1."""
    return photo.clear * rise(photo.cosine, *FACING_OF_SEVERAL)


def choose(cells: Cells, photos: Sequence[Projection], uses: Sequence[Floats], real: int) -> Floats:
    """(n, P) the share of each photo: the best one around each point, mixed with the next one at the seams.

    Args:
        cells: around the points.
        photos: on the points.
        uses: (N,) of each photo's points, how far it can be used there, 0..1.
        real: how many of the photos, the first ones, are not inferred.
    """
    count = len(cells.points)
    finest = max(float(photo.resolution.max(initial=0)) for photo in photos) or 1.0
    few = [cells.few(photo.at) for photo in photos]
    colors = [photo.colors(some) for photo, some in zip(photos, few, strict=True)]
    of = _Candidates(photos, uses, few, colors, real)
    plain, steady = _without_highlights(of, count), _steady(of, count)
    around = []
    for n, (photo, some) in enumerate(zip(photos, few, strict=True)):
        at, size = (
            photo.at[some],
            photo.resolution[some] / np.float32(finest if n < real else finest / LIKELY),
        )
        angle = plain[n] * steady[n] * photo.clear[some] * photo.cosine[some] ** 2
        around.append(ndimage.gaussian_filter(cells.sums(at, angle * size), AGREE, truncate=2.0))
    _to_seams(cells, of, plain, around)
    best, best_score = np.full(count, -1, np.int8), np.zeros(count, np.float32)
    for n, (photo, some) in enumerate(zip(photos, few, strict=True)):
        at = photo.at[some]
        score = cells.lookup([around[n]], at)[:, 0] * uses[n][some]
        better = score > best_score[at]
        best[at[better]] = n
        best_score[at[better]] = score[better]

    near = []
    for n in range(len(photos)):
        chosen = cells.every * np.flatnonzero(best[:: cells.every] == n)
        ones = np.ones(len(chosen), np.float32)
        near.append(ndimage.gaussian_filter(cells.sums(chosen, ones), SEAM, truncate=2.0))
    # Away from the seams a point is near one photo alone, and has no other share.
    there = [_with_neighbours(grid > 0) for grid in near]
    seam = np.sum(there, axis=0) > 1
    shares = np.zeros((len(photos), count), np.float32)
    reliable = np.zeros(count, np.float32)
    for n, (photo, use) in enumerate(zip(photos, uses, strict=True)):
        cell = cells.of_all[photo.at]
        share = use * there[n].ravel()[cell]
        mixed = np.flatnonzero((share > 0) & seam.ravel()[cell])
        at = photo.at[mixed]
        share[mixed] *= cells.lookup([near[n]], at)[:, 0]
        reliable[at] += share[mixed] * use[mixed]
        shares[n, photo.at] = share
    mixed = np.flatnonzero(reliable)
    seams = shares.take(mixed, axis=1)
    shares[:, mixed] = seams * (reliable[mixed] / seams.sum(axis=0) ** 2)
    return shares


def _to_seams(cells: Cells, of: _Candidates, plain: Sequence[Floats], scores: Sequence[Floats]) -> None:
    """Change the scores of photos, (X, Y, Z), so that print on which two of them do not agree comes from one of them.

    A highlight is no print: `plain` is less than 1 there, (M,) for the few points of each photo.
    """
    seen, colors, prints = [], [], []
    for photo, some, color, use, dull in zip(of.photos, of.few, of.colors, of.uses, plain, strict=True):
        at, weight = photo.at[some], use[some]
        total = cells.sums(at, weight)
        seen.append(total > SEEN)
        total = np.maximum(total, SEEN)
        prints.append(cells.sums(at, weight * dull) / total)
        colors.append(np.stack([cells.sums(at, channel * weight) / total for channel in color.T]))
    chosen = cut(scores, colors, prints, seen)
    for n, score in enumerate(scores):
        score[(chosen >= 0) & (chosen != n)] *= LOSER


def _with_neighbours(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(X, Y, Z) true in and beside true cells, diagonally too."""
    for axis in range(3):
        old = np.moveaxis(cells, axis, 0)
        cells = old.copy()
        cells[1:] |= old[:-1]
        cells[:-1] |= old[1:]
        cells = np.moveaxis(cells, 0, axis)
    return np.ascontiguousarray(cells)


def _without_highlights(of: _Candidates, count: int) -> list[Floats]:
    """(M,) for the few points of each photo: of `count` points, less than 1 where it is white and a real one that saw the same is not."""
    dullest = np.ones(count, np.float32)
    bright = [np.minimum.reduce([*color.T]) for color in of.colors]
    for n in range(of.real):
        at, sure = of.sure(n)
        dullest[at] = np.minimum(dullest[at], bright[n][sure])
    return [
        1 - HIGHLIGHT * rise(light - dullest[photo.at[some]], 0.1, 0.3) * rise(light, 0.6, 0.8)
        for photo, some, light in zip(of.photos, of.few, bright, strict=True)
    ]


def _steady(of: _Candidates, count: int) -> list[Floats]:
    """(M,) for the few points of each photo: of `count` points, how sure their colours are.

    An inferred picture, whose print may have been left out, is not surer than a real one that saw the same.
    """
    steady = [photo.steady(some) for photo, some in zip(of.photos, of.few, strict=True)]
    least = np.ones(count, np.float32)
    for n in range(of.real):
        at, sure = of.sure(n)
        least[at] = np.minimum(least[at], steady[n][sure])
    for n in range(of.real, len(of.photos)):
        steady[n] = np.minimum(steady[n], least[of.photos[n].at[of.few[n]]])
    return steady
