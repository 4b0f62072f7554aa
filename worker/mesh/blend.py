"""Lay photos over the engine's colours of the mesh."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.mesh.cells import Cells, broad
from worker.mesh.choose import choose, usable
from worker.mesh.doubled import doubled
from worker.mesh.level import level
from worker.mesh.project import Floats, Projection, rise
from worker.mesh.texture import Color

FACING = (
    0.15,
    0.55,
)  # one photo's share rises from 0 at the first cosine to 1 at the second; the rest is the engine's colour
CELLS = 80  # of the grid in which seams are placed and softened, along the longest side of the mesh
ENOUGH = 0.995  # of a colour, from which on what the photos leave of it is no matter
FEW_OF_ENGINE = 20_000  # points, from which the difference between photos and engine is found
APART = 0.15  # difference between photo and engine, beyond which they show different things and hardly count; 1 is black to white
LEAST_LIKE = 0.3  # how much it counts, at least, in the mean: so that what is apart everywhere moves nothing
MOST_OFFSET = 0.2  # the most by which photos move the engine's colours: more would make colours that neither of them has
FAR_OFFSET = 0.1  # the most by which photos move the engine's colours far from what they show


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
        cells, uses = Cells(points, CELLS), [usable(photo) for photo in photos]
        shares = choose(cells, photos, uses, count)
    layers = [_laid(photo, share) for photo, share in zip(photos, shares, strict=True)]
    if len(photos) > 1:
        for layer, by in zip(layers, level(cells, photos, uses, count, shares), strict=True):
            layer.color[:] += by.take(cells.of_all[layer.at], axis=0)
    return Layers(points, layers, shares, count, seen)


class _Layer(NamedTuple):
    """What a photo gives to the N points in whose colours it has a share."""

    at: NDArray[np.intp]  # (N,) ascending
    color: Floats  # (N, 3) sRGB in 0..1


def _laid(photo: Projection, share: Floats) -> _Layer:
    """Return what the photo gives where it has a share."""
    some = np.flatnonzero(share[photo.at] > 0)
    return _Layer(photo.at[some], photo.colors(some))


def _harmonized(laid: Layers, color: Color) -> Color:
    """Return the engine's colours, moved by what the photos around each point differ from them."""
    # Even on every level of `_spread`.
    cells = Cells(laid.points, CELLS // 2, FEW_OF_ENGINE, multiple=16)
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
        some = cells.few(layer.at)
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
    sums, weight = np.stack([broad(sums[..., i]) for i in range(3)], axis=-1), broad(weight)
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
