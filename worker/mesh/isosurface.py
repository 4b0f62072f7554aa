"""Extract the closed surface on which the samples of a field cross a level."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes

from worker.mesh.sparse import (
    CROSSED,
    LIMIT,
    OUTSIDE,
    SEEN,
    SHIFT,
    Keys,
    Samples,
    Values,
    distinct,
    keys_of,
    points_of,
)

Density = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(N, 3) points in world units → (N,) values, greater inside."""
Mask = NDArray[np.bool_]

LATTICE = 65  # samples an axis of the coarse lattice: one for each of the 64 texels of TripoSR's planes, and one more
BATCH = 1 << 17  # points in one call of the field
FRONT = 1 << 17  # cells visited at once while a surface is followed
DOUBT = 0.5  # how far a field may vary inside a coarse cell, unseen at its corners, as part of its variation around it
STEEP = 6.0  # how many times as steep a field may be between two samples as beside them, where it is searched

# A cell is named by its lowest corner; corner i is one step further along x, y, z for its bits 4, 2, 1.
_STEP = np.array([1 << shift for shift in SHIFT], np.int64)
_BITS = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)])
_CORNER = _BITS @ _STEP
_TURN = [-_STEP[0], _STEP[0], -_STEP[1], _STEP[1], -_STEP[2], _STEP[2]]  # to the cell beyond each side
_CODES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(bool)  # (code, corner): inside
_MIXED: Mask = np.asarray(_CODES.any(axis=1) & ~_CODES.all(axis=1))
_OPEN = [  # for each side: True if the surface goes through it, by the cell's code
    _CODES[:, _BITS[:, axis] == end].any(axis=1) & ~_CODES[:, _BITS[:, axis] == end].all(axis=1)
    for axis in range(3)
    for end in (0, 1)
]


class Extraction(NamedTuple):
    """A surface and what it cost."""

    vertices: NDArray[np.float32]  # (V, 3) world units
    faces: NDArray[np.int32]  # (F, 3) counter-clockwise seen from outside
    queries: int  # points at which the field was evaluated


def extract(
    density: Density, *, resolution: int, radius: float, level: float, lattice: int = LATTICE
) -> Extraction:
    """Extract the closed boundary of where a field exceeds a level, from a few per cent of the grid's samples.

    The grid has `resolution` samples an axis on [-radius, radius], including both ends, with x outermost. Outside surrounds
    it: a surface that reaches the volume's faces is closed there, flat. For every part of the surface that is found, the
    result is what scikit-image's marching cubes (Lewiner) makes of all samples, with the same faces in the same order, and
    a part is always followed to its end. A part (a connected component of the dense mesh) is found if

    1. it separates two neighbours of the coarse lattice, which has `lattice` samples an axis, spread as evenly as possible
       over the grid's (all of them, if the grid has no more), or a sample at a face of the volume from the outside;
    2. or it separates two neighbours of the lattice of half that step, in a coarse cell that is, or touches, a cell through
       which a found part goes, or a cell where a corner is nearer to the level than `DOUBT` times the range of the field
       at the corners of this cell and of those that touch it;
    3. or it separates two samples on an edge of the coarse lattice, or of the half-step lattice where 2 applies, and the
       field, continued `STEEP` times as steeply as it runs towards that edge on both sides, would cross the level on the
       edge: a sheet thinner than the lattice, in a field that grows with the distance from it.

    So a solid or a hollow is certain to be found if it holds a coarse sample and the surface around it is one part. A ball
    with a radius of √3/2 coarse steps holds one wherever it is: 1.4 % of the volume's side for 65 samples. Beside a found
    part, or where the field comes near the level, half of that is enough. A smaller part may be lost unless it is connected
    to a found one. Nothing of a found part is lost, however thin it is.

    Args:
        density: (N, 3) float32 points in world units → (N,) float32, greater inside. Called with at most 131072 points,
            and never twice with the same one. Infinity counts as inside, NaN as outside.
        resolution: samples an axis, 2 to 1024.
        radius: half the side of the volume, world units.
        level: inside is above it.
        lattice: samples an axis of the coarse lattice, at least 2. Its memory grows with its cube (9 MB for 65); all
            other memory grows with the surface.

    Returns:
        The surface, always closed and the same on every run; empty where nothing exceeds the level. Where a sample equals
        the level to the last bits, triangles may have no area, but their vertices stay distinct.

    Raises: ValueError for a resolution or a lattice out of range.
    """
    if not 2 <= resolution <= min(1024, LIMIT - 2):
        raise ValueError(f"a grid of {resolution} samples an axis: 2 to 1024 are possible")
    if lattice < 2:
        raise ValueError(f"a lattice of {lattice} samples an axis: at least 2 are needed")
    grid = _Grid(density, resolution, radius, level, lattice)
    while len(seeds := grid.search()):
        grid.follow(seeds)
    vertices, faces = _triangles(grid.samples, level)
    if len(vertices):
        vertices = (vertices - 1) * (2 * radius / (resolution - 1)) - radius
    return Extraction(vertices.astype(np.float32), faces, grid.queries)


class _Grid:
    """A field on a grid with one layer of outside around it, so that sample i of an axis has the number i + 1."""

    def __init__(self, density: Density, resolution: int, radius: float, level: float, lattice: int) -> None:
        self.density = density
        self.queries = 0
        # float32 samples exceed the level exactly if they exceed the last float32 that does not.
        below = np.float32(level)
        self.level = float(np.nextafter(below, np.float32(-np.inf)) if float(below) > level else below)
        self.axis = np.linspace(-radius, radius, resolution).astype(np.float32)
        self.samples = Samples(resolution + 2)

        even = np.round(np.linspace(1, resolution, min(lattice, resolution))).astype(np.int64)
        coarse = np.concatenate([[0], even, [resolution + 1]])
        self.ticks = np.unique(np.concatenate([coarse, (coarse[:-1] + coarse[1:]) // 2]))
        self.at = np.searchsorted(self.ticks, coarse)  # coarse → half-step lattice
        self.cell_of = np.searchsorted(coarse, np.arange(resolution + 2), "right") - 1  # sample → coarse cell
        self.tick_of = np.full(resolution + 2, -1)  # sample → half-step lattice, -1 for none
        self.tick_of[self.ticks] = np.arange(len(self.ticks))

        self.half = np.full((len(self.ticks),) * 3, np.nan, np.float32)
        for axis in range(3):
            np.moveaxis(self.half, axis, 0)[[0, -1]] = OUTSIDE
        cells = (len(coarse) - 1,) * 3
        self.crossed = np.zeros(cells, np.bool_)  # coarse cells through which the surface is known to go
        self.doubtful = np.zeros(cells, np.bool_)  # coarse cells that vary enough to hide a part of it
        self.searched = np.zeros(cells, np.bool_)  # coarse cells whose half-step samples are known
        self.first = True

    def ask(self, points: NDArray[np.int64]) -> Values:
        """Evaluate the field: (N, 3) numbers of samples → (N,) values, all finite."""
        values = np.empty(len(points), np.float32)
        for start in range(0, len(points), BATCH):
            part = slice(start, start + BATCH)
            values[part] = self.density(self.axis[points[part] - 1])
        self.queries += len(points)
        return np.asarray(np.nan_to_num(values, nan=OUTSIDE, posinf=-OUTSIDE, neginf=OUTSIDE))

    def get(self, keys: Keys) -> Values:
        """Return the samples of keys, any shape; evaluate the field where they are not known yet."""
        address = self.samples.address(keys)
        values = self.samples.values.ravel()[address]
        missing = np.isnan(values)
        if missing.any():
            new = distinct(keys[missing])
            points = points_of(new)
            ticks = self.tick_of[points]
            common = (ticks >= 0).all(axis=1)  # on the half-step lattice, whose samples are shared
            known = np.where(common, self.half[tuple(ticks.T)], np.float32(np.nan))
            unknown = np.isnan(known)
            known[unknown] = self.ask(points[unknown])
            self.half[tuple(ticks[common].T)] = known[common]
            self.samples.values.ravel()[self.samples.address(new)] = known
            values = self.samples.values.ravel()[address]
        return np.asarray(values)

    def search(self) -> Keys:
        """Find cells of the surface between neighbours of the lattices that were not followed yet. Return their keys."""
        found = []
        if self.first:
            self.first = False
            found.append(self._search_coarse())
        new = (self.doubtful | ndimage.maximum_filter(self.crossed, 3)) & ~self.searched
        self.searched |= new
        found.append(self._search_half(new))
        cells = distinct(np.concatenate(found))
        return np.asarray(cells[self.samples.flags.ravel()[self.samples.address(cells)] == 0])

    def _search_coarse(self) -> Keys:
        inner = self.at[1:-1]
        points = np.stack(np.meshgrid(*(self.ticks[inner],) * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        self.half[np.ix_(inner, inner, inner)] = self.ask(points).reshape((len(inner),) * 3)
        coarse = self.half[np.ix_(self.at, self.at, self.at)]
        inside = coarse > self.level
        above = coarse.astype(np.float64) - self.level
        low, high = _corners(above, np.minimum), _corners(above, np.maximum)
        self.crossed |= (low <= 0) & (high > 0)
        # The layer of outside does not count for how much the field varies.
        span = ndimage.maximum_filter(_corners(above[1:-1, 1:-1, 1:-1], np.maximum), 3, mode="nearest")
        span -= ndimage.minimum_filter(_corners(above[1:-1, 1:-1, 1:-1], np.minimum), 3, mode="nearest")
        self.doubtful[1:-1, 1:-1, 1:-1] = (
            DOUBT * span > np.abs(np.where(high > 0, low, high))[1:-1, 1:-1, 1:-1]
        )

        found = []
        for axis in range(3):
            along = np.moveaxis(above, axis, 0)
            signs = np.moveaxis(inside, axis, 0)
            edges = signs[1:] != signs[:-1]
            edges[1:-1] |= _turns(along) & (signs[1:-2] == signs[2:-1])
            where = _where(np.moveaxis(edges, 0, axis))
            found.append(self._cross(self.at[where], self.at[where[:, axis] + 1], axis))
        return np.concatenate(found)

    def _search_half(self, cells: Mask) -> Keys:
        """Evaluate the half-step samples of coarse cells, and find the cells of the surface between them."""
        where = _where(cells)
        if not len(where):
            return np.empty(0, np.int64)
        low, high = self.at[where], self.at[where + 1]
        needed = np.zeros(self.half.shape, np.bool_)
        for step in np.ndindex(3, 3, 3):
            needed[tuple(np.minimum(low + step, high).T)] = True
        needed &= np.isnan(self.half)
        self.half[needed] = self.ask(self.ticks[_where(needed)])
        # Each sample is inside (1), outside (2) or unknown (0): an edge with both bits is crossed.
        side = np.where(self.half > self.level, np.uint8(1), (self.half <= self.level) * np.uint8(2))
        found = []
        for axis in range(3):
            along, new = np.moveaxis(side, axis, 0), np.moveaxis(needed, axis, 0)
            both = along[1:] | along[:-1]
            where = _where(np.moveaxis(both == 3, 0, axis))
            found.append(self._cross(where, where[:, axis] + 1, axis))

            # An edge with samples between its ends, and with an edge before and after it, may be crossed twice.
            both[(along[1:] == 0) | (along[:-1] == 0) | ~(new[1:] | new[:-1])] = 0
            both[np.diff(self.ticks) < 2] = 0
            where = _where(np.moveaxis(((both == 1) | (both == 2))[1:-1], 0, axis))
            line = [np.insert(where[:, np.arange(3) != axis], axis, where[:, axis] + i, 1) for i in range(4)]
            above = np.stack([self.half[tuple(at.T)].astype(np.float64) - self.level for at in line])
            where = line[1][_turns(above)[0]]
            found.append(self._cross(where, where[:, axis] + 1, axis))
        return np.concatenate(found)

    def _cross(self, start: NDArray[np.integer], end: NDArray[np.integer], axis: int) -> Keys:
        """Find the cells at the crossed grid edges between half-step samples `start` (N, 3) and `end` (N,) on `axis`."""
        if not len(start):
            return np.empty(0, np.int64)
        first = self.ticks[start]
        length = self.ticks[end] - first[:, axis]
        steps = np.minimum(np.arange(length.max() + 1), length[:, None])
        keys = keys_of(first)[:, None] + steps * _STEP[axis]
        inside = self.get(keys) > self.level
        return np.asarray(keys[:, :-1][inside[:, 1:] != inside[:, :-1]])

    def follow(self, cells: Keys) -> None:
        """Mark the crossed ones of `cells`, and all cells that the surface reaches from them."""
        flags = self.samples.flags.ravel()[self.samples.address(cells)]
        waiting = cells[flags == 0]
        self.samples.flags.ravel()[self.samples.address(waiting)] = SEEN
        while len(waiting):
            cells, waiting = waiting[:FRONT], waiting[FRONT:]
            corners = cells[:, None] + _CORNER
            code = np.packbits(self.get(corners) > self.level, axis=1)[:, 0]
            crossed = _MIXED[code]
            cells, code = cells[crossed], code[crossed]
            self.samples.flags.ravel()[self.samples.address(cells)] = CROSSED
            self.crossed[tuple(self.cell_of[points_of(cells)].T)] = True
            reached = np.concatenate(
                [cells[np.asarray(way)[code]] + turn for way, turn in zip(_OPEN, _TURN, strict=True)]
            )
            address = self.samples.address(reached)
            reached = distinct(reached[self.samples.flags.ravel()[address] == 0])
            self.samples.flags.ravel()[self.samples.address(reached)] = SEEN
            waiting = np.concatenate([waiting, reached])


def _corners(samples: NDArray[np.float64], pick: np.ufunc) -> NDArray[np.float64]:
    """(X - 1, Y - 1, Z - 1) the least or greatest corner of every cell between (X, Y, Z) samples."""
    for axis in range(3):
        along = np.moveaxis(samples, axis, 0)
        samples = np.moveaxis(pick(along[1:], along[:-1]), 0, axis)
    return samples


def _where(mask: Mask) -> NDArray[np.int64]:
    """`numpy.argwhere`, several times as fast for a mask with few True."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1)


def _turns(above: NDArray[np.float64]) -> Mask:
    """For edges 1 … N-3 of N samples along the first axis: True if the slopes on both sides meet beyond the level."""
    rise, fall = above[1:-2] - above[:-3], above[2:-1] - above[3:]
    # Samples outside (below 0) with both slopes up, or inside with both down: the same rule with all signs turned.
    towards = (rise * fall > 0) & (rise * above[1:-2] < 0)
    return np.asarray(towards & (rise * above[2:-1] + fall * above[1:-2] + STEEP * rise * fall > 0))


def _triangles(samples: Samples, level: float) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Run marching cubes on the crossed cells: (V, 3) vertices in samples, (F, 3) faces, in the order of a dense run.

    Works slab by slab of blocks. Each repeats the last layer of cells of the slab before: the same cells give the same
    triangles in the same order, which shows which vertices on the plane between the two slabs are the same. No positions
    are compared, so that two vertices are never mistaken for one.
    """
    points, triangles = [np.empty((0, 3))], [np.empty((0, 3), np.int32)]
    count = 0
    for layer in samples.layers():
        values, crossed, origin = samples.slab(int(layer))
        vertices, faces = _march(values, crossed, level)
        shared = 0
        number = np.full(len(vertices), -1, np.int32)
        if crossed[0].any():
            shared = len(_march(values[:2], crossed[:1], level)[1])
            number[faces[:shared]] = triangles[-1][len(triangles[-1]) - shared :]
        new = number < 0
        number[new] = np.arange(count, count + int(new.sum()), dtype=np.int32)
        count += int(new.sum())
        points.append(vertices[new].astype(np.float64) + np.array(origin))
        triangles.append(number[faces[shared:]])
    return np.concatenate(points), np.concatenate(triangles)


def _march(
    values: Values, cells: Mask, level: float, *, degenerate: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Run marching cubes on the cells that are true. Faces without area are left out unless `degenerate`."""
    mask = np.zeros(values.shape, np.bool_)
    mask[1:, 1:, 1:] = cells  # scikit-image names a cell by its highest corner
    vertices, faces, _, _ = marching_cubes(  # type: ignore[no-untyped-call]  # has no types
        values,
        level,
        gradient_direction="ascent",
        method="lewiner",
        mask=mask,
        allow_degenerate=degenerate,
    )
    return vertices, faces


def _crossed(volume: Values, level: float) -> Mask:
    """(X - 1, Y - 1, Z - 1) true for the cells that have corners inside and outside."""
    some = every = volume > level
    for axis in range(3):
        low, high = ((slice(None),) * axis + (part,) for part in (slice(-1), slice(1, None)))
        some, every = some[low] | some[high], every[low] & every[high]
    return np.asarray(some & ~every)


def isosurface(
    volume: NDArray[np.float32], level: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Extract the boundary of where `volume` exceeds `level`, closed also where it touches the volume's faces.

    Args:
        volume: (X, Y, Z) samples, greater inside.
        level: inside is above it.

    Returns:
        (V, 3) vertices in units of samples, the first sample at 0, and (F, 3) faces, counter-clockwise seen from
        outside. Both are empty where nothing exceeds the level, and for a volume that is not finite.
    """
    empty = np.empty((0, 3), np.float32), np.empty((0, 3), np.int32)
    low, high = float(volume.min()), float(volume.max())
    if not (np.isfinite(low) and np.isfinite(high) and high > level):
        return empty
    offset = 0
    faces_of_volume = (volume[[0, -1]], volume[:, [0, -1]], volume[:, :, [0, -1]])
    if any(bool((face > level).any()) for face in faces_of_volume):
        # One more layer of outside; with the highest value mirrored, the cap lies at most half a sample outwards.
        volume = np.pad(volume, 1, constant_values=np.float32(min(low, 2 * level - high)))
        offset = 1
    # Most cells are not crossed, and going through them takes as long as all the rest.
    vertices, faces = _march(volume, _crossed(volume, level), level, degenerate=False)
    return (vertices - offset).astype(np.float32), faces.astype(np.int32)
