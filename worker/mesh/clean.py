"""Takes from a mesh what is no part of the product."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Vertices = NDArray[np.float32]
Faces = NDArray[np.int32]


CRUMB = (0.1, 0.02, 0.01)
"""Parts of the biggest component's longest side, area and volume: what is smaller in all three is none of the product's."""


def drop_floaters(vertices: Vertices, faces: Faces) -> tuple[Vertices, Faces, int]:
    """Without crumbs (`CRUMB`) and inner shells. A strap or rod is small by area and volume, but long: it stays.

    A closed part that is turned inside out is the wall of a hollow: never seen, and it would cost triangles.

    Returns:
        Vertices and faces of what stays, and the number of parts dropped.
    """
    if not len(faces):
        return vertices[:0], faces, 0
    count, part = parts(vertices, faces)
    used = np.zeros(len(vertices), bool)
    used[faces] = True

    low = np.full((count, 3), np.inf)
    high = np.full((count, 3), -np.inf)
    np.minimum.at(low, part[used], vertices[used])
    np.maximum.at(high, part[used], vertices[used])
    extent = (high - low).max(axis=1)  # -inf for a vertex that no face uses

    part_of_face = part[faces[:, 0]]
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    volume = np.bincount(part_of_face, np.einsum("ij,ij->i", a, np.cross(b, c)), count)
    area = np.bincount(part_of_face, np.linalg.norm(np.cross(b - a, c - a), axis=1), count)
    real = np.isfinite(extent)
    outer = real & (volume > 0)
    if not outer.any():  # an open or inverted mesh
        outer, volume = real, np.abs(volume)
    keep = np.zeros(count, bool)
    for size, least in zip((extent, area, volume), CRUMB, strict=True):
        keep |= outer & (size >= least * size[outer].max())
    vertices, faces = remove_unused(vertices, faces[keep[part_of_face]])
    return vertices, faces, int((real & ~keep).sum())


def fill_holes(vertices: Vertices, faces: Faces) -> tuple[Vertices, Faces]:
    """A fan of faces over every hole, from the middle of its rim; what is closed comes back as it is.

    What hangs together by an edge of more than two faces is left as it is: there is no telling inside from outside.
    """
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    size = len(vertices)
    there, back = edges[:, 0] * size + edges[:, 1], edges[:, 1] * size + edges[:, 0]
    rim = edges[~np.isin(there, back)]
    if not len(rim):
        return vertices, faces
    graph = sparse.coo_matrix((np.ones(len(rim), np.int8), (rim[:, 0], rim[:, 1])), shape=(size, size))
    _, label = sparse.csgraph.connected_components(graph, directed=False)
    _, hole = np.unique(label[rim[:, 0]], return_inverse=True)
    count = np.bincount(hole)
    middle = np.stack([np.bincount(hole, vertices[rim[:, 0], axis]) / count for axis in range(3)], axis=1)
    fans = np.stack([rim[:, 1], rim[:, 0], size + hole], axis=1)
    return (
        np.concatenate([vertices, middle.astype(np.float32)]),
        np.concatenate([faces, fans.astype(np.int32)]),
    )


def parts(vertices: Vertices, faces: Faces) -> tuple[int, NDArray[np.int32]]:
    """The number of connected parts, and each vertex's part; a vertex that no face uses is a part too."""
    start, end = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    graph = sparse.coo_matrix(
        (np.ones(len(start), np.int8), (start, end)), shape=(len(vertices), len(vertices))
    )
    count, part = sparse.csgraph.connected_components(graph, directed=False)
    return count, part


def weld(vertices: Vertices, faces: Faces) -> tuple[Vertices, Faces]:
    """Makes one vertex of all that lie at bit-equal positions."""
    _, first, same = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
    return vertices[first], same.ravel().astype(np.int32)[faces]


def remove_unused(vertices: Vertices, faces: Faces) -> tuple[Vertices, Faces]:
    """Without the vertices that no face uses and the faces that use one twice."""
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    return vertices[used], (np.cumsum(used) - 1).astype(np.int32)[faces]


def is_watertight(faces: Faces) -> bool:
    """Whether every edge joins exactly two faces that agree on which side is outside."""
    if not len(faces):
        return False
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    size = int(faces.max()) + 1
    there = np.sort(edges[:, 0] * size + edges[:, 1])
    back = np.sort(edges[:, 1] * size + edges[:, 0])
    return bool((there[1:] != there[:-1]).all() and (there == back).all())
