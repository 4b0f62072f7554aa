"""Make photos of the same product agree: where two show the same points of the mesh, they show the same colours there."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from worker.mesh.align import (
    EXPECTED,
    Moves,
    has_arrived,
    improve,
    moved,
    outline_of,
    outline_off,
    signed_distance,
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

    The first photo stays as it is. Each of the others is compared with those that are done, the one that shares most with
    them first. Its camera moves only as far as its outline lets it.

    Args:
        shots: with cameras whose outlines fit.
        vertices: (V, 3) of the mesh.
        faces: (F, 3)
        points: (P, 3) spread over the mesh, some thousands.
        normals: (P, 3)
    """
    done = list(shots)
    found = [shot.project(points, normals, LEAST_COSINE, blurred=True) for shot in shots]
    color, sure = np.zeros((len(points), 3), np.float32), np.zeros(len(points), np.float32)
    left = list(range(len(shots)))

    def shared(n: int) -> NDArray[np.bool_]:
        return (_quality(found[n]) > SURE) & (sure[found[n].at] > SURE)

    while left:
        n = max(left, key=lambda n: (n == 0, int(shared(n).sum())))
        left.remove(n)
        both = shared(n)
        if both.sum() > LEAST_SHARED * len(points):
            at = found[n].at[both]
            done[n] = _matched(shots[n], vertices, faces, points[at], color[at])
            if done[n] is not shots[n]:
                found[n] = done[n].project(points, normals, LEAST_COSINE, blurred=True)
        quality, at = _quality(found[n]), found[n].at
        better = quality > sure[at]
        color[at[better]], sure[at[better]] = found[n].color[better], quality[better]
    return done


def _quality(photo: Projection) -> Floats:
    return photo.clear * photo.cosine


def _matched(shot: Shot, vertices: Floats, faces: NDArray[np.int32], points: Floats, colors: Floats) -> Shot:
    """Match a shot to what others show at points that it sees too. A shot that shows something else stays as it is."""
    signed, outline = signed_distance(shot.photo.view[..., 3] > 127), outline_of(shot.buffer, shot.camera)
    gain = _gain(sample(shot.photo.blurred, shot.camera.project(points)[0]), colors)
    if gain is None:
        return shot
    image = shot.photo.brightened(gain).blurred

    def off(camera: Camera, of: NDArray[np.bool_] | slice = slice(None)) -> Moves:
        """(N, 3) differences of the colours, in units of `SHADE`."""
        flat, _ = camera.project(points[of])
        return np.asarray((sample(image, flat) - colors[of]) / np.float32(SHADE), np.float64)

    # What is plain says nothing of where the camera stood.
    here = off(shot.camera)
    nudged = [off(moved(shot.camera, step)) - here for step in np.diag(EXPECTED / 4)]
    telling = np.abs([here, *nudged]).max(axis=(0, 2)) > TELLING
    if telling.sum() > LEAST_TELLING:

        def print_off(camera: Camera) -> Moves:
            return off(camera, telling).ravel()

        terms: list[Callable[[Camera], Moves]] = [print_off, partial(outline_off, signed, outline)]
        move = np.zeros(len(EXPECTED))
        for _ in range(STEPS):
            before, move = move, improve(shot.camera, move, terms, EXPECTED * FREE)
            if has_arrived(before, move):
                break
        camera = moved(shot.camera, move)
        if np.abs(off(camera)).mean() < np.abs(here).mean():
            shot = shoot(shot.photo, camera, vertices, faces)
            gain = _gain(sample(shot.photo.blurred, camera.project(points)[0]), colors)
    return shot if gain is None else shot._replace(photo=shot.photo.brightened(gain))


def _gain(own: Floats, other: Floats) -> Floats | None:
    """(3,) the factor from our colours to the other's; None if it is no matter of exposure, or cannot be told.

    A channel that is dark in both says little: of a yellow product, the blue one follows the others.
    """
    fair = np.ones(len(own), bool)
    for colors in (own, other):
        fair &= (colors.max(axis=1) > DARK) & (colors.max(axis=1) < BRIGHT)
    if fair.sum() < len(own) / 4:
        return np.ones(3, np.float32)
    pairs = [np.maximum(colors[fair], np.float32(DARK)) for colors in (own, other)]
    brighter = np.median(np.log(pairs[1].mean(axis=1) / pairs[0].mean(axis=1)))
    level = np.median(pairs[0], axis=0)
    tint = np.median(np.log(pairs[1] / pairs[0]), axis=0) - brighter
    tint *= np.minimum(2 * level / level.max(), 1) ** 2
    if np.abs(brighter + tint).max() >= np.log(MOST_GAIN):
        return None
    gain = np.exp(brighter + np.clip(tint, -np.log(MOST_TINT), np.log(MOST_TINT)))
    return np.asarray(gain, np.float32)
