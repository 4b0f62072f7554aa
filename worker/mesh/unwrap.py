"""A texture coordinate for every vertex."""

from typing import NamedTuple

import numpy as np
import xatlas
from numpy.typing import NDArray

PIECE = 500  # faces; xatlas's time grows faster than linearly with the size of a piece
GAP = 128  # of the texture's side, texels between islands: each stays by itself down to an eighth of the size


class Unwrapped(NamedTuple):
    source: NDArray[np.int32]  # (N,) the vertex that each new vertex repeats
    faces: NDArray[np.int32]  # (F, 3) into the new vertices
    uv: NDArray[np.float32]  # (N, 2) in 0..1, v downwards as in an image


def unwrap(vertices: NDArray[np.float32], faces: NDArray[np.int32], resolution: int) -> Unwrapped:
    """Cuts the surface into islands and packs them into one square of about `resolution` texels a side.

    The mesh is given to xatlas in pieces: 30,000 faces take 3 s so, and 19 s as one, for as many islands.
    """
    atlas = xatlas.Atlas()
    used_by = []
    for piece in _pieces(vertices, faces):
        used, local = np.unique(piece, return_inverse=True)
        used_by.append(used)
        atlas.add_mesh(vertices[used], local.reshape(-1, 3).astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution = resolution
    options.padding = resolution // GAP
    atlas.generate(xatlas.ChartOptions(), options)

    parts = [atlas.get_mesh(index) for index in range(len(used_by))]
    starts = np.cumsum([0] + [len(part[0]) for part in parts[:-1]])
    uv = np.concatenate([part[2] for part in parts])
    # The packer overshoots the resolution, not always to a square: both sides shrink alike.
    uv = uv * np.array([atlas.width, atlas.height], np.float32) / max(atlas.width, atlas.height)
    source = np.concatenate([used[part[0]] for used, part in zip(used_by, parts, strict=True)])
    corners = np.concatenate([part[1] + start for part, start in zip(parts, starts, strict=True)])
    uv = _place_slivers(source, corners, np.clip(uv, 0, 1))
    return Unwrapped(source.astype(np.int32), corners.astype(np.int32), uv.astype(np.float32))


def _place_slivers(
    source: NDArray[np.integer], faces: NDArray[np.integer], uv: NDArray[np.floating]
) -> NDArray[np.floating]:
    """What has no area xatlas leaves in the texture's corner; here it goes to where the surface beside it is."""
    left_out = (uv[faces] == 0).all(axis=(1, 2))
    beside = np.zeros(source.max() + 1, np.intp)
    placed = faces[~left_out].ravel()
    beside[source[placed]] = placed
    uv[faces[left_out]] = uv[beside[source[faces[left_out, :1]]]]
    return uv


def _pieces(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """The faces in halves of halves, each cut across its longest side."""
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
