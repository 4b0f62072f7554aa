"""Keep samples of a cubic grid in blocks, only where they were asked for."""

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]
Values = NDArray[np.float32]

SIDE = 16  # samples along a block's edge: a surface fills some 6 % of such a block
SHIFT = (
    22,
    11,
    0,
)  # bits by which x, y and z are shifted in a key: sorted keys are in the grid's order, x outermost
LIMIT = 1 << 11  # samples an axis that a key can tell apart
OUTSIDE = -1e30  # the value around the volume; even its cube fits in a double

SEEN, CROSSED = 1, 2  # flags of a cell: visited; holds a part of the surface

_BLOCK, _LOCAL = 4, 7  # bits of a coordinate inside a block; of a block's coordinate
_CUBE = SIDE**3


def keys_of(points: NDArray[np.integer]) -> Keys:
    """Pack (..., 3) coordinates, each 0 to `LIMIT` - 1, into (...) keys; a step along an axis adds `1 << SHIFT[axis]`."""
    x, y, z = np.moveaxis(points.astype(np.int64), -1, 0)
    return np.asarray((x << SHIFT[0]) | (y << SHIFT[1]) | z)


def points_of(keys: Keys) -> Keys:
    """Unpack (N,) keys into (N, 3) coordinates."""
    return np.stack([(keys >> shift) & (LIMIT - 1) for shift in SHIFT], axis=1)


def distinct(keys: Keys) -> Keys:
    """Return each of (N,) keys once, ascending. Sorting is several times as fast here as the hashing of `numpy.unique`."""
    ordered = np.sort(keys)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


class Samples:
    """Float32 samples of a cubic grid, and a flag for the cell above each sample.

    The grid's outermost layer, and everything beyond it, is `OUTSIDE` from the start. Other samples are NaN until they are
    written. Memory: 20 kB for every block of 16³ samples that was addressed, and 8 MB for the table of blocks.
    """

    def __init__(self, points: int) -> None:
        """Take the number of samples an axis, at most `LIMIT`."""
        self.points = points
        self.count = 0
        self.table = np.full(1 << (3 * _LOCAL), -1, np.int32)  # block → row of `values`, -1 for none
        self.values = np.empty((64, _CUBE), np.float32)
        self.flags = np.zeros((64, _CUBE), np.uint8)

    def address(self, keys: Keys) -> Keys:
        """Return where the samples of `keys`, any shape, are in `values.ravel()` and `flags.ravel()`, until the next call."""
        block = (
            ((keys >> (SHIFT[0] + _BLOCK)) << (2 * _LOCAL))
            | (((keys >> (SHIFT[1] + _BLOCK)) & (2**_LOCAL - 1)) << _LOCAL)
            | ((keys >> _BLOCK) & (2**_LOCAL - 1))
        )
        row = self.table[block]
        missing = row < 0
        if missing.any():
            self._add(distinct(block[missing]))
            row = self.table[block]
        low = SIDE - 1
        local = (
            (((keys >> SHIFT[0]) & low) << (2 * _BLOCK))
            | (((keys >> SHIFT[1]) & low) << _BLOCK)
            | (keys & low)
        )
        return np.asarray(row * np.int64(_CUBE) + local)

    def _add(self, blocks: Keys) -> None:
        first, self.count = self.count, self.count + len(blocks)
        if self.count > len(self.values):
            room = max(self.count, len(self.values) * 3 // 2)
            self.values = np.concatenate([self.values[:first], np.empty((room - first, _CUBE), np.float32)])
            self.flags = np.concatenate([self.flags[:first], np.zeros((room - first, _CUBE), np.uint8)])
        self.table[blocks] = np.arange(first, self.count, dtype=np.int32)
        self.values[first : self.count] = np.nan
        position = [((blocks >> (axis * _LOCAL)) & (2**_LOCAL - 1)) * SIDE for axis in (2, 1, 0)]
        for axis, start in enumerate(position):
            for layer in range(SIDE):
                beyond = (start + layer == 0) | (start + layer >= self.points - 1)
                rows = first + np.flatnonzero(beyond)
                if len(rows):
                    cubes = self.values.reshape(-1, SIDE, SIDE, SIDE)
                    cubes[(rows, *(layer if axis == other else slice(None) for other in range(3)))] = OUTSIDE

    def layers(self) -> NDArray[np.integer]:
        """Return the layers of blocks along the first axis that hold crossed cells, ascending."""
        crossed = (self.flags[: self.count] == CROSSED).any(axis=1)
        return np.flatnonzero(self._rows_to_table(crossed).any(axis=(1, 2)))

    def _rows_to_table(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        grid = (self.table >= 0) & np.append(rows, False)[self.table]
        return np.asarray(grid.reshape((2**_LOCAL,) * 3))

    def slab(self, layer: int) -> tuple[Values, NDArray[np.bool_], tuple[int, int, int]]:
        """Return one layer of blocks along the first axis, with one more sample before and after it, cut to what is crossed.

        Returns:
            (18, Y, Z) samples, NaN where unknown; (17, Y - 1, Z - 1) True for the cells between them that are crossed,
            where the first layer belongs to the slab before; the coordinates of the first sample.
        """
        side = 2**_LOCAL
        table = self.table.reshape(side, side, side)
        near = [
            table[index] if 0 <= index < side else np.full_like(table[0], -1)
            for index in (layer - 1, layer, layer + 1)
        ]
        used = np.argwhere((near[0] >= 0) | (near[1] >= 0))
        low, high = used.min(axis=0), np.minimum(used.max(axis=0) + 2, side)
        shape = (SIDE + 2, int(high[0] - low[0]), SIDE, int(high[1] - low[1]), SIDE)
        values = np.full(shape, np.nan, np.float32)
        crossed = np.zeros(shape, np.bool_)
        # The last layer of the block before, all of this one, the first layer of the one after.
        parts = (
            (near[0], 0, slice(SIDE - 1, None)),
            (near[1], 1, slice(None)),
            (near[2], SIDE + 1, slice(1)),
        )
        for rows, start, take in parts:
            y, z = np.nonzero(rows[low[0] : high[0], low[1] : high[1]] >= 0)
            row = rows[y + low[0], z + low[1]]
            cube = self.values.reshape(-1, SIDE, SIDE, SIDE)[row, take]
            flag = self.flags.reshape(-1, SIDE, SIDE, SIDE)[row, take] == CROSSED
            values[start : start + cube.shape[1], y, :, z, :] = cube
            crossed[start : start + cube.shape[1], y, :, z, :] = flag
        width = (SIDE + 2, shape[1] * SIDE, shape[3] * SIDE)
        values, crossed = values.reshape(width), crossed.reshape(width)[:-1]
        (y0, y1), (z0, z1) = (_extent(crossed, axes) for axes in ((0, 2), (0, 1)))
        origin = (layer * SIDE - 1, int(low[0]) * SIDE + y0, int(low[1]) * SIDE + z0)
        return values[:, y0 : y1 + 1, z0 : z1 + 1], crossed[:, y0:y1, z0:z1], origin


def _extent(mask: NDArray[np.bool_], axes: tuple[int, int]) -> tuple[int, int]:
    """Return the first and one past the last true index along the axis that is not in `axes`."""
    used = np.flatnonzero(mask.any(axis=axes))
    return int(used[0]), int(used[-1]) + 1
