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
from worker.mesh.exposure import LEAST_SHARED, SURE, Observed, match, observe
from worker.mesh.project import Floats, Shot, sample, shoot

SHADE = 0.1  # of a colour from 0 to 1: colours that differ by more count less
TELLING = 0.2  # of `SHADE`: a point tells where the camera stood if a little move changes its colour by more
LEAST_TELLING = 30  # points
STEPS = 6  # of a camera, at most
# Of `EXPECTED`. Where the mesh is wrong, print agrees best from a place where the camera did not stand; and the outline tells the
# perspective better than print does.
FREE = np.array([1, 1, 1, 1, 1, 0.1])


class _Best:
    """What is known of P points, each from the photo that saw it best."""

    def __init__(self, count: int) -> None:
        self.color = np.zeros((count, 3), np.float32)
        self.quality = np.zeros(count, np.float32)

    def shared(self, photo: Observed) -> NDArray[np.bool_]:
        """(N,) which of the photo's points are seen well by it and by others."""
        return (photo.quality > SURE) & (self.quality[photo.at] > SURE)

    def add(self, photo: Observed, gain: Floats) -> None:
        better = photo.quality > self.quality[photo.at]
        at = photo.at[better]
        self.color[at] = np.minimum(photo.color[better] * gain, 1)
        self.quality[at] = photo.quality[better]


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
    found = [observe(shot, points, normals) for shot in shots]
    gains = match(found, points)
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
                found[n] = observe(done[n], points, normals)
    for n, gain in match(found, points).items():
        if gain is not None and (gain != 1).any():
            done[n] = done[n]._replace(photo=done[n].photo.brightened(gain))
    return done


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
