"""Paint a texture with a function that knows the colour of every point."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.mesh.rasterize import rasterize

Color = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(N, 3) points → (N, 3) sRGB in 0..1; NaN where the colour is unknown."""

BATCH = 1 << 18  # points in one call of `color`
ALIKE = 0.03  # between colours that differ by less the mean will do; 1 is the difference from black to white
STRETCH = 4.0  # times the median distance from texel to texel; a sliver with more is ignored
# A texel's neighbours, nearest first.
AROUND = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]
# Barycentric coordinates of some points of a face.
SPREAD = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4]], np.float32)
SPREAD /= SPREAD.sum(axis=1, keepdims=True)


class Texels(NamedTuple):
    """The K texels that lie on the mesh, each once."""

    texel: NDArray[np.int64]  # (K,) row * size + column, ascending
    face: NDArray[np.int64]  # (K,)
    weight: NDArray[np.float32]  # (K, 3) barycentric coordinates in the face; their sum is 1

    def on(self, values: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
        """Interpolate: (V, C) values at the vertices and (F, 3) faces → (K, C) values at the texels."""
        corners = values.take(faces, axis=0).reshape(len(faces), -1).take(self.face, axis=0)
        return np.asarray(
            np.einsum("ki,kij->kj", self.weight, corners.reshape(len(self.face), 3, -1)), np.float32
        )

    def only(self, some: NDArray[np.bool_]) -> "Texels":
        """Return those of the texels where (K,) is true."""
        return self if some.all() else Texels(self.texel[some], self.face[some], self.weight[some])


def texels(faces: NDArray[np.int32], uv: NDArray[np.float32], size: int) -> Texels:
    """Find the texels that have their centre, or else another point, on a face.

    Args:
        faces: (F, 3)
        uv: (V, 2) in 0..1, v downwards.
        size: texels a side.
    """
    face = np.full(size * size, -1, np.int64)
    weight = np.zeros((size * size, 3), np.float32)
    for batch in rasterize(uv[faces] * np.float32(size), size, size):
        face[batch.pixel] = batch.face
        weight[batch.pixel] = batch.weight
    # A face between the centres would get the colours of another island.
    between = np.ones(len(faces), bool)
    between[face[face >= 0]] = False
    small = np.flatnonzero(between)
    for share in SPREAD:
        column, row = (
            np.clip(np.einsum("k,fkj->fj", share, uv[faces[small]]) * size, 0, size - 1).astype(np.int64).T
        )
        pixel = row * size + column
        bare = face[pixel] < 0
        face[pixel[bare]] = small[bare]
        weight[pixel[bare]] = share
    covered = np.flatnonzero(face >= 0)
    return Texels(covered, face[covered], weight[covered])


def bake(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    uv: NDArray[np.float32],
    on: Texels,
    color: Color,
    size: int,
) -> NDArray[np.float32]:
    """Compute the colours of the texels.

    Calls `color` for every other row and column, a quarter of all texels, and for what lies between only where the
    neighbours differ: a network's colours are smooth, and nearly all the time of baking goes to the network.

    Args:
        vertices: (V, 3) in the space of `color`.
        faces: (F, 3)
        uv: (V, 2) in 0..1, v downwards.
        on: the texels of this mesh.
        color: of points in the mesh's space.
        size: texels a side, even.

    Returns:
        (K, 3) sRGB in 0..1; NaN where `color` knows none.
    """
    half = size // 2 + 1
    row, column = on.texel // size, on.texel % size
    points = on.on(vertices, faces)

    # The nodes of the coarse grid around every texel. Some lie beside the mesh: there the nearest face is extended.
    entry = np.full(size * size, -1, np.int64)
    entry[on.texel] = np.arange(len(on.texel))
    corners = [(row + down) // 2 * half + (column + right) // 2 for down in (0, 1) for right in (0, 1)]
    needed = np.zeros(half * half, bool)
    for corner in corners:
        needed[corner] = True
    nodes = np.flatnonzero(needed)
    node_row, node_column = nodes // half * 2, nodes % half * 2
    at = np.zeros((len(nodes), 3), np.float32)
    missing = np.ones(len(nodes), bool)
    across, down_ = _tangents(vertices, faces, uv, size)
    for step_row, step_column in [(0, 0), *AROUND]:
        beside_row, beside_column = node_row + step_row, node_column + step_column
        inside = (beside_row >= 0) & (beside_row < size) & (beside_column >= 0) & (beside_column < size)
        source = np.where(inside, entry[np.clip(beside_row * size + beside_column, 0, size * size - 1)], -1)
        use = missing & (source >= 0)
        source = source[use]
        face = on.face[source]
        at[use] = points[source] - step_column * across[face] - step_row * down_[face]
        missing[use] = False

    lattice = np.full((half * half, 3), np.nan, np.float32)
    lattice[nodes] = _ask(color, at)
    total = np.zeros((len(points), 3), np.float32)
    low, high = np.full_like(total, np.inf), np.full_like(total, -np.inf)
    for corner in corners:
        value = lattice[corner]
        total += value / 4
        np.minimum(low, value, out=low)
        np.maximum(high, value, out=high)
    unsure = ~((high - low).max(axis=1) < ALIKE)  # True also where a neighbour is NaN
    total[unsure] = _ask(color, points[unsure])
    return total


def dilate(on: Texels, colors: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Make the texture, and dilate the colours into the space between the islands.

    A texel that no face covers, or whose colour is NaN, repeats the nearest one that has a colour. So every island has
    its own colours around it half-way to the next one, for the texture filters of the viewer.

    Args:
        on: the texels of the mesh.
        colors: (K, 3) sRGB in 0..1.
        size: texels a side.

    Returns:
        (size, size, 3) sRGB; all grey where no colour is known.
    """
    known = np.isfinite(colors).all(axis=1)
    if not known.any():
        return np.full((size, size, 3), 128, np.uint8)
    texture = np.zeros((size * size, 3), np.uint8)
    texture[on.texel[known]] = np.clip(colors[known] * 255 + 0.5, 0, 255).astype(np.uint8)
    bare = np.ones(size * size, bool)
    bare[on.texel[known]] = False
    nearest = ndimage.distance_transform_edt(
        bare.reshape(size, size), return_distances=False, return_indices=True
    )
    return np.asarray(texture.reshape(size, size, 3)[tuple(nearest)])


def _ask(color: Color, points: NDArray[np.float32]) -> NDArray[np.float32]:
    parts = [color(points[start : start + BATCH]) for start in range(0, len(points), BATCH)]
    return np.concatenate(parts) if parts else np.zeros((0, 3), np.float32)


def _tangents(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], uv: NDArray[np.float32], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(F, 3) the way on each face for one texel to the right, and (F, 3) for one down; 0 for slivers."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    p, q, r = (uv[faces[:, i]].astype(np.float64) * size for i in range(3))
    (bx, by), (cx, cy) = (q - p).T, (r - p).T
    area = bx * cy - by * cx
    with np.errstate(divide="ignore", invalid="ignore"):
        across = ((b - a) * cy[:, None] - (c - a) * by[:, None]) / area[:, None]
        down = ((c - a) * bx[:, None] - (b - a) * cx[:, None]) / area[:, None]
        length = np.maximum(np.linalg.norm(across, axis=1), np.linalg.norm(down, axis=1))
    sound = np.isfinite(length)
    sound &= length < STRETCH * (np.median(length[sound]) if sound.any() else 0)
    return tuple(np.where(sound[:, None], step, 0).astype(np.float32) for step in (across, down))  # type: ignore[return-value]
