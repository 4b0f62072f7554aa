"""A grid around points of a mesh, to average over their surroundings in space, across the seams of a texture."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]

FEW = 50_000  # points, from which the surroundings of all are found


class Cells:
    """A grid of equal cells around P points."""

    def __init__(self, points: Floats, count: int, most: int = FEW, multiple: int = 1) -> None:
        """Take (P, 3) points, the number of cells along the longest side, and how many points to average at most.

        The number of cells along each axis is a multiple of `multiple`.
        """
        self.every = max(len(points) // most, 1)
        few = points[:: self.every]
        self.points, self.low = points, few.min(axis=0)
        side = few.max(axis=0) - self.low
        self.cell = np.float32(max(float(side.max()) / count, 1e-9))
        self.shape = tuple(int(np.ceil((n + 3) / multiple)) * multiple for n in side / self.cell)
        index = np.rint(self._place(few)).astype(np.intp)
        self.index = (index[0] * self.shape[1] + index[1]) * self.shape[2] + index[2]

    def _place(self, points: Floats) -> Floats:
        """(3, N) where points lie, in cells."""
        return np.ascontiguousarray(((points - self.low) / self.cell + np.float32(1)).T)

    def few(self, at: NDArray[np.intp]) -> NDArray[np.intp]:
        """(M,) the places in (N,) points of those from which surroundings are found."""
        return np.flatnonzero(at % self.every == 0)

    @cached_property
    def of_all(self) -> NDArray[np.int32]:
        """(P,) the cell of each point, as a place in a raveled grid."""
        x, y, z = (
            np.rint(of).clip(0, most - 1).astype(np.int32)
            for of, most in zip(self._place(self.points), self.shape, strict=True)
        )
        return np.asarray((x * self.shape[1] + y) * self.shape[2] + z)

    def middles(self, cells: NDArray[np.intp]) -> Floats:
        """(N, 3) the middles of cells, given as places in a raveled grid."""
        place = np.stack(np.unravel_index(cells, self.shape), axis=1).astype(np.float32)
        return np.asarray((place - np.float32(1)) * self.cell + self.low, np.float32)

    def mirrored(self, cells: NDArray[np.intp]) -> NDArray[np.bool_]:
        """(X, Y, Z) which cells lie where others do, given as places in a raveled grid, in a mirror at x = 0."""
        x, y, z = np.unravel_index(cells, self.shape)
        other = np.rint(2 - 2 * self.low[0] / self.cell - x).astype(np.intp)
        inside = (other >= 0) & (other < self.shape[0])
        there = np.zeros(self.shape, bool)
        there[other[inside], y[inside], z[inside]] = True
        return there

    def sums(self, at: NDArray[np.intp], values: Floats) -> Floats:
        """Add up (N,) values in each cell, of points that are multiples of `every`."""
        total = np.bincount(self.index[at // self.every], weights=values, minlength=int(np.prod(self.shape)))
        return total.astype(np.float32).reshape(self.shape)

    def lookup(self, grids: Sequence[Floats], at: NDArray[np.intp]) -> Floats:
        """(N, C) values of C grids at points, between the cells' middles."""
        return self.interpolate(grids, self.points.take(at, axis=0))

    def interpolate(self, grids: Sequence[Floats], points: Floats) -> Floats:
        """(N, C) values of C grids at any (N, 3) points."""
        place = self._place(points)
        found = [ndimage.map_coordinates(grid, place, order=1, mode="nearest") for grid in grids]
        return np.stack(found, axis=1).astype(np.float32)


def broad(grid: Floats) -> Floats:
    """(X, Y, Z) the grid without what is fine: the sums around each cell, near ones most."""
    return np.asarray(ndimage.gaussian_filter(grid, 1, truncate=3.0), np.float32)
