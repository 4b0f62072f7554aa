"""Light for pictures of a mesh: a soft studio, what of it reaches gaps and corners, the shadow on the floor."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.mesh.rasterize import rasterize

Floats = NDArray[np.float32]

# Direction in the camera's axes (right, up, to the camera), strength, and how far round the form the light reaches.
# Most textures carry the photo's own light already, so that this only models the form: what faces the camera is lit with
# about 1 and looks as in the photo.
LIGHTS = (
    ((-0.55, 0.75, 0.65), 0.44, 0.4),  # key: a large soft box, above on the left
    ((0.9, 0.15, 0.45), 0.15, 0.6),  # fill
    ((0.3, 0.6, -0.75), 0.2, 0.0),  # rim: parts the product from a dark page
)
SKY, GROUND = 0.64, 0.5  # ambient light from above and from below

FLOOR_CELLS = 64  # a side of the floor's map
FLOOR_BLUR = 2.2  # cells
FLOOR_MARGIN = 0.22  # of the product's longest side: so far its shadow reaches
FLOOR_FAINT = 0.1  # fainter shadow would only dull the page
FLOOR_STRENGTH = 0.7  # the shadow's alpha where no light comes at all

SHADE_CELLS = 112  # a side of the picture from each direction
SHADE_DIRECTIONS = 56
BOUNCE = 0.3  # part of the light that reaches the deepest corner


def lighting(normal: Floats) -> Floats:
    """(..., 3) unit vectors in the camera's axes → (...) how bright a white surface is there, linear."""
    total = (SKY + GROUND) / 2 + (SKY - GROUND) / 2 * normal[..., 1]
    for towards, strength, wrap in LIGHTS:
        cosine = normal @ (np.array(towards, np.float32) / np.float32(np.linalg.norm(towards)))
        total = total + strength * np.clip((cosine + wrap) / (1 + wrap), 0, 1)
    return np.asarray(total, np.float32)


class Floor(NamedTuple):
    """The shadow that the mesh casts on the plane y = 0 under an even sky."""

    shadow: Floats  # (C, C) 0..1 by z and x
    low: Floats  # (2,) x and z of the map's corner
    cell: float

    def at(self, x: Floats, z: Floats) -> Floats:
        """The shadow at points of the plane; 0 beyond the map."""
        where = [(z - self.low[1]) / self.cell - 0.5, (x - self.low[0]) / self.cell - 0.5]
        return np.asarray(ndimage.map_coordinates(self.shadow, where, order=1, cval=0.0), np.float32)


def ambient_occlusion(positions: Floats, normals: Floats, faces: NDArray[np.int32]) -> tuple[Floats, Floor]:
    """(V,) how much of the light from all around reaches each vertex, 1 in the open; and the shadow on the floor."""
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
    # Nothing may be left of it at the map's border.
    rim = np.linspace(-1, 1, FLOOR_CELLS) ** 2
    fade = np.clip(1.0 - (rim[:, None] ** 2 + rim[None, :] ** 2), 0, 1)
    shadow = np.clip((shadow - FLOOR_FAINT) / (1 - FLOOR_FAINT), 0, 1) * fade
    # What lies in the shade still gets what bounces off the rest.
    open_ = BOUNCE + (1 - BOUNCE) * reached[: len(positions)]
    return open_, Floor((FLOOR_STRENGTH * shadow).astype(np.float32), corner, cell)


def _reached(points: Floats, normals: Floats, positions: Floats, faces: NDArray[np.int32]) -> Floats:
    """(N,) the part of an even light from all around that reaches (N, 3) points with (N, 3) normals past the mesh.

    The mesh is looked at from many directions; what lies behind the nearest thing there is in the shade from that side.
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
        nearest = np.full((SHADE_CELLS + 2) ** 2, -np.inf, np.float32)  # with a rim that is always free
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
    """(count, 3) unit vectors, spread evenly over the sphere along a spiral."""
    n = np.arange(count) + 0.5
    y = 1 - 2 * n / count
    around = np.pi * (1 + 5**0.5) * n
    radius = np.sqrt(1 - y * y)
    return np.stack([radius * np.cos(around), y, radius * np.sin(around)], axis=1).astype(np.float32)
