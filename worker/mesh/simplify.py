"""Reduce a mesh to fewer triangles and keep its shape."""

import fast_simplification
import manifold3d
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from worker.mesh.clean import count_kept, is_watertight, remove_unused

Vertices = NDArray[np.float32]
Faces = NDArray[np.int32]

SLOW = 150_000  # faces; more take manifold3d too long
TOUCH = 2**-24  # of the mesh's extent, where scaling may round two float32 to one, in each coordinate
ROUNDS = 10  # from a tolerance of 1e-4 of the mesh's extent, doubled each time, to a tenth of it


def simplify(vertices: Vertices, faces: Faces, triangles: int) -> tuple[Vertices, Faces]:
    """Reduce a mesh to at most `triangles` faces. The result is watertight if the given mesh is.

    Quadric edge collapse (Garland and Heckbert, 1997) is the fastest and stays nearest to the shape, but in about one mesh
    of four it leaves a few edges with four faces, where two sheets touch. Those are taken apart. Where that would cut a
    part off that is more than a crumb, or the mesh is torn, a slower collapse takes over that does neither.

    Args:
        vertices: (V, 3), any unit.
        faces: (F, 3)
        triangles: the most faces of the result; a mesh that has no more comes back as it is.

    Returns:
        Vertices and faces.
    """
    if len(faces) <= triangles:
        return vertices, faces
    result = _collapse(vertices, faces, triangles)
    if _closed(*result):
        return result
    apart = _take_apart(_solid(*result))
    # A crumb stays where it is, as near as it was.
    if _fits(apart, triangles) and count_kept(*apart) == count_kept(vertices, faces):
        return apart
    if not is_watertight(faces):
        return result
    safe = _collapse_safely(vertices, faces, triangles)
    return next((other for other in (safe, apart) if _fits(other, triangles)), result)


def _fits(mesh: tuple[Vertices, Faces], triangles: int) -> bool:
    return len(mesh[1]) <= triangles and _closed(*mesh)


def _collapse(vertices: Vertices, faces: Faces, triangles: int) -> tuple[Vertices, Faces]:
    # agg=3 instead of the default 7 halves the mean error at no cost, but may stop above the count.
    for agg in (3, 5, 7):
        fewer, corners = fast_simplification.simplify(vertices, faces, target_count=triangles, agg=agg)
        if len(corners) <= triangles:
            return remove_unused(fewer.astype(np.float32), corners.astype(np.int32))
    return _cluster(fewer.astype(np.float32), corners.astype(np.int32), triangles)


def _cluster(vertices: Vertices, faces: Faces, triangles: int) -> tuple[Vertices, Faces]:
    """Reduce what no collapse gets below the budget, to one vertex for each cell of a grid.

    The grid gets coarser until the faces are few enough (vertex clustering, Rossignac and Borrel, 1993).
    """
    low, extent = vertices.min(axis=0), float(np.ptp(vertices, axis=0).max()) or 1.0
    cells = 256.0
    while True:
        _, first, same = np.unique(
            np.floor((vertices - low) * np.float32(cells / extent)),
            axis=0,
            return_index=True,
            return_inverse=True,
        )
        result = remove_unused(vertices[first], same.ravel().astype(np.int32)[faces])
        if len(result[1]) <= triangles:
            return result
        cells /= 1.5


def _collapse_safely(vertices: Vertices, faces: Faces, triangles: int) -> tuple[Vertices, Faces]:
    """Simplify with manifold3d, which keeps the mesh manifold.

    It takes a tolerance and no count, so the tolerance grows until the count fits. Its time grows with the faces, some
    seconds for `SLOW`: larger meshes are collapsed to that first.
    """
    if len(faces) > SLOW:
        vertices, faces = _collapse(vertices, faces, SLOW)
    solid = _solid(vertices, faces)
    tolerance = 1e-4 * float(np.ptp(vertices, axis=0).max())
    for _ in range(ROUNDS):
        if solid.num_tri() <= triangles:
            break
        solid = solid.simplify(tolerance)
        tolerance *= 2
    return _take_apart(solid)


def _take_apart(solid: manifold3d.Manifold) -> tuple[Vertices, Faces]:
    """Separate sheets that touch: manifold3d gives each its own vertices there, and this moves them a little inwards."""
    mesh = solid.to_mesh()
    vertices = np.array(mesh.vert_properties[:, :3], np.float32)
    faces = np.array(mesh.tri_verts, np.int32)
    shared = np.zeros(len(vertices), bool)
    shared[_touching(vertices)] = True
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    total = np.zeros_like(vertices)
    np.add.at(total, start, vertices[end])
    around = total / np.maximum(np.bincount(start, minlength=len(vertices)), 1)[:, None].astype(np.float32)
    return np.where(shared[:, None], 0.9 * vertices + 0.1 * around, vertices).astype(np.float32), faces


def _solid(vertices: Vertices, faces: Faces) -> manifold3d.Manifold:
    return manifold3d.Manifold(manifold3d.Mesh(vertices, faces.astype(np.uint32)))


def _closed(vertices: Vertices, faces: Faces) -> bool:
    """True if the mesh is watertight for a reader that merges positions, after it has been scaled and rounded."""
    if not is_watertight(faces):
        return False
    pairs = _touching(vertices)
    if not len(pairs):
        return True
    graph = coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), (len(vertices),) * 2)
    _, same = connected_components(graph, directed=False)
    return is_watertight(same[faces].astype(np.int32))


def _touching(vertices: Vertices) -> NDArray[np.intp]:
    """Return the (N, 2) pairs of vertices that are as good as at the same place."""
    if not len(vertices):
        return np.zeros((0, 2), np.intp)
    extent = float(np.ptp(vertices, axis=0).max())
    return np.asarray(cKDTree(vertices).query_pairs(TOUCH * extent, p=np.inf, output_type="ndarray"), np.intp)
