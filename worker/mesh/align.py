"""Move a photo's camera until the mesh's outline is the photo's."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.mesh.camera import Camera
from worker.mesh.project import Floats, Photo, View, depth_buffer

Moves = NDArray[np.float64]

LEAST_OVERLAP = 0.75  # intersection over union of the two outlines; below it the photo shows something else

ROUNDS = 2  # at most, of finding the outline and moving the camera
STEPS = 2  # at most, of moving it to one outline
STILL = 0.03  # of `EXPECTED`: a camera that moves by less has arrived
# What a camera may be off by: to the right, up and in the size of what it sees, parts of its picture; around and over
# the product, degrees; and in its perspective, `side` / `distance`. It moves less the less the photo tells, and never by more than three times as much.
EXPECTED = np.array([0.03, 0.03, 0.03, 2.5, 2.5, 0.25])
OUTLINE = 500  # points that tell where a camera stood; more tell it no better
PIXEL = 1.5  # pixels of the photo: outlines that are farther apart count less
EVIDENCE = 200.0  # how much an outline or print that is off by `PIXEL` or `SHADE` weighs against `EXPECTED`


class Fit(NamedTuple):
    """A camera, and how well its view of the mesh covers the photo."""

    camera: Camera
    overlap: float  # intersection over union of the outlines, 0..1
    buffer: Floats  # (S / 2, S / 2) of `depth_buffer`


def fit(vertices: Floats, faces: NDArray[np.int32], view: View, camera: Camera) -> Fit:
    """Move the camera sideways, up and down, and widen its picture, until the mesh's box is the box of the photo.

    A network's mesh is a little larger or smaller than the photo, or beside it. Only that is corrected, and only if the
    outlines agree better afterwards.

    Args:
        vertices: (V, 3)
        faces: (F, 3)
        view: (S, S, 4) of the photo.
        camera: that sees the mesh about as the photo shows it.

    Returns:
        The better of the given and the moved camera, and its overlap, measured at half of the photo's size.
    """
    size = len(view) // 2
    solid = view[..., 3] > 127
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not rows.size or not len(faces):
        return Fit(camera, 0.0, np.full((size, size), -np.inf, np.float32))
    wanted = solid[::2, ::2][:size, :size]

    def seen_by(camera: Camera) -> Fit:
        buffer = depth_buffer(vertices, faces, camera, size)
        seen = buffer > -np.inf
        return Fit(camera, float((seen & wanted).sum() / max(1, (seen | wanted).sum())), buffer)

    used = np.zeros(len(vertices), bool)
    used[faces] = True
    flat, _ = camera.project(vertices[used])
    box = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]) / len(view)
    given, moved = seen_by(camera), _onto(flat, box, camera)
    if np.abs(flat.min(axis=0) - box[0]).max() < 1 / len(view) > np.abs(flat.max(axis=0) - box[1]).max():
        return given
    return max(given, seen_by(moved), key=lambda fit: fit.overlap)


def _onto(flat: Floats, box: NDArray[np.float64], camera: Camera) -> Camera:
    """Move the camera so that the points' box has the middle of `box`, scaled by the geometric mean of the sides' ratios."""
    low, high = flat.min(axis=0), flat.max(axis=0)
    ratio = float(np.sqrt(np.prod((box[1] - box[0]) / np.maximum(high - low, 1e-6))))
    side = camera.side / ratio
    right, down = ((box[0] + box[1]) / 2 - 0.5) * side - ((low + high) / 2 - 0.5) * camera.side
    x, y, z = (camera.center + np.array([-right, down, 0]) @ camera.rotation).tolist()
    return replace(camera, center=(x, y, z), side=side)


def refine(vertices: Floats, faces: NDArray[np.int32], photo: Photo, start: Fit) -> Fit:
    """Move, widen and turn the camera a little, until the mesh's outline lies on the photo's all along.

    Args:
        vertices: (V, 3)
        faces: (F, 3) of a closed mesh.
        photo: S is even.
        start: of `fit`.

    Returns:
        The better of the given and the moved camera.
    """
    solid = photo.view[..., 3] > 127
    wanted = (solid[::2] + solid[1::2].astype(np.float32)) / 4
    wanted = wanted[:, ::2] + wanted[:, 1::2]

    def overlap(buffer: Floats) -> float:
        seen = buffer > -np.inf
        return float(np.minimum(seen, wanted).sum() / max(1.0, np.maximum(seen, wanted).sum()))

    found, move = [start._replace(overlap=overlap(start.buffer))], np.zeros(len(EXPECTED))
    for _ in range(ROUNDS):
        outline = outline_of(found[-1].buffer, found[-1].camera)
        if not len(outline):
            break
        before = move
        move = arrive(start.camera, move, [partial(outline_off, photo, outline)], STEPS)
        if has_arrived(before, move):
            break
        camera = moved(start.camera, move)
        buffer = depth_buffer(vertices, faces, camera, len(wanted))
        found.append(Fit(camera, overlap(buffer), buffer))
    return max(found, key=lambda fit: fit.overlap)


def outline_off(photo: Photo, outline: Floats, camera: Camera) -> NDArray[np.float64]:
    """(N,) how far points of `outline_of` lie inside of where the photo's outline has them, in units of `PIXEL`."""
    flat, _ = camera.project(outline)
    at = np.stack([flat[:, 1], flat[:, 0]]) * len(photo.view) - 0.5
    inside = ndimage.map_coordinates(photo.signed, at, order=1, mode="nearest")
    # The outermost pixels of a picture of half of the photo's size have their middles a pixel of the photo inside.
    return np.asarray((inside - 1) / PIXEL, np.float64)


def arrive(
    start: Camera,
    move: Moves,
    terms: Sequence[Callable[[Camera], Moves]],
    steps: int,
    expected: Moves = EXPECTED,
) -> Moves:
    """Take steps as `improve` does, `steps` at most, until they move the camera by next to nothing."""
    for _ in range(steps):
        before, move = move, improve(start, move, terms, expected)
        if has_arrived(before, move):
            break
    return move


def improve(
    start: Camera, move: Moves, terms: Sequence[Callable[[Camera], Moves]], expected: Moves = EXPECTED
) -> Moves:
    """One step of Gauss and Newton towards small residuals; `expected` keeps unknown directions still.

    Args:
        start: before any move.
        move: (6,) so far.
        terms: each gives (N,) residuals for a camera; 1 is a large one.
        expected: how far the camera may be off, as `EXPECTED`.

    Returns:
        (6,) the move from the start.
    """
    here = moved(start, move)
    normal, pull = np.diag(expected**-2.0), -move / expected**2
    for term in terms:
        residual = term(here)
        slopes = np.stack(
            [(term(moved(start, move + step)) - residual) / step.sum() for step in np.diag(expected / 20)],
            axis=1,
        )
        # What is far off is something else: it counts no more than what is off by one (Huber).
        weight = EVIDENCE / len(residual) / np.maximum(np.abs(residual), 1)
        normal += (slopes * weight[:, None]).T @ slopes
        pull -= slopes.T @ (weight * residual)
    return np.clip(move + np.linalg.solve(normal, pull), -3 * expected, 3 * expected)


def has_arrived(before: Moves, move: Moves) -> bool:
    """Return true if a step moved a camera by next to nothing."""
    return bool((np.abs(move - before) < STILL * EXPECTED).all())


def moved(camera: Camera, move: Moves) -> Camera:
    """Move a camera to the right and up, widen its picture, and turn it around the product, in the units of `EXPECTED`."""
    x, y, z = (camera.center + np.array([move[0], move[1], 0]) * camera.side @ camera.rotation).tolist()
    side = camera.side * float(np.exp(move[2]))
    perspective = camera.side / camera.distance + float(move[5])
    return replace(
        camera,
        center=(x, y, z),
        side=side,
        distance=side / perspective if perspective > 0 else np.inf,
        azimuth=camera.azimuth + float(move[3]),
        elevation=camera.elevation + float(move[4]),
    )


def outline_of(buffer: Floats, camera: Camera) -> Floats:
    """(N, 3) points of the mesh along its outline and the outlines of its holes, as a depth buffer shows them.

    No more than twice `OUTLINE`, spread over all of them.
    """
    seen = buffer > -np.inf
    row, column = np.nonzero(seen & ~ndimage.binary_erosion(seen))
    every = max(len(row) // OUTLINE, 1)
    row, column = row[::every], column[::every]
    near = buffer[row, column].astype(np.float64)
    size = 1 + near / camera.distance
    flat = (np.stack([column, row], axis=1) + 0.5) / len(buffer) - 0.5
    across = flat * (camera.side, -camera.side) / size[:, None]
    away = np.concatenate([across, (near / size)[:, None]], axis=1)
    return np.asarray(away @ camera.rotation + camera.center, np.float32)
