"""Even out the light of photos towards their seams, where one may be in the shade of what the other shows lit."""

from collections.abc import Sequence

import numpy as np

from worker.mesh.cells import Cells, broad
from worker.mesh.project import Floats, Projection

CELLS = 16  # of the grid in which the light is evened out, along the longest side
MOST = 0.15  # the most by which a photo's colours are moved there
LEAST_LIKE = 0.3  # how much a point counts, at least, in the mean: so that where all is something else nothing is moved
BARELY = 0.02  # of the points around: photos that share fewer are not evened out


def level(
    fine: Cells, photos: Sequence[Projection], uses: Sequence[Floats], real: int, shares: Floats
) -> Floats:
    """(n, C, 3) by how much the colours of each photo move in each of the C `fine` cells.

    Only what is broad is moved, print is not: each photo goes half the way at the seam, and less the farther from it.
    An inferred one goes all the way to a real one.

    Args:
        fine: around the points.
        photos: on the points.
        uses: (N,) of each photo's points, how far it can be used there, 0..1.
        real: how many of the photos, the first ones, are not inferred.
        shares: (n, P) of each photo in the points' colours.
    """
    cells = Cells(fine.points, CELLS)
    count = shares.shape[1]
    every = np.arange(0, count, cells.every)
    shown = [broad(cells.sums(every, share[every])) for share in shares]
    total = np.maximum(np.sum(shown, axis=0), 1e-6)
    least = BARELY * broad(cells.sums(every, np.ones(len(every), np.float32))) + 1e-6
    offsets = np.zeros((len(photos), 3, *cells.shape), np.float32)
    place = np.full(count, -1)
    few = [cells.few(photo.at) for photo in photos]
    colors = [photo.colors(some) for photo, some in zip(photos, few, strict=True)]
    for i, first in enumerate(photos):
        place[every] = -1
        place[first.at[few[i]]] = np.arange(len(few[i]))
        for j in range(i + 1, len(photos)):
            second = photos[j]
            there = np.flatnonzero(place[second.at[few[j]]] >= 0)
            at = second.at[few[j][there]]
            here = place[at]
            off = colors[j].take(there, axis=0) - colors[i].take(here, axis=0)
            # What differs by more than light does is something else: it moves less, and counts in full.
            weight = uses[i][few[i][here]] * uses[j][few[j][there]]
            like = weight / (1 + ((off**2).max(axis=1) / np.float32(MOST**2)) ** 2)
            off *= like[:, None]
            both = broad(cells.sums(at, np.maximum(like, LEAST_LIKE * weight))) + least
            way, back = shown[j] / total, shown[i] / total
            if i < real <= j:
                way, back = np.zeros_like(way), np.minimum(2 * back, 1)
            for channel in range(3):
                apart = broad(cells.sums(at, off[:, channel])) / both
                np.clip(apart, -MOST, MOST, out=apart)
                offsets[i, channel] += way * apart
                offsets[j, channel] -= back * apart
    taken = np.zeros(int(np.prod(fine.shape)), bool)
    taken[fine.of_all] = True
    middles = fine.middles(np.flatnonzero(taken))
    by = np.zeros((len(photos), len(taken), 3), np.float32)
    for moved, offset in zip(by, offsets, strict=True):
        moved[taken] = cells.interpolate([*offset], middles)
    return by
