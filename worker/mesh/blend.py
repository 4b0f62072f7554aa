"""Join what several photos say of the mesh's colours: the best photo at each point, and narrow seams between them."""

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.mesh.doubled import doubled
from worker.mesh.project import Floats, Projection, rise
from worker.mesh.texture import Color

# A photo's share in a colour rises from 0 at the first cosine to 1 at the second.
FACING = (0.15, 0.55)  # of one photo alone: beyond it, the engine's colour
FACING_OF_SEVERAL = (
    0.1,
    0.3,
)  # of the best of several photos, whose neighbours continue where its angle is too low
CELLS = 80  # of the grid in which seams are placed and softened, along the longest side of the mesh
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
LOSER = 0.1  # of its score is left to a photo where another one gets the whole place
ENOUGH = 0.995  # of a colour, from which on what the photos leave of it is no matter
FEW = 50_000  # points, from which the surroundings of all are found
FEW_OF_ENGINE = 20_000  # the same, for the difference between photos and engine
LIGHT_CELLS = 16  # of the grid in which the light of photos is evened out, along the longest side
MOST_LIGHT = 0.15  # the most by which a photo's colours are moved there
BARELY = 0.02  # of the points around: photos that share fewer are not evened out
APART = 0.15  # difference between photo and engine, beyond which they show different things and hardly count; 1 is black to white
LEAST_LIKE = 0.3  # how much it counts, at least, in the mean: so that what is apart everywhere moves nothing
MOST_OFFSET = 0.2  # the most by which photos move the engine's colours: more would make colours that neither of them has
FAR_OFFSET = 0.1  # the most by which photos move the engine's colours far from what they show


EVERY_WAY = np.ones((3, 3, 3), bool)


class Blend(NamedTuple):
    """Colours of P points, and where they come from."""

    colors: Floats  # (P, 3) sRGB in 0..1, NaN where unknown
    shares: Floats  # (n, P) of each photo in the colour; the rest is the engine's
    seen: NDArray[np.bool_]  # (P,) a photo saw the point clearly and at a fair angle


class Layers(NamedTuple):
    """What photos give to the colours of P points, before the engine's colours are known."""

    points: Floats  # (P, 3)
    each: Sequence["_Layer"]  # of each photo, and of each inferred picture
    shares: Floats  # (n, P) of each in the colour
    photos: int  # how many of them are real
    seen: NDArray[np.bool_]  # (P,) as in `Blend`

    @property
    def open(self) -> NDArray[np.bool_]:
        """(P,) where the engine's colour counts: with one photo everywhere."""
        if len(self.shares) == 1:
            return np.ones(len(self.points), bool)
        return np.asarray(self.shares.sum(axis=0) < ENOUGH)

    def harmonized(self, color: Color) -> Color:
        """Return the engine's colours, moved by what several photos around each point differ from them."""
        return _harmonized(self, color) if len(self.shares) > 1 else color

    def over(self, colors: Floats) -> Blend:
        """Lay the photos over the engine's colours: (P, 3) sRGB in 0..1; NaN where unknown, or not open."""
        total, shares = np.asarray(self.shares.sum(axis=0), np.float32), self.shares.copy()
        # Where the engine knows no colour, a little of a photo is better than none.
        unknown = ~_known(colors)
        alone = np.flatnonzero(unknown & (total > 0) & (total != 1))
        shares[:, alone] /= total[alone]
        base = np.where(unknown[:, None], np.float32(0), colors)
        mixed = base.copy()
        for share, (at, color) in zip(shares, self.each, strict=True):
            mixed[at] += share[at, None] * (color - base.take(at, axis=0))
        mixed[unknown & (total == 0)] = np.nan
        return Blend(mixed, shares[: self.photos], self.seen)


def lay(points: Floats, photos: Sequence[Projection], inferred: Sequence[Projection] = ()) -> Layers:
    """Lay photos over points of the mesh.

    One photo alone fades into the engine's colours. Of several, each point takes the one that saw it best: straight on,
    with many pixels, far from outlines. What no photo saw keeps the engine's colour, moved by the difference between the
    photos and the engine around it.

    Args:
        points: (P, 3) on the mesh.
        photos: with matching exposures.
        inferred: likely pictures of sides that no photo shows. They take part where photos saw worse, and are not counted.
    """
    count = len(photos)
    photos = [*photos, *inferred]
    shares = np.zeros((len(photos), len(points)), np.float32)
    for share, photo in zip(shares, photos, strict=True):
        share[photo.at] = photo.clear * rise(photo.cosine, *FACING)
    seen = np.asarray((shares[:count] > 0.5).any(axis=0))
    if len(photos) > 1:
        cells = _Cells(points, CELLS)
        usable = [photo.clear * rise(photo.cosine, *FACING_OF_SEVERAL) for photo in photos]
        shares = _choose(cells, photos, usable, count)
        layers = _levelled(_Cells(points, LIGHT_CELLS), cells, photos, usable, count, shares)
    else:
        layers = [_laid(photo, share) for photo, share in zip(photos, shares, strict=True)]
    return Layers(points, layers, shares, count, seen)


class _Layer(NamedTuple):
    """What a photo gives to the N points in whose colours it has a share."""

    at: NDArray[np.intp]  # (N,) ascending
    color: Floats  # (N, 3) sRGB in 0..1


class _Cells:
    """A grid around P points, to average over the points' surroundings in space, across the seams of a texture."""

    def __init__(self, points: Floats, count: int, most: int = FEW, multiple: int = 1) -> None:
        """Take (P, 3) points, the number of cells along the longest side, and how many points to average at most.

        The number of cells along each axis is a multiple of `multiple`.
        """
        self.every = max(len(points) // most, 1)
        few = points[:: self.every]
        self.points, self.low = points, few.min(axis=0)
        side = few.max(axis=0) - self.low
        self.cell = np.float32(max(float(side.max()) / count, 1e-9))
        self.shape = tuple(int(np.ceil((n + 3) / multiple)) * multiple for n in side / self.cell)
        index = np.rint(self._place(few)).astype(np.intp)
        self.index = (index[0] * self.shape[1] + index[1]) * self.shape[2] + index[2]

    def _place(self, points: Floats) -> Floats:
        """(3, N) where points lie, in cells."""
        return np.ascontiguousarray(((points - self.low) / self.cell + np.float32(1)).T)

    @cached_property
    def of_all(self) -> NDArray[np.int32]:
        """(P,) the cell of each point, as a place in a raveled grid."""
        x, y, z = (
            np.rint(of).clip(0, most - 1).astype(np.int32)
            for of, most in zip(self._place(self.points), self.shape, strict=True)
        )
        return np.asarray((x * self.shape[1] + y) * self.shape[2] + z)

    def middles(self, cells: NDArray[np.intp]) -> Floats:
        """(N, 3) the middles of cells, given as places in a raveled grid."""
        place = np.stack(np.unravel_index(cells, self.shape), axis=1).astype(np.float32)
        return np.asarray((place - np.float32(1)) * self.cell + self.low, np.float32)

    def sums(self, at: NDArray[np.intp], values: Floats) -> Floats:
        """Add up (N,) values in each cell, of points that are multiples of `every`."""
        total = np.bincount(self.index[at // self.every], weights=values, minlength=int(np.prod(self.shape)))
        return total.astype(np.float32).reshape(self.shape)

    def lookup(self, grids: Sequence[Floats], at: NDArray[np.intp]) -> Floats:
        """(N, C) values of C grids at points, between the cells' middles."""
        return self.interpolate(grids, self.points.take(at, axis=0))

    def interpolate(self, grids: Sequence[Floats], points: Floats) -> Floats:
        """(N, C) values of C grids at any (N, 3) points."""
        place = self._place(points)
        found = [ndimage.map_coordinates(grid, place, order=1, mode="nearest") for grid in grids]
        return np.stack(found, axis=1).astype(np.float32)


def _choose(cells: _Cells, photos: Sequence[Projection], usable: Sequence[Floats], real: int) -> Floats:
    """(n, P) the share of each photo: the best one around each point, mixed with the next one at the seams.

    All but the first `real` photos are inferred.
    """
    count = len(cells.points)
    finest = max(float(photo.resolution.max(initial=0)) for photo in photos) or 1.0
    few = [_some(photo.at, cells.every) for photo in photos]
    plain = _without_highlights(photos, usable, few, real, count)
    steady = _steady(photos, usable, few, real, count)
    angles, around = [], []
    for n, (photo, some) in enumerate(zip(photos, few, strict=True)):
        at, size = photo.at[some], photo.resolution[some] / np.float32(finest)
        angle = plain[n] * steady[n] * photo.clear[some] * photo.cosine[some] ** 2
        around.append(ndimage.gaussian_filter(cells.sums(at, angle * size), AGREE, truncate=2.0))
        angles.append(cells.sums(at, angle))
    _give_whole(cells, photos, few, angles, around, real)
    best, best_score = np.full(count, -1, np.int8), np.zeros(count, np.float32)
    for n, (photo, some) in enumerate(zip(photos, few, strict=True)):
        at = photo.at[some]
        score = cells.lookup([around[n]], at)[:, 0] * usable[n][some]
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
    for n, (photo, use) in enumerate(zip(photos, usable, strict=True)):
        cell = cells.of_all[photo.at]
        share = use * there[n].ravel()[cell]
        mixed = np.flatnonzero((share > 0) & seam.ravel()[cell])
        at = photo.at[mixed]
        share[mixed] *= cells.lookup([near[n]], at)[:, 0]
        reliable[at] += share[mixed] * use[mixed]
        shares[n, photo.at] = share
    mixed = np.flatnonzero(reliable)
    shares[:, mixed] *= reliable[mixed] / shares[:, mixed].sum(axis=0) ** 2
    return shares


def _give_whole(
    cells: _Cells,
    photos: Sequence[Projection],
    few: Sequence[NDArray[np.intp]],
    angles: Sequence[Floats],
    around: Sequence[Floats],
    real: int,
) -> None:
    """Change scores so that print on which two photos do not agree comes from one of them.

    Where the mesh is a little wrong, a seam through a print would show parts of it twice, or not at all. So each connected place
    goes to the photo that saw it better, or whose end there cuts through less of what the other one shows.

    Args:
        cells: of the seams.
        photos: of the mesh.
        few: the photos' few points.
        angles: (X, Y, Z) how well each photo saw its points, however large it is.
        around: (X, Y, Z) scores of each photo, changed in place.
        real: how many of the photos are not inferred.
    """
    seen, colors = [], []
    for photo, some in zip(photos, few, strict=True):
        at, weight = photo.at[some], photo.clear[some] * rise(photo.cosine[some], *FACING_OF_SEVERAL)
        total = cells.sums(at, weight)
        shown = photo.color.take(some, axis=0) * weight[:, None]
        colors.append([cells.sums(at, of) / np.maximum(total, 1e-6) for of in shown.T])
        seen.append(total > SEEN)

    def apart(i: int, j: int) -> Floats:
        """(X, Y, Z) the difference between two photos' colours, 0 where they agree or one of them sees nothing."""
        off = np.maximum.reduce([np.abs(a - b) for a, b in zip(colors[i], colors[j], strict=True)])
        return np.where(seen[i] & seen[j] & (off > UNLIKE), off, np.float32(0))

    before = [grid.ravel().copy() for grid in around]
    lost: dict[tuple[int, int], NDArray[np.intp]] = {}  # cells that the first one lost to the second one
    for pair in combinations(range(real), 2):
        off = apart(*pair)
        places, count = ndimage.label(_with_neighbours(off > 0), EVERY_WAY)
        if not count:
            continue
        inside = np.flatnonzero(places)
        place, off = places.ravel()[inside], off.ravel()[inside]
        merits = []
        for n, other in (pair, pair[::-1]):
            # Where it ends and the other one goes on, a seam would show.
            end = _with_neighbours(seen[other] & ~seen[n]).ravel()[inside]
            cut = np.bincount(place, off * end, count + 1)
            merits.append(
                np.bincount(place, angles[n].ravel()[inside] * (off > 0), count + 1) / (1 + cut / CUT)
            )
        first_won = (merits[0] >= merits[1])[place]
        lost[pair], lost[pair[1], pair[0]] = inside[~first_won], inside[first_won]
    # An inferred picture is the mirror image of another one: it gets and loses what that one does on its side. Where that one
    # agrees, what was left out of its mirror image is missing.
    for n in range(real, len(photos)):
        toward = photos[n].shot.camera.rotation[2]
        like = min(range(real), key=lambda k: float(photos[k].shot.camera.rotation[2] @ toward))
        place = np.arange(np.prod(cells.shape)).reshape(cells.shape)
        mirrored = np.flip(place, int(np.abs(toward).argmax())).ravel()
        nothing = np.zeros(0, np.intp)
        for k in set(range(real)) - {like}:
            won, gone = (mirrored[lost.get(pair, nothing)] for pair in ((k, like), (like, k)))
            missing = np.setdiff1d(np.flatnonzero(_with_neighbours(apart(k, n) > 0)), won)
            lost[k, n], lost[n, k] = won, np.union1d(gone, missing)
    for (n, other), at in lost.items():
        fair = at[before[other][at] > FAIR * before[n][at]]
        around[n].ravel()[fair] = LOSER * before[n][fair]


def _with_neighbours(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(X, Y, Z) true in and beside true cells, diagonally too."""
    for axis in range(3):
        old = np.moveaxis(cells, axis, 0)
        cells = old.copy()
        cells[1:] |= old[:-1]
        cells[:-1] |= old[1:]
        cells = np.moveaxis(cells, 0, axis)
    return np.ascontiguousarray(cells)


def _some(at: NDArray[np.intp], every: int) -> NDArray[np.intp]:
    """Return the places in (N,) points of those from which surroundings are found."""
    return np.flatnonzero(at % every == 0)


def _without_highlights(
    photos: Sequence[Projection],
    usable: Sequence[Floats],
    few: Sequence[NDArray[np.intp]],
    real: int,
    count: int,
) -> list[Floats]:
    """(M,) for the few points of each photo: less than 1 where it is white and a real one that saw the same is not."""
    dullest = np.ones(count, np.float32)
    bright = [np.minimum.reduce([*photo.color[some].T]) for photo, some in zip(photos, few, strict=True)]
    for n in range(real):
        sure = usable[n][few[n]] > 0.5
        at = photos[n].at[few[n][sure]]
        dullest[at] = np.minimum(dullest[at], bright[n][sure])
    return [
        1 - HIGHLIGHT * rise(light - dullest[photo.at[some]], 0.1, 0.3) * rise(light, 0.6, 0.8)
        for photo, some, light in zip(photos, few, bright, strict=True)
    ]


def _steady(
    photos: Sequence[Projection],
    usable: Sequence[Floats],
    few: Sequence[NDArray[np.intp]],
    real: int,
    count: int,
) -> list[Floats]:
    """(M,) for the few points of each photo: how sure their colours are.

    An inferred picture, whose print may have been left out, is not surer than a real one that saw the same.
    """
    steady = [photo.steady(some) for photo, some in zip(photos, few, strict=True)]
    least = np.ones(count, np.float32)
    for n in range(real):
        sure = usable[n][few[n]] > 0.5
        at = photos[n].at[few[n][sure]]
        least[at] = np.minimum(least[at], steady[n][sure])
    for n in range(real, len(photos)):
        steady[n] = np.minimum(steady[n], least[photos[n].at[few[n]]])
    return steady


def _levelled(
    cells: _Cells,
    fine: _Cells,
    photos: Sequence[Projection],
    usable: Sequence[Floats],
    real: int,
    shares: Floats,
) -> list[_Layer]:
    """Even out the light of photos towards their seams, where one may be in the shade of what the other shows lit.

    Only what is broad is moved, print is not: each photo goes half the way at the seam, and less the farther from it.
    An inferred one goes all the way to a real one. All points of one of the `fine` cells are moved alike.
    """
    count = shares.shape[1]
    every = np.arange(0, count, cells.every)
    shown = [_broad(cells.sums(every, share[every])) for share in shares]
    total = np.maximum(np.sum(shown, axis=0), 1e-6)
    least = BARELY * _broad(cells.sums(every, np.ones(len(every), np.float32))) + 1e-6
    offsets = np.zeros((len(photos), 3, *cells.shape), np.float32)
    place = np.full(count, -1)
    few = [_some(photo.at, cells.every) for photo in photos]
    for i, first in enumerate(photos):
        place[every] = -1
        place[first.at[few[i]]] = few[i]
        for j in range(i + 1, len(photos)):
            second = photos[j]
            there = few[j][place[second.at[few[j]]] >= 0]
            at = second.at[there]
            here = place[at]
            off = second.color[there] - first.color[here]
            # What differs by more than light does is something else.
            weight = (
                usable[i][here] * usable[j][there] / (1 + (off**2).max(axis=1) / np.float32(MOST_LIGHT**2))
            )
            off *= weight[:, None]
            both = _broad(cells.sums(at, weight)) + least
            way, back = shown[j] / total, shown[i] / total
            if i < real <= j:
                way, back = np.zeros_like(way), np.minimum(2 * back, 1)
            for channel in range(3):
                apart = _broad(cells.sums(at, off[:, channel])) / both
                np.clip(apart, -MOST_LIGHT, MOST_LIGHT, out=apart)
                offsets[i, channel] += way * apart
                offsets[j, channel] -= back * apart
    taken = np.zeros(int(np.prod(fine.shape)), bool)
    taken[fine.of_all] = True
    middles = fine.middles(np.flatnonzero(taken))
    by = np.zeros((len(taken), 3), np.float32)
    levelled = []
    for photo, share, offset in zip(photos, shares, offsets, strict=True):
        by[taken] = cells.interpolate([*offset], middles)
        layer = _laid(photo, share)
        layer.color[:] += by.take(fine.of_all[layer.at], axis=0)
        levelled.append(layer)
    return levelled


def _laid(photo: Projection, share: Floats) -> _Layer:
    some = np.flatnonzero(share[photo.at] > 0)
    return _Layer(photo.at[some], photo.color.take(some, axis=0))


def _broad(grid: Floats) -> Floats:
    return np.asarray(ndimage.gaussian_filter(grid, 1, truncate=3.0), np.float32)


def _harmonized(laid: Layers, color: Color) -> Color:
    """Return the engine's colours, moved by what the photos around each point differ from them."""
    # Even on every level of `_spread`.
    cells = _Cells(laid.points, CELLS // 2, FEW_OF_ENGINE, multiple=16)
    every = cells.every
    total = laid.shares[:, ::every].sum(axis=0)
    shown = np.flatnonzero(total)
    engine = color(laid.points[shown * every])
    known = _known(engine)
    shown, engine, total = shown[known], engine[known], total[shown[known], None]
    place = np.full(len(laid.points), -1)
    place[shown * every] = np.arange(len(shown))
    off = np.zeros_like(engine)
    for share, layer in zip(laid.shares, laid.each, strict=True):
        some = _some(layer.at, every)
        some = some[place[layer.at[some]] >= 0]
        here = place[layer.at[some]]
        off[here] += share[layer.at[some], None] * (
            layer.color.take(some, axis=0) - engine.take(here, axis=0)
        )
    # The mean of what differs by much would be no difference in light either: it moves less, and counts in full.
    like = total / (1 + ((off**2).sum(axis=1, keepdims=True) / np.float32(APART**2)) ** 2)
    weight = cells.sums(shown * every, every * np.maximum(like, LEAST_LIKE * total)[:, 0])
    off *= every * like / total
    sums = np.stack([cells.sums(shown * every, off[:, i]) for i in range(3)], axis=-1)
    # Print that the engine has a little beside is no difference in light.
    sums, weight = np.stack([_broad(sums[..., i]) for i in range(3)], axis=-1), _broad(weight)
    # A cell's own difference counts fully from a few points on.
    offset = [*np.moveaxis(_spread(sums, weight), -1, 0)]

    def moved(points: Floats) -> Floats:
        return np.asarray(np.clip(color(points) + cells.interpolate(offset, points), 0, 1))

    return moved


def _known(colors: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(colors[:, 0] + colors[:, 1] + colors[:, 2]))


def _spread(sums: Floats, weight: Floats, most: float = MOST_OFFSET) -> Floats:
    """(X, Y, Z, 3) weighted means: of each cell where it has a weight, else of ever larger surroundings.

    Args:
        sums: (X, Y, Z, 3) weighted sums of values.
        weight: (X, Y, Z)
        most: the largest value; half of it for surroundings twice as large, down to `FAR_OFFSET`.
    """
    mean = np.clip(sums / np.maximum(weight, 1e-9)[..., None], -most, most)
    if any(side % 2 for side in weight.shape) or min(weight.shape) < 4:
        total = sums.sum(axis=(0, 1, 2)) / max(float(weight.sum()), 1e-9)
        around = np.broadcast_to(np.clip(total, -FAR_OFFSET, FAR_OFFSET), sums.shape)
    else:
        x, y, z = (side // 2 for side in weight.shape)
        around = _spread(
            sums.reshape(x, 2, y, 2, z, 2, 3).sum(axis=(1, 3, 5)),
            weight.reshape(x, 2, y, 2, z, 2).sum(axis=(1, 3, 5)),
            max(most / 2, FAR_OFFSET),
        )
        for axis in range(3):
            around = doubled(around, axis)
    own = np.minimum(weight, 1)[..., None]
    return np.asarray(own * mean + (1 - own) * around, np.float32)
