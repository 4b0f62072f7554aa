"""Paints a texture from a function that knows the colour of every point."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.mesh.rasterize import rasterize

Color = Callable[[NDArray[np.float32]], NDArray[np.float32]]

BATCH = 1 << 18  # points whose colour is asked for at once
ALIKE = 0.03  # colours that differ by less have nothing between them that is worth asking for; 1 is black to white
STRETCH = 4.0  # times the usual distance from texel to texel; a sliver that claims more is not believed
AROUND = [
    (0, 1),
    (0, -1),
    (1, 0),
    (-1, 0),
    (1, 1),
    (1, -1),
    (-1, 1),
    (-1, -1),
]  # a texel's neighbours, nearest first
SPREAD = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4]], np.float32)
SPREAD /= SPREAD.sum(axis=1, keepdims=True)  # points of a face, weights of its corners


class Texels(NamedTuple):
    """The texels that lie on the mesh, each once."""

    texel: NDArray[np.int64]  # (K,) row * size + column, ascending
    face: NDArray[np.int64]  # (K,)
    weight: NDArray[np.float32]  # (K, 3) of the face's corners, their sum 1

    def on(self, values: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
        """(V, C) at the vertices → (K, C) at the texels."""
        return np.asarray(np.einsum("ki,kij->kj", self.weight, values[faces[self.face]]), np.float32)


def texels(faces: NDArray[np.int32], uv: NDArray[np.float32], size: int) -> Texels:
    """Which texels of (size, size) have their centre, or else another point, on which face.

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
    # What lies between the centres would be painted in the colours of another island.
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
    """(K, 3) sRGB colours of the texels; NaN where `color` knows none.

    Every other row and column is asked for, a quarter of all, and what lies between is asked for only where its
    neighbours differ: a network's colours are smooth, and asking it is what baking takes its time for.

    Args:
        vertices: (V, 3) in the space of `color`.
        faces: (F, 3)
        uv: (V, 2) in 0..1, v downwards.
        on: the texels of this mesh.
        color: (N, 3) points → (N, 3) sRGB in 0..1.
        size: texels a side, even.
    """
    half = size // 2 + 1
    row, column = on.texel // size, on.texel % size
    points = on.on(vertices, faces)

    # The nodes of the coarse grid around every texel. Some lie beside the mesh: there its nearest face is prolonged.
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
    unsure = ~((high - low).max(axis=1) < ALIKE)  # so too where a neighbour is not a number
    total[unsure] = _ask(color, points[unsure])
    return total


def dilate(on: Texels, colors: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """(K, 3) sRGB → the (size, size, 3) texture; what no face covers, and what is NaN, repeats the nearest that is not.

    So every island is surrounded by its own colours half-way to the next one, for the filters of whoever draws it.
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
    """(F, 3) how far a step of one texel to the right, and down, goes on each face; 0 where a sliver cannot say."""
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
