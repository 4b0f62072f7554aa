"""Place the islands of a surface in one square texture, so that none overlaps another."""

import numpy as np
from numpy.typing import NDArray

Sizes = NDArray[np.float64]  # (N, 2) width and height
STEPS = 14  # of the search for the largest scale; the last one is finer than a texel


def pack(sizes: Sizes, resolution: int, gap: int) -> tuple[float, NDArray[np.int64]]:
    """Pack boxes in shelves: the tallest first, from left to right, row above row.

    Time depends on the number of boxes alone.

    Args:
        sizes: (N, 2) width and height of each box, in any unit.
        resolution: texels a side of the texture.
        gap: texels between two boxes; half of it lies between a box and the texture's border. Where the boxes are too
            many for this gap, it is halved until they fit.

    Returns:
        Texels for one unit of the boxes, the largest scale at which all of them fit; and (N, 2) the texel where each box
        begins, x and y.

    Raises: ValueError if they do not fit even with one texel each.
    """
    order = np.argsort(-sizes[:, 1], kind="stable")
    low, high = 0.0, resolution / max(float(sizes.max(initial=0)), 1e-12)
    while (placed := _shelves(sizes * low, order, resolution, gap)) is None and gap:
        gap //= 2
    if placed is None:
        raise ValueError(f"{len(sizes)} islands have no room in {resolution} by {resolution} texels")
    best = low, placed
    for _ in range(STEPS):
        middle = (low + high) / 2
        tried = _shelves(sizes * middle, order, resolution, gap)
        if tried is None:
            high = middle
        else:
            low, best = middle, (middle, tried)
    return best


def _shelves(sizes: Sizes, order: NDArray[np.intp], resolution: int, gap: int) -> NDArray[np.int64] | None:
    """(N, 2) the texel where each box begins, or None where they do not fit."""
    wide, tall = (np.ceil(sizes).astype(np.int64) + max(gap, 1)).T.tolist()
    places = [(0, 0)] * len(wide)
    x = y = shelf = 0
    for index in order.tolist():
        if x + wide[index] > resolution:
            x, y, shelf = 0, y + shelf, 0
        shelf = max(shelf, tall[index])
        if y + tall[index] > resolution or wide[index] > resolution:
            return None
        places[index] = (x + gap // 2, y + gap // 2)
        x += wide[index]
    return np.array(places, np.int64).reshape(-1, 2)
