"""Give every vertex a texture coordinate."""

from typing import NamedTuple

import numpy as np
import xatlas
from numpy.typing import NDArray

from worker.mesh.clean import parts
from worker.mesh.pack import pack

PIECE = 500  # faces; the time of xatlas grows faster than linearly with the size of a piece
GAP = 128  # the gap between islands is the texture's side divided by this: they stay apart down to an eighth of the size


class Unwrapped(NamedTuple):
    """A mesh cut along the seams of its texture: a vertex on a seam stands once for each side."""

    source: NDArray[np.int32]  # (N,) the vertex that each new vertex repeats
    faces: NDArray[np.int32]  # (F, 3) into the new vertices
    uv: NDArray[np.float32]  # (N, 2) in 0..1, v downwards as in an image


def unwrap(vertices: NDArray[np.float32], faces: NDArray[np.int32], resolution: int) -> Unwrapped:
    """Cut the surface into islands and pack them into one square texture.

    xatlas finds the islands, piece by piece: 30,000 faces take 3 s, and 19 s as one piece, for as many islands. Our own
    `pack` places them, because the packer of xatlas makes an atlas of another size, with gaps of another width.

    Args:
        vertices: (V, 3)
        faces: (F, 3)
        resolution: texels a side of the texture.

    Raises: ValueError if the islands are too many for the texture.
    """
    atlas = xatlas.Atlas()
    used_by = []
    for piece in _pieces(vertices, faces):
        used, local = np.unique(piece, return_inverse=True)
        used_by.append(used)
        atlas.add_mesh(vertices[used], local.reshape(-1, 3).astype(np.uint32))
    atlas.generate(xatlas.ChartOptions(), xatlas.PackOptions())

    found = [atlas.get_mesh(index) for index in range(len(used_by))]
    starts = np.cumsum([0] + [len(part[0]) for part in found[:-1]])
    source = np.concatenate([used[part[0]] for used, part in zip(used_by, found, strict=True)])
    corners = np.concatenate([part[1] + start for part, start in zip(found, starts, strict=True)])
    flat = np.concatenate([part[2] for part in found]).astype(np.float64) * (atlas.width, atlas.height)
    # xatlas leaves triangles of no area in the corner.
    left_out = (flat[corners] == 0).all(axis=(1, 2))
    drawn, slivers = corners[~left_out], corners[left_out]
    uv = _place(flat, drawn, resolution)
    # In the corner they would have the colour of something else; a point of their surroundings has the right one.
    beside = np.zeros(len(vertices), np.intp)
    beside[source[drawn]] = drawn
    _, part = parts(flat.astype(np.float32), slivers.astype(np.int32))
    of_part = np.zeros(len(flat), np.intp)
    of_part[part[slivers]] = beside[source[slivers]]
    uv[slivers] = uv[of_part[part[slivers]]]
    return Unwrapped(source.astype(np.int32), corners.astype(np.int32), uv.astype(np.float32))


def _place(flat: NDArray[np.float64], faces: NDArray[np.integer], resolution: int) -> NDArray[np.float64]:
    """Place the islands side by side, at one scale: (N, 2) in the units of each island → (N, 2) in the unit square."""
    count, island = parts(flat.astype(np.float32), faces.astype(np.int32))
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, island, flat)
    np.maximum.at(high, island, flat)
    sizes = high - low
    upright = sizes[:, 1] < sizes[:, 0]  # turned upright: boxes of one kind fill shelves best
    sizes[upright] = sizes[upright, ::-1]
    flat = flat - low[island]
    flat[upright[island]] = flat[upright[island], ::-1]
    # A vertex that no face uses is an island of no size and needs no room.
    used = np.zeros(count, bool)
    used[island[faces]] = True
    scale, places = pack(sizes[used], resolution, resolution // GAP)
    at = np.zeros((count, 2))
    at[used] = places
    return np.asarray(np.clip((flat * scale + at[island]) / resolution, 0, 1))


def _pieces(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Halve the faces, each half across its longest side, until no piece has more than `PIECE` faces."""
    if len(faces) <= PIECE:
        return [faces]
    centers = vertices[faces].mean(axis=1)
    along = centers[:, np.ptp(centers, axis=0).argmax()]
    order = np.argsort(along, kind="stable")
    middle = len(order) // 2
    return [
        piece
        for half in (np.sort(order[:middle]), np.sort(order[middle:]))
        for piece in _pieces(vertices, faces[half])
    ]
