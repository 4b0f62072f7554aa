"""Islands of a surface → their places in one square texture, none over another."""

import numpy as np
from numpy.typing import NDArray

Sizes = NDArray[np.float64]  # (N, 2) width and height
STEPS = 14  # of the search for the largest scale; the last one is finer than a texel


def pack(sizes: Sizes, resolution: int, gap: int) -> tuple[float, NDArray[np.int64]]:
    """The scale at which all boxes fit, and (N, 2) the texel where each begins.

    In shelves: the tallest first, from left to right, row above row. Its time goes by the boxes alone, and two boxes are
    always `gap` texels apart, and half of that from the rim; where there are too many of them for that, half as many,
    and so on.
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
    """None where they do not fit."""
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
