"""Make photos of the same product agree: where two show the same points of the mesh, they show the same colours there."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from worker.mesh.align import (
    EXPECTED,
    Moves,
    arrive,
    moved,
    outline_of,
    outline_off,
)
from worker.mesh.camera import Camera
from worker.mesh.project import Floats, Projection, Shot, sample, shoot

LEAST_COSINE = 0.1  # points that a camera saw at a lower angle are not compared
SURE = 0.35  # clear · cosine: two photos are compared where both have more
LEAST_SHARED = 0.01  # of the points; two photos that share less are not compared
MOST_GAIN = (
    1.35  # between the exposures of two photos; where a channel needs more, they show different colours
)
MOST_TINT = 1.15  # between the white balances of two photos, in a channel
DARK, BRIGHT = 0.05, 0.98  # of a colour's brightest channel; beyond them exposures cannot be compared
SHADE = 0.1  # of a colour from 0 to 1: colours that differ by more count less
TELLING = 0.2  # of `SHADE`: a point tells where the camera stood if a little move changes its colour by more
LEAST_TELLING = 30  # points
STEPS = 6  # of a camera, at most
# Of `EXPECTED`. Where the mesh is wrong, print agrees best from a place where the camera did not stand; and the outline tells the
# perspective better than print does.
FREE = np.array([1, 1, 1, 1, 1, 0.1])


def agree(
    shots: Sequence[Shot], vertices: Floats, faces: NDArray[np.int32], points: Floats, normals: Floats
) -> list[Shot]:
    """Match the exposure and the white balance of photos, and move their cameras a little until print does not ghost.

    The first photo stays as it is. A camera moves only as far as its outline lets it, and a photo that shows something else
    than the others stays as it is.

    Args:
        shots: with cameras whose outlines fit.
        vertices: (V, 3) of the mesh.
        faces: (F, 3)
        points: (P, 3) spread over the mesh, some thousands.
        normals: (P, 3)
    """
    done = list(shots)
    found = [shot.project(points, normals, LEAST_COSINE, blurred=True) for shot in shots]
    gains = _gains(found, len(points))
    for n, gain in list(gains.items())[1:]:
        if gain is None:
            continue
        # What all others show there: a camera that follows one neighbour would leave the other one.
        others = _Best(len(points))
        for i, other in gains.items():
            if i != n and other is not None:
                others.add(found[i], other)
        both = others.shared(found[n])
        if both.sum() > LEAST_SHARED * len(points):
            at = found[n].at[both]
            done[n] = _moved(shots[n], gain, vertices, faces, points[at], others.color[at])
            if done[n] is not shots[n]:
                found[n] = done[n].project(points, normals, LEAST_COSINE, blurred=True)
    for n, gain in _gains(found, len(points)).items():
        if gain is not None and (gain != 1).any():
            done[n] = done[n]._replace(photo=done[n].photo.brightened(gain))
    return done


class _Best:
    """The colours of P points, each from the photo that saw it best."""

    def __init__(self, count: int) -> None:
        self.color, self.sure = np.zeros((count, 3), np.float32), np.zeros(count, np.float32)

    def shared(self, photo: Projection) -> NDArray[np.bool_]:
        """(N,) which of the photo's points are seen well by it and by others."""
        return (_quality(photo) > SURE) & (self.sure[photo.at] > SURE)

    def add(self, photo: Projection, gain: Floats) -> None:
        quality = _quality(photo)
        better = quality > self.sure[photo.at]
        at = photo.at[better]
        self.color[at], self.sure[at] = np.minimum(photo.color[better] * gain, 1), quality[better]


def _quality(photo: Projection) -> Floats:
    return photo.clear * photo.cosine


def _gains(found: Sequence[Projection], count: int) -> dict[int, Floats | None]:
    """Return the (3,) factors that match the photos' exposures; None for a photo that shows something else.

    Each photo is compared with those before it: first the first one, then always the one that shares most with them.
    """
    best, gains = _Best(count), dict[int, Floats | None]()
    while left := [n for n in range(len(found)) if n not in gains]:
        n = max(left, key=lambda n: (n == 0, int(best.shared(found[n]).sum())))
        both = best.shared(found[n])
        gain: Floats | None = np.ones(3, np.float32)
        if both.sum() > LEAST_SHARED * count:
            gain = _gain(found[n].color[both], best.color[found[n].at[both]])
        gains[n] = gain
        best.add(found[n], np.ones(3, np.float32) if gain is None else gain)
    return gains


def _moved(
    shot: Shot, gain: Floats, vertices: Floats, faces: NDArray[np.int32], points: Floats, colors: Floats
) -> Shot:
    """Move a shot's camera until it shows what others show at points that it sees too, if that helps."""
    image = shot.photo.brightened(gain).blurred

    def off(camera: Camera, of: NDArray[np.bool_] | slice = slice(None)) -> Moves:
        """(N, 3) differences of the colours, in units of `SHADE`."""
        flat, _ = camera.project(points[of])
        return np.asarray((sample(image, flat) - colors[of]) / np.float32(SHADE), np.float64)

    # What is plain says nothing of where the camera stood.
    here = off(shot.camera)
    nudged = [off(moved(shot.camera, step)) - here for step in np.diag(EXPECTED / 4)]
    telling = np.abs([here, *nudged]).max(axis=(0, 2)) > TELLING
    if telling.sum() <= LEAST_TELLING:
        return shot

    def print_off(camera: Camera) -> Moves:
        return off(camera, telling).ravel()

    outline = outline_of(shot.buffer, shot.camera)
    terms: list[Callable[[Camera], Moves]] = [print_off, partial(outline_off, shot.photo, outline)]
    camera = moved(shot.camera, arrive(shot.camera, np.zeros(len(EXPECTED)), terms, STEPS, EXPECTED * FREE))
    if np.abs(off(camera)).mean() >= np.abs(here).mean():
        return shot
    return shoot(shot.photo, camera, vertices, faces)


def _gain(own: Floats, other: Floats) -> Floats | None:
    """(3,) the factor from our colours to the other's; None if it is no matter of exposure, or cannot be told.

    A channel that is dark in both says little: of a yellow product, the blue one follows the others.
    """
    brightest, others = own.max(axis=1), other.max(axis=1)
    # What is white in the other photo is at least as bright.
    fair = (brightest > DARK) & (others > DARK) & (brightest < BRIGHT)
    if fair.sum() < len(own) / 4:
        return np.ones(3, np.float32)
    pairs = [np.maximum(colors[fair], np.float32(DARK)) for colors in (own, other)]
    bright = np.log(pairs[1].mean(axis=1) / pairs[0].mean(axis=1))
    brighter, tint = _clear(bright), _clear(np.log(pairs[1] / pairs[0]) - bright[:, None])
    level = np.median(pairs[0], axis=0)
    tint *= np.minimum(2 * level / level.max(), 1) ** 2
    if np.abs(brighter + tint).max() >= np.log(MOST_GAIN):
        return None
    gain = np.exp(brighter + np.clip(tint, -np.log(MOST_TINT), np.log(MOST_TINT)))
    return np.asarray(gain, np.float32)


def _clear(off: Floats) -> Floats:
    """Return the median of (N, …) differences; less of it, or 0, where they differ more among each other."""
    low, middle, high = np.quantile(off, (0.25, 0.5, 0.75), axis=0)
    return np.asarray(
        middle * np.clip(2 * np.abs(middle) / np.maximum(high - low, 1e-6) - 1, 0, 1), np.float32
    )
