"""Light a mesh for its pictures: soft studio lights, less light in gaps and corners, a shadow on the floor."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.mesh.rasterize import rasterize

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
FLOOR_BLUR = 2.2  # cells
FLOOR_MARGIN = 0.22  # how far the shadow reaches, as part of the product's longest side
FLOOR_FAINT = 0.1  # fainter shadow is left out: it would only make the page look dull
FLOOR_STRENGTH = 0.7  # alpha of the shadow where no light arrives

SHADE_CELLS = 112  # a side of the depth map from each direction
SHADE_DIRECTIONS = 56
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
    """The shadow that the mesh casts on the plane y = 0 under an even sky, as a map of C by C cells."""

    shadow: Floats  # (C, C) alpha 0..1, by z and x
    low: Floats  # (2,) x and z of the map's corner, in the unit of the mesh
    cell: float  # side of a cell, in the unit of the mesh

    def at(self, x: Floats, z: Floats) -> Floats:
        """Return the alpha of the shadow at points (x, 0, z), in the shape of x and z; 0 beyond the map."""
        where = [(z - self.low[1]) / self.cell - 0.5, (x - self.low[0]) / self.cell - 0.5]
        return np.asarray(ndimage.map_coordinates(self.shadow, where, order=1, cval=0.0), np.float32)


def ambient_occlusion(positions: Floats, normals: Floats, faces: NDArray[np.int32]) -> tuple[Floats, Floor]:
    """Compute how much light from all around reaches the mesh and the floor below it.

    Args:
        positions: (V, 3), any unit, standing on y = 0.
        normals: (V, 3) unit vectors.
        faces: (F, 3)

    Returns:
        (V,) the part of an even light that reaches each vertex, `BOUNCE` to 1 in the open; and the shadow on the floor.
    """
    low, high = positions.min(axis=0), positions.max(axis=0)
    side = float((high - low)[[0, 2]].max()) + 2 * FLOOR_MARGIN * float((high - low).max())
    corner, cell = ((low + high)[[0, 2]] / 2 - side / 2).astype(np.float32), side / FLOOR_CELLS
    middles = (np.arange(FLOOR_CELLS, dtype=np.float32) + np.float32(0.5)) * np.float32(cell)
    z, x = np.meshgrid(corner[1] + middles, corner[0] + middles, indexing="ij")
    ground = np.stack([x.ravel(), np.zeros(x.size, np.float32), z.ravel()], axis=1)
    up = np.tile(np.array([0, 1, 0], np.float32), (len(ground), 1))

    reached = _reached(np.concatenate([positions, ground]), np.concatenate([normals, up]), positions, faces)
    shadow = 1 - reached[len(positions) :].reshape(FLOOR_CELLS, FLOOR_CELLS)
    shadow = ndimage.gaussian_filter(shadow, FLOOR_BLUR)
    # It fades to nothing at the map's border.
    rim = np.linspace(-1, 1, FLOOR_CELLS) ** 2
    fade = np.clip(1.0 - (rim[:, None] ** 2 + rim[None, :] ** 2), 0, 1)
    shadow = np.clip((shadow - FLOOR_FAINT) / (1 - FLOOR_FAINT), 0, 1) * fade
    # A place in the shade still gets light that the rest reflects.
    open_ = BOUNCE + (1 - BOUNCE) * reached[: len(positions)]
    return open_, Floor((FLOOR_STRENGTH * shadow).astype(np.float32), corner, cell)


def _reached(points: Floats, normals: Floats, positions: Floats, faces: NDArray[np.int32]) -> Floats:
    """(N,) the part of an even light from all around that reaches (N, 3) points with (N, 3) normals past the mesh.

    Draws a depth map of the mesh from each of many directions: a point behind the nearest face is in the shade from there.
    """
    low, high = positions.min(axis=0), positions.max(axis=0)
    radius = max(float(np.linalg.norm(high - low)) / 2, 1e-9)
    cell = np.float32(2 * radius / SHADE_CELLS)
    middle = (low + high) / 2
    centered = positions - middle
    lifted = points - middle + normals * cell  # off the surface, so that it does not shade itself
    reached, total = np.zeros(len(points), np.float32), np.full(len(points), 1e-6, np.float32)
    for direction in _directions(SHADE_DIRECTIONS):
        side = np.cross(direction, (0, 1, 0))
        side /= np.linalg.norm(side)
        axes = np.stack([side, np.cross(side, direction)], axis=1).astype(np.float32)
        corners = (centered @ axes / cell + np.float32(SHADE_CELLS / 2))[faces]
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        shown = (b - a)[:, 0] * (c - a)[:, 1] < (b - a)[:, 1] * (c - a)[:, 0]
        depth = (centered @ direction)[faces[shown]]
        nearest = np.full((SHADE_CELLS + 2) ** 2, -np.inf, np.float32)  # with a rim that nothing covers
        for batch in rasterize(corners[shown] + 1, SHADE_CELLS + 2, SHADE_CELLS + 2):
            np.maximum.at(nearest, batch.pixel, np.einsum("ij,ij->i", batch.weight, depth[batch.face]))
        at = (
            (lifted @ axes / cell + np.float32(SHADE_CELLS / 2 + 1)).astype(np.int32).clip(0, SHADE_CELLS + 1)
        )
        above = nearest[at[:, 1] * (SHADE_CELLS + 2) + at[:, 0]] - lifted @ direction
        weight = np.maximum(normals @ direction, 0)
        reached += weight * (1 - np.clip(above / cell - 1, 0, 1))
        total += weight
    return reached / total


def _directions(count: int) -> Floats:
    """(count, 3) unit vectors, spread evenly over the sphere along the golden spiral (Fibonacci lattice)."""
    n = np.arange(count) + 0.5
    y = 1 - 2 * n / count
    around = np.pi * (1 + 5**0.5) * n
    radius = np.sqrt(1 - y * y)
    return np.stack([radius * np.cos(around), y, radius * np.sin(around)], axis=1).astype(np.float32)
