"""Match the exposure and the white balance of photos of the same product.

Where two photos show the same points of the mesh, the factor between their colours is the one between their exposures. But these
points lie in a strip beside a seam. The mesh is a little wrong there, so that at a dark edge one photo shows the edge and the other
one what is beside it; and the light that falls on the strip may not be the same in both. So a point counts less the more its
surroundings vary, all points may err alike, and everything else that the photos show has a say: with the right factor their colours
are the same ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from worker.mesh.project import Floats, Shot

LEAST_COSINE = 0.1  # points that a camera saw at a lower angle are not compared
SURE = 0.35  # clear · cosine: two photos are compared where both have more
LEAST_SHARED = 0.01  # of the points; photos that share fewer are compared at neighbouring points
NEIGHBOURS = 0.05  # the most between those, parts of the mesh's longest side
FEWEST = 5  # pairs of points; fewer tell nothing
MOST_GAIN = 1.35  # between the exposures of two photos
MOST_TINT = 1.15  # between the white balances of two photos, in a channel
DIFFERENT = 0.75  # of the pairs; if more need more than that, the photos show different things
DARK = 0.05  # of a colour from 0 to 1: what is darker counts as this

# Of logarithms.
STEP = 0.01  # between the factors that are tried
NOISE = 0.02  # the standard deviation between what two photos show of an even place
STRAY = 0.1  # of the pairs do not belong together
TOGETHER = 12  # pairs count as one, since neighbours err alike
LIT = 0.5  # how likely it is that the light on a seam is not the same in both photos
LIGHT = 0.08  # the standard deviation of the error that all pairs then share, of the brightness
HUE = 0.02  # the same of a channel
USUAL = 0.5  # the standard deviation of factors that are not 1, parts of the most that is possible
SAME = 15  # how much likelier the factor 1 is than any other one
PALETTE = 12  # what all colours of the photos say counts as much as so many independent pairs
ALIKE = 0.8  # overlap of all colours, from which on they say something; 1 is complete
RANGE = (-4.0, 2.0)  # of brightness and of channels


Palette = NDArray[np.float64]  # (B,) one for each `STEP` of `RANGE`


class Observed(NamedTuple):
    """What a photo shows of the N points of a mesh that its camera saw, without what is finer than a few pixels."""

    at: NDArray[np.intp]  # (N,) which of the points, ascending
    color: Floats  # (N, 3) sRGB in 0..1
    contrast: Floats  # (N,) as of `Shot.contrast`
    quality: Floats  # (N,) 0..1


class Best:
    """What is known of P points, each from the photo that saw it best."""

    def __init__(self, count: int) -> None:
        self.color = np.zeros((count, 3), np.float32)
        self.contrast, self.quality = np.zeros((2, count), np.float32)

    def shared(self, photo: Observed) -> NDArray[np.bool_]:
        """(N,) which of the photo's points are seen well by it and by others."""
        return (photo.quality > SURE) & (self.quality[photo.at] > SURE)

    def add(self, photo: Observed, gain: Floats) -> None:
        better = photo.quality > self.quality[photo.at]
        at = photo.at[better]
        self.color[at] = np.minimum(photo.color[better] * gain, 1)
        self.contrast[at], self.quality[at] = photo.contrast[better], photo.quality[better]


def observe(shot: Shot, points: Floats, normals: Floats) -> Observed:
    """Read a photo's colours at (P, 3) points of the mesh with (P, 3) normals."""
    seen = shot.project(points, normals, LEAST_COSINE, blurred=True)
    return Observed(seen.at, seen.color, shot.contrast(points[seen.at]), seen.clear * seen.cosine)


def match(photos: Sequence[Observed], points: Floats) -> dict[int, Floats | None]:
    """Return the (3,) factors that match the photos' exposures; None for a photo that shows something else.

    Each photo is compared with those before it: first the first one, then always the one that shares most with them.

    Args:
        photos: of the same points.
        points: (P, 3) of the mesh.
    """
    best, gains = Best(len(points)), dict[int, Floats | None]()
    one = np.ones(3, np.float32)
    while left := [n for n in range(len(photos)) if n not in gains]:
        n = max(left, key=lambda n: (n == 0, int(best.shared(photos[n]).sum())))
        gain = _gain(photos[n], best, points) if gains else one
        gains[n] = gain
        best.add(photos[n], one if gain is None else gain)
    return gains


def _gain(own: Observed, others: Best, points: Floats) -> Floats | None:
    """(3,) the factor from our colours to the others'; None if it is no matter of exposure.

    A channel that is dark says little: of a yellow product, the blue one follows the others.
    """
    here, there, apart = _pairs(own, others, points)
    if len(here) < FEWEST:
        return np.ones(3, np.float32)
    ours, theirs = _logarithms(own.color), _logarithms(others.color)
    off = theirs[there] - ours[here]
    level = np.median(own.color[here], axis=0)
    telling = np.minimum(2 * level / max(float(level.max()), DARK), 1) ** 2
    needed = np.abs(off[:, :1] + telling * off[:, 1:]).max(axis=1)
    if (needed > np.log(MOST_GAIN)).mean() > DIFFERENT:
        return None
    unsure = np.sqrt(NOISE**2 + own.contrast[here] ** 2 + others.contrast[there] ** 2 + apart**2)
    # Edges change the tint less than the brightness, and no more than pairs differ.
    low, high = np.quantile(off[:, 1:], (0.25, 0.75), axis=0)
    unsure_tint = np.minimum(unsure, NOISE + (high - low).max())
    # What is dark shows little of the light.
    our_weights, their_weights = own.quality * np.exp(ours[:, 0]), others.quality * np.exp(theirs[:, 0])
    palettes = [
        (_palette(mine, our_weights), _palette(other, their_weights))
        for mine, other in zip(ours.T, theirs.T, strict=True)
    ]
    bright = _likely(off[:, 0], unsure, palettes[0], LIGHT, np.log(MOST_GAIN))
    tint = [_likely(off[:, 1 + i], unsure_tint, palettes[1 + i], HUE, np.log(MOST_TINT)) for i in range(3)]
    return np.asarray(np.exp(bright + telling * tint), np.float32)


def _pairs(
    own: Observed, others: Best, points: Floats
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Find what to compare.

    These are the same points; or, of a box, whose sides are in one photo each, neighbours across its edges.

    Returns:
        (M,) places in our points, (M,) others' points, and (M,) distances between them, parts of the mesh's longest side.
    """
    shared = np.flatnonzero(others.shared(own))
    ours, theirs = np.flatnonzero(own.quality > SURE), np.flatnonzero(others.quality > SURE)
    if len(shared) > LEAST_SHARED * len(points) or not len(theirs):
        return shared, own.at[shared], np.zeros(len(shared))
    size = float(np.ptp(points, axis=0).max())
    apart, nearest = cKDTree(points[theirs]).query(
        points[own.at[ours]], distance_upper_bound=NEIGHBOURS * size
    )
    near = np.flatnonzero(np.isfinite(apart))
    return ours[near], theirs[nearest[near]], apart[near] / size


def _logarithms(colors: Floats) -> Floats:
    """(N, 4) of the brightness of (N, 3) colours, and of each channel's part of it."""
    colors = np.maximum(colors, np.float32(DARK))
    bright = colors.mean(axis=1, keepdims=True)
    return np.asarray(np.log(np.concatenate([bright, colors / bright], axis=1)))


def _palette(values: Floats, weights: Floats) -> Palette:
    """Return how much of a photo has each value; the square root of it, so that the product of two is their overlap."""
    counts, _ = np.histogram(values, round((RANGE[1] - RANGE[0]) / STEP), RANGE, weights=weights)
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), 2)
    return np.asarray(np.sqrt(smooth / max(smooth.sum(), 1e-9)))


def _likely(
    off: Floats, unsure: NDArray[np.float64], palettes: tuple[Palette, Palette], light: float, most: float
) -> float:
    """Return the logarithm of a factor that is to be expected: the mean of all that are possible, by how likely they are.

    Args:
        off: (M,) logarithms of the factors at pairs of points.
        unsure: (M,) standard deviations of their errors.
        palettes: all that one photo shows, and all that the others show.
        light: the standard deviation of an error that all pairs may share.
        most: that is possible, in both directions.
    """
    count = int(most / STEP)
    steps = np.arange(-count, count + 1) * STEP
    wrong = (off[:, None] - steps) / unsure[:, None]
    fit = (1 - STRAY) * np.exp(-(wrong**2) / 2) / (unsure[:, None] * np.sqrt(2 * np.pi))
    odds = np.log(fit + STRAY / (2 * most)).sum(axis=0) / TOGETHER
    pairs = np.exp(odds - odds.max())
    pairs /= pairs.sum()
    pairs += LIT * (ndimage.gaussian_filter1d(pairs, light / STEP, mode="nearest") - pairs)
    ours, theirs = palettes
    middle = len(ours) - 1
    overlap = np.correlate(theirs, ours, "full")[middle - count : middle + count + 1]
    say = PALETTE * np.interp(overlap.max(), (ALIKE, 1), (0, 1))
    odds = np.log(np.maximum(pairs, 1e-30)) + say * np.log(np.maximum(overlap, 0.05))
    odds -= (steps / (USUAL * most)) ** 2 / 2
    likely = np.exp(odds - odds.max())
    likely[count] *= SAME
    return float((steps * likely).sum() / likely.sum())
