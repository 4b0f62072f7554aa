"""Choose the photo that shows each point of the mesh best, and mix two in narrow bands where they meet."""

from collections.abc import Sequence
from itertools import combinations
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
UNLIKE = (
    0.2  # difference between the colours of two photos, beyond which they do not agree; 1 is black to white
)
SEEN = 0.5  # points of a cell that a photo sees, at least
CUT = 2.0  # differences in cells, summed up, through which the end of a photo cuts that gets a place: it counts half
FAIR = 0.3  # of the other photo's score: a photo that is worse gets no place for its other parts' sake
LIKELY = 0.5  # of a photo's resolution counts in an inferred picture
UPWARD = 0.7  # sine of the elevation of a camera that looks down from above, at least
STRAIGHT = 0.65  # mean cosine of what a photo sees straight on rather than from the side
LITTLE = 0.04  # of a place: what a photo saw straight of it, and is less, goes with the rest of the place
LOSER = 0.1  # of its score is left to a photo where another one gets the cell

EVERY_WAY = np.ones((3, 3, 3), bool)


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
    angles, around = [], []
    for n, (photo, some) in enumerate(zip(photos, few, strict=True)):
        at, size = (
            photo.at[some],
            photo.resolution[some] / np.float32(finest if n < real else finest / LIKELY),
        )
        angle = plain[n] * steady[n] * photo.clear[some] * photo.cosine[some] ** 2
        around.append(ndimage.gaussian_filter(cells.sums(at, angle * size), AGREE, truncate=2.0))
        angles.append(cells.sums(at, angle))
    _to_seams(cells, of, angles, around)
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


def _to_seams(cells: Cells, of: _Candidates, angles: Sequence[Floats], scores: Sequence[Floats]) -> None:
    """Change the scores of photos, (X, Y, Z), so that print on which two of them do not agree comes from one of them.

    Where the mesh is a little wrong, a seam through a print would show parts of it twice, or not at all.
    """
    seen, colors = [], []
    for photo, some, color, use in zip(of.photos, of.few, of.colors, of.uses, strict=True):
        at, weight = photo.at[some], use[some]
        total = cells.sums(at, weight)
        seen.append(total > SEEN)
        total = np.maximum(total, SEEN)
        colors.append(np.stack([cells.sums(at, channel * weight) / total for channel in color.T]))
    gone = _lost(cells, of, angles, scores, seen, colors)
    chosen = cut(scores, colors, [there & ~lost for there, lost in zip(seen, gone, strict=True)])
    for n, score in enumerate(scores):
        score[gone[n] | (chosen >= 0) & (chosen != n)] *= LOSER


def _lost(
    cells: Cells,
    of: _Candidates,
    angles: Sequence[Floats],
    scores: Sequence[Floats],
    seen: Sequence[NDArray[np.bool_]],
    colors: Sequence[Floats],
) -> list[NDArray[np.bool_]]:
    """(X, Y, Z) for each photo: the places that it loses to another one because the two differ much there.

    Each connected place goes whole to the photo that saw it better, or whose end there cuts through less of what the other one shows.

    Args:
        cells: of the seams.
        of: the photos.
        angles: (X, Y, Z) how well each photo saw its points, however large it is.
        scores: (X, Y, Z) how well it shows them.
        seen: (X, Y, Z) which cells it sees.
        colors: (3, X, Y, Z) what it shows there.
    """
    straight = []
    for photo, some, use in zip(of.photos, of.few, of.uses, strict=True):
        at, weight = photo.at[some], use[some]
        straight.append(
            cells.sums(at, weight * photo.cosine[some]) / np.maximum(cells.sums(at, weight), 1e-6)
        )

    def apart(i: int, j: int) -> Floats:
        """(X, Y, Z) the difference between two photos' colours, 0 where they agree or one of them sees nothing."""
        off = np.abs(colors[i] - colors[j]).max(axis=0)
        return np.where(seen[i] & seen[j] & (off > UNLIKE), off, np.float32(0))

    lost: dict[tuple[int, int], NDArray[np.intp]] = {}  # cells that the first one lost to the second one
    likes = [_like(of, n) for n in range(len(of.photos))]
    for pair in combinations([n for n, like in enumerate(likes) if like is None], 2):
        off = apart(*pair)
        places, count = ndimage.label(_with_neighbours(off > 0), EVERY_WAY)
        if not count:
            continue
        inside = np.flatnonzero(places)
        place, off = places.ravel()[inside], off.ravel()[inside]
        merits = []
        for n, other in (pair, pair[::-1]):
            # Where it ends and the other one goes on, a seam would show. A picture from above ends where the top does.
            end = _with_neighbours(seen[other] & ~seen[n]).ravel()[inside]
            through = np.bincount(place, off * end, count + 1) * (n < of.real)
            merits.append(
                np.bincount(place, angles[n].ravel()[inside] * (off > 0), count + 1) / (1 + through / CUT)
            )
        first_won = (merits[0] >= merits[1])[place]
        lost[pair], lost[pair[1], pair[0]] = inside[~first_won], inside[first_won]
    # A mirror image loses what its photo does on that one's side. It gets a place where it differs from a real photo, if its photo
    # won most of that place there: the two sides are not quite alike. What the real photo saw straight stays its own.
    for n, like in enumerate(likes):
        if like is None:
            continue
        nothing = np.zeros(0, np.intp)
        for k in set(range(of.real)) - {like}:
            won, gone = (cells.mirrored(lost.get(pair, nothing)) for pair in ((k, like), (like, k)))
            places, count = ndimage.label(_with_neighbours(apart(k, n) > 0), EVERY_WAY)
            differs = places > 0
            most = ndimage.mean(won, places, np.arange(count + 1)) > 0.5
            own = differs & (straight[k] > STRAIGHT)
            own &= (ndimage.mean(own, places, np.arange(count + 1)) > LITTLE)[places]
            taken = differs & most[places] & ~own
            lost[k, n] = np.flatnonzero(taken | (won & ~differs))
            lost[n, k] = np.flatnonzero(gone | (differs & ~taken))
    lost_by = [np.zeros(score.shape, bool) for score in scores]
    for (n, other), at in lost.items():
        least = FAIR if other < of.real else FAIR * LIKELY
        lost_by[n].ravel()[at] |= scores[other].ravel()[at] > least * scores[n].ravel()[at]
    return lost_by


def _like(of: _Candidates, n: int) -> int | None:
    """Return the photo whose mirror image an inferred one is; None for real ones, and for one from above."""
    toward = of.photos[n].shot.camera.rotation[2]
    if n < of.real or toward[1] > UPWARD:
        return None
    return min(range(of.real), key=lambda k: float(of.photos[k].shot.camera.rotation[2] @ toward))


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
