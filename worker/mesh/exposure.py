"""Match the exposure and the white balance of photos of the same product.

Where two photos show the same points of the mesh, the factor between their colours is the one between their exposures. But these
points lie in a strip beside a seam. The mesh is a little wrong there, so that at a dark edge one photo shows the edge and the other
one what is beside it; and the light that falls on the strip may not be the same in both. So a point counts less the more its
surroundings vary, all points of a pair may err alike, and everything else that two photos show has a say if they show nearly the
same colours: with the right factor, these are the same ones.

No pair is believed alone. All factors of all photos are weighed together, so that what three pairs say around the product outvotes
the fourth one, and light that falls from one side of every photo cancels out. The factor 1 is likelier than any other one.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from worker.mesh.project import Floats, Shot, sample

LEAST_COSINE = 0.1  # points that a camera saw at a lower angle are not compared
SURE = 0.35  # clear · cosine: two photos are compared where both have more
LEAST_SHARED = 0.01  # of the points; photos that share fewer are compared at neighbouring points
NEIGHBOURS = 0.05  # the most between those, parts of the mesh's longest side
FEWEST = 5  # pairs of points; fewer tell nothing
MOST_GAIN = 1.35  # between the first photo's exposure and another one's
MOST_TINT = 1.15  # between their white balances, in a channel
DIFFERENT = (
    0.75  # of the pairs of points; if more need more than that, the photos show different things there
)
DARK = 0.05  # of a colour from 0 to 1: what is darker counts as this

# Of logarithms.
STEP = 0.01  # between the factors that are tried; factors that are nearer to 1 than half of it are 1
COUNTS = [int(np.log(most) / STEP) for most in (MOST_GAIN, MOST_TINT, MOST_TINT, MOST_TINT)]  # of steps
NOISE = 0.02  # the standard deviation between what two photos show of an even place
STRAY = 0.1  # of the pairs of points do not belong together
TOGETHER = 12  # pairs of points count as one, since neighbours err alike
LIT = 0.5  # how likely it is that the light on a seam is not the same in both photos
LIGHT = (
    0.06,
    0.02,
    0.02,
    0.02,
)  # the standard deviation of the error that all points then share: brightness, channels
USUAL = 0.5  # the standard deviation of factors that are not 1, parts of the most that is possible
SAME = 15  # how much likelier the factor 1 is than any other one
UNLIKE = 0.15  # part of two photos' colours that are not the same ones, from which on they tell nothing
PALETTE = 24  # at most, all colours of two photos say as much as so many independent pairs of points
RANGE = (-4.0, 2.0)  # of brightness and of channels


Odds = NDArray[np.float64]  # (2 R + 1,) logarithms of how likely the factors are that are -R … R steps from 1


class Observed(NamedTuple):
    """What a photo shows of the N points of a mesh that its camera saw, without what is finer than a few pixels."""

    at: NDArray[np.intp]  # (N,) which of the points, ascending
    color: Floats  # (N, 3) sRGB in 0..1
    contrast: Floats  # (N,) as of `Shot.contrast`
    quality: Floats  # (N,) 0..1


class _Said(NamedTuple):
    """What two photos say of the factor from the second one's colours to the first one's."""

    odds: Sequence[Odds]  # of the brightness and of the three channels; empty if they say nothing
    same: bool | None  # False if they show different things at the same points; None if nothing was compared


def observe(shot: Shot, points: Floats, normals: Floats) -> Observed:
    """Read a photo's colours at (P, 3) points of the mesh with (P, 3) normals."""
    seen = shot.project(points, normals, LEAST_COSINE)
    color = sample(shot.photo.blurred, seen.flat)
    return Observed(seen.at, color, shot.contrast(points[seen.at]), seen.clear * seen.cosine)


def match(photos: Sequence[Observed], points: Floats) -> dict[int, Floats | None]:
    """Return the (3,) factors that match the exposures of up to four photos to the first one's; None for one that shows something else.

    Args:
        photos: of the same points.
        points: (P, 3) of the mesh.
    """
    said = {(i, j): _compare(photos[i], photos[j], points) for i, j in combinations(range(len(photos)), 2)}

    def strange(n: int) -> bool:
        same = {pair.same for photos, pair in said.items() if n in photos}
        return False in same and True not in same

    others = {n for n in range(1, len(photos)) if strange(n)}
    pairs = {of: pair.odds for of, pair in said.items() if pair.odds and others.isdisjoint(of)}
    logs = np.stack(
        [
            _expected({of: odds[n] for of, odds in pairs.items()}, len(photos), count)
            for n, count in enumerate(COUNTS)
        ],
        axis=1,
    )
    off = np.stack([log[0] + _telling(photo) * log[1:] for log, photo in zip(logs, photos, strict=True)])
    off[np.abs(off).max(axis=1) < STEP / 2] = 0
    return {n: None if n in others else np.asarray(np.exp(log), np.float32) for n, log in enumerate(off)}


def _expected(pairs: Mapping[tuple[int, int], Odds], photos: int, count: int) -> NDArray[np.float64]:
    """(n,) logarithms of factors: the mean of all that are possible together, by how likely they are; 0 for the first photo."""
    steps = np.arange(-count, count + 1)
    prior = -((steps / (USUAL * count)) ** 2) / 2
    prior[count] += np.log(SAME)
    axes = np.ix_(np.zeros(1, np.intp), *[steps] * (photos - 1))
    odds = np.zeros(np.broadcast_shapes(*(axis.shape for axis in axes)))
    for axis in axes[1:]:
        odds += prior[axis + count]
    for (i, j), of_pair in pairs.items():
        odds += of_pair[axes[j] - axes[i] + len(of_pair) // 2]
    likely = np.exp(odds - odds.max())
    return np.array([float((likely * axis).sum()) for axis in axes]) * (STEP / float(likely.sum()))


def _telling(photo: Observed) -> Floats:
    """(3,) how much each channel tells of the light: of a yellow product, the blue one follows the others."""
    level = np.median(photo.color, axis=0) if len(photo.color) else np.ones(3, np.float32)
    return np.asarray(np.minimum(2 * level / max(float(level.max()), DARK), 1) ** 2, np.float32)


def _compare(one: Observed, other: Observed, points: Floats) -> _Said:
    """Ask two photos of the (P, 3) points."""
    ours, theirs = _logarithms(one.color), _logarithms(other.color)
    odds = _of_palettes(_palettes(one, ours), _palettes(other, theirs))
    here, there, apart = _pairs(one, other, points)
    if len(here) < FEWEST:
        return _Said(odds, None)
    off = ours[here] - theirs[there]
    needed = np.abs(off[:, :1] + _telling(one) * off[:, 1:]).max(axis=1)
    if (needed > np.log(MOST_GAIN)).mean() > DIFFERENT:
        # On both sides of an edge, print may differ.
        return _Said((), None if apart.any() else False)
    unsure = np.sqrt(NOISE**2 + one.contrast[here] ** 2 + other.contrast[there] ** 2 + apart**2)
    # Edges change the tint less than the brightness, and no more than pairs differ.
    low, high = np.quantile(off[:, 1:], (0.25, 0.75), axis=0)
    unsure_tint = np.minimum(unsure, NOISE + (high - low).max())
    for n, (which, light) in enumerate(zip(off.T, LIGHT, strict=True)):
        odds[n] += _of_points(which, unsure_tint if n else unsure, light, 2 * COUNTS[n])
    return _Said(odds, same=True)


def _pairs(
    one: Observed, other: Observed, points: Floats
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Find what to compare.

    These are the same points; or, of a box, whose sides are in one photo each, neighbours across its edges.

    Returns:
        (M,) places in one photo's points, (M,) in the other's, and (M,) distances between them, parts of the mesh's longest side.
    """
    ours, theirs = np.flatnonzero(one.quality > SURE), np.flatnonzero(other.quality > SURE)
    _, here, there = np.intersect1d(one.at[ours], other.at[theirs], assume_unique=True, return_indices=True)
    if len(here) > LEAST_SHARED * len(points) or not len(theirs):
        return ours[here], theirs[there], np.zeros(len(here))
    size = float(np.ptp(points, axis=0).max())
    apart, nearest = cKDTree(points[other.at[theirs]]).query(
        points[one.at[ours]], distance_upper_bound=NEIGHBOURS * size
    )
    near = np.flatnonzero(np.isfinite(apart))
    return ours[near], theirs[nearest[near]], apart[near] / size


def _logarithms(colors: Floats) -> Floats:
    """(N, 4) of the brightness of (N, 3) colours, and of each channel's part of it."""
    colors = np.maximum(colors, np.float32(DARK))
    bright = colors.mean(axis=1, keepdims=True)
    return np.asarray(np.log(np.concatenate([bright, colors / bright], axis=1)))


def _palettes(photo: Observed, logs: Floats) -> list[NDArray[np.float64]]:
    """Return how much of a photo has each brightness and channel; the square root of it, so that the product of two is their overlap."""
    weights = photo.quality * np.exp(logs[:, 0])  # what is dark shows little of the light
    found = []
    for values in logs.T:
        counts, _ = np.histogram(values, round((RANGE[1] - RANGE[0]) / STEP), RANGE, weights=weights)
        smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), 2)
        found.append(np.sqrt(smooth / max(smooth.sum(), 1e-9)))
    return found


def _of_palettes(ours: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]]) -> list[Odds]:
    """Return the odds of the factors by how well all colours of two photos then overlap."""
    overlaps = []
    for mine, other, count in zip(ours, theirs, COUNTS, strict=True):
        middle = len(mine) - 1
        overlaps.append(np.correlate(mine, other, "full")[middle - 2 * count : middle + 2 * count + 1])
    # What is missing at best could as well be a shift. Photos whose hues differ tell nothing of the brightness either.
    missing = max(1 - float(overlap.max()) for overlap in overlaps)
    say = np.clip(1 / max(missing, 1e-3) - 1 / UNLIKE, 0, PALETTE)
    return [say * np.log(np.maximum(overlap, 0.05)) for overlap in overlaps]


def _of_points(off: Floats, unsure: NDArray[np.float64], light: float, reach: int) -> Odds:
    """Return the odds of the factors by pairs of points.

    Args:
        off: (M,) logarithms of the factors at the pairs.
        unsure: (M,) standard deviations of their errors.
        light: the standard deviation of an error that all pairs may share.
        reach: steps.
    """
    steps = np.arange(-reach, reach + 1) * STEP
    wrong = (off[:, None] - steps) / unsure[:, None]
    fit = (1 - STRAY) * np.exp(-(wrong**2) / 2) / (unsure[:, None] * np.sqrt(2 * np.pi))
    odds = np.log(fit + STRAY / (reach * STEP)).sum(axis=0) / TOGETHER
    likely = np.exp(odds - odds.max())
    likely /= likely.sum()
    likely += LIT * (ndimage.gaussian_filter1d(likely, light / STEP, mode="nearest") - likely)
    return np.asarray(np.log(np.maximum(likely, 1e-30)))
