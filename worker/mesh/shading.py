"""Light a mesh for its pictures: soft studio lights, less light in gaps and corners, a shadow on the floor."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]

# For each light: its direction in the camera's axes (right, up, towards the camera), its strength, and how far it wraps
# around the form, 0 for a hard edge between light and shade. Most textures hold the photo's own light already, so these
# only model the form: what faces the camera is lit with about 1 and looks as it does in the photo.
LIGHTS = (
    ((-0.55, 0.75, 0.65), 0.44, 0.4),  # key light: a large soft box, above on the left
    ((0.9, 0.15, 0.45), 0.15, 0.6),  # fill light
    ((0.3, 0.6, -0.75), 0.2, 0.0),  # rim light: sets the product off from a dark page
)
SKY, GROUND = 0.64, 0.5  # ambient light from above and from below

FLOOR_CELLS = 64  # a side of the floor's shadow map
FLOOR_BLUR = 2.4  # cells
FLOOR_MARGIN = 0.12  # how far the map reaches beyond the mesh, as part of the product's longest side
FLOOR_HEIGHT = 0.5  # what is so far above the floor casts no shadow, as part of the longest side
FLOOR_STRENGTH = 0.6  # alpha of the shadow where the mesh touches the floor

SHADE_CELLS = 112  # a side of the depth map from each direction
SHADE_DIRECTIONS = 56
DENSITY = 3.0  # points of the surface for each cell that it covers
BOUNCE = 0.3  # part of the light that reaches even the deepest corner, reflected by its walls


def lighting(normal: Floats) -> Floats:
    """Light a white surface by `LIGHTS` and an ambient light that changes from above to below.

    Args:
        normal: (..., 3) unit vectors in the camera's axes.

    Returns:
        (...) linear brightness, about 1 for a surface that faces the camera.
    """
    total = (SKY + GROUND) / 2 + (SKY - GROUND) / 2 * normal[..., 1]
    for towards, strength, wrap in LIGHTS:
        cosine = normal @ (np.array(towards, np.float32) / np.float32(np.linalg.norm(towards)))
        total = total + strength * np.clip((cosine + wrap) / (1 + wrap), 0, 1)
    return np.asarray(total, np.float32)


class Floor(NamedTuple):
    """The shadow that the mesh casts on the plane y = 0, as a map of C by C cells."""

    shadow: Floats  # (C, C) alpha 0..1, by z and x
    low: Floats  # (2,) x and z of the map's corner, in the unit of the mesh
    cell: float  # side of a cell, in the unit of the mesh

    def at(self, x: Floats, z: Floats) -> Floats:
        """Return the alpha of the shadow at points (x, 0, z), in the shape of x and z; 0 beyond the map."""
        where = [(z - self.low[1]) / self.cell - 0.5, (x - self.low[0]) / self.cell - 0.5]
        return np.asarray(ndimage.map_coordinates(self.shadow, where, order=1, cval=0.0), np.float32)


def ambient_occlusion(positions: Floats, normals: Floats, faces: NDArray[np.int32]) -> tuple[Floats, Floor]:
    """Compute how much light from all around reaches the mesh, and the shadow on the floor below it.

    Args:
        positions: (V, 3), any unit, standing on y = 0.
        normals: (V, 3) unit vectors.
        faces: (F, 3)

    Returns:
        (V,) the part of an even light that reaches each vertex, `BOUNCE` to 1 in the open; and the shadow on the floor.
    """
    low, high = positions.min(axis=0), positions.max(axis=0)
    radius = max(float(np.linalg.norm(high - low)) / 2, 1e-9)
    surface = _spread(positions, faces, 2 * radius / SHADE_CELLS)
    # A place in the shade still gets light that the rest reflects.
    open_ = BOUNCE + (1 - BOUNCE) * _reached(positions, normals, surface, (low + high) / 2, radius)
    return open_, _floor(surface, low, high)


def _spread(positions: Floats, faces: NDArray[np.int32], cell: float) -> Floats:
    """(N, 3) points all over the mesh, about `DENSITY` for each `cell`² of its area and at least one for each face.

    They are spread evenly over each face (Roberts' R2 sequence, folded into the triangle).
    """
    a, b, c = (positions[faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    count = np.ceil(DENSITY * area / np.float32(cell) ** 2).astype(np.int64).clip(1)
    face = np.repeat(np.arange(len(faces)), count)
    n = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
    u, v = ((0.5 + n * step) % 1 for step in (0.7548776662466927, 0.5698402909980532))
    beyond = u + v > 1
    u, v = (np.where(beyond, 1 - w, w).astype(np.float32)[:, None] for w in (u, v))
    return np.asarray(a[face] + u * (b - a)[face] + v * (c - a)[face], np.float32)


def _floor(surface: Floats, low: Floats, high: Floats) -> Floor:
    """Darken the floor below the (N, 3) points of the surface: the nearer they are to it, the more."""
    longest = float((high - low).max())
    side = float((high - low)[[0, 2]].max()) + 2 * FLOOR_MARGIN * longest
    corner, cell = ((low + high)[[0, 2]] / 2 - side / 2).astype(np.float32), side / FLOOR_CELLS
    column, row = ((surface[:, [0, 2]] - corner) / np.float32(cell)).astype(np.intp).T
    height = np.full(FLOOR_CELLS**2, np.inf, np.float32)
    np.minimum.at(height, row * FLOOR_CELLS + column, surface[:, 1])
    dark = (1 - height / np.float32(FLOOR_HEIGHT * longest)).clip(0) ** 2
    shadow = ndimage.gaussian_filter(dark.reshape(FLOOR_CELLS, FLOOR_CELLS), FLOOR_BLUR)
    return Floor((FLOOR_STRENGTH * shadow).astype(np.float32), corner, cell)


def _reached(points: Floats, normals: Floats, surface: Floats, middle: Floats, radius: float) -> Floats:
    """(N,) the part of an even light from all around that reaches (N, 3) points with (N, 3) normals past the surface.

    Makes a depth map of the surface's points from each of many directions: what lies behind the nearest one is in the shade
    from there.
    """
    cell = np.float32(2 * radius / SHADE_CELLS)
    width = SHADE_CELLS + 2  # with a rim that nothing covers
    # By axis: a product of matrices would wake all cores for so little work.
    centered = np.ascontiguousarray((surface - middle).T)
    # Off the surface, so that it does not shade itself.
    lifted = np.ascontiguousarray((points - middle + normals * cell).T)
    reached, total = np.zeros(len(points), np.float32), np.full(len(points), 1e-6, np.float32)
    for direction in _directions(SHADE_DIRECTIONS):
        side = np.cross(direction, (0, 1, 0))
        side /= np.linalg.norm(side)
        axes = np.stack([side, np.cross(side, direction), direction]).astype(np.float32) / cell

        def on_map(of: Floats, axes: Floats = axes) -> tuple[NDArray[np.intp], Floats]:
            x, y, depth = (a * of[0] + b * of[1] + c * of[2] for a, b, c in axes)
            column, row = (((at + np.float32(width / 2)).astype(np.intp)).clip(0, width - 1) for at in (x, y))
            return row * width + column, depth

        nearest = np.full(width * width, -np.inf, np.float32)
        at, depth = on_map(centered)
        np.maximum.at(nearest, at, depth)
        at, depth = on_map(lifted)
        weight = np.maximum(normals @ direction, 0)
        reached += weight * (1 - np.clip(nearest[at] - depth - 1, 0, 1))
        total += weight
    return reached / total


def _directions(count: int) -> Floats:
    """(count, 3) unit vectors, spread evenly over the sphere along the golden spiral (Fibonacci lattice)."""
    n = np.arange(count) + 0.5
    y = 1 - 2 * n / count
    around = np.pi * (1 + 5**0.5) * n
    radius = np.sqrt(1 - y * y)
    return np.stack([radius * np.cos(around), y, radius * np.sin(around)], axis=1).astype(np.float32)
