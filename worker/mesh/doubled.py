"""Double the resolution of a grid."""

import numpy as np
from numpy.typing import NDArray


def doubled(grid: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return twice as many cells along an axis, linear between the middles of the old ones."""
    old = np.moveaxis(grid, axis, 0)
    wide = np.concatenate([old[:1], old, old[-1:]])
    new = np.empty((2 * len(old), *old.shape[1:]), np.float32)
    for start, beside in ((0, wide[:-2]), (1, wide[2:])):
        new[start::2] = np.float32(0.75) * old + np.float32(0.25) * beside
    return np.moveaxis(new, 0, axis)
