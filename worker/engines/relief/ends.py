"""Give a product that stands or ends flat a flat end, though its photos show it at slightly different heights."""

import numpy as np
from numpy.typing import NDArray

FLAT = 0.5  # of the largest level section, which a flat end has at least
RAGGED = 0.02  # of the height, by which photos differ: what is left beyond a flat end within it is no part
# Of the greatest depth, squared, by which the last two sections are narrower.
EDGE = np.array([[0.02], [0.08]], np.float32)


def flatten_ends(volume: NDArray[np.float32]) -> None:
    """Cut off what sticks out by less than photos differ beyond the last wide section, above and below.

    A photo that was taken from above, or not quite level, shows a rim aslant, so that a crust remains where two photos agree by
    chance.

    Args:
        volume: (N, M, K) of the solid, changed in place.
    """
    areas = (volume > 0).sum(axis=0, dtype=np.int32).sum(axis=1)
    for way, area in ((volume, areas), (volume[:, ::-1], areas[::-1])):
        rows = np.flatnonzero(area)
        if not len(rows):
            return
        last = int(np.flatnonzero(area >= FLAT * area.max())[-1])
        if last < rows[-1] <= last + RAGGED * len(rows):
            end, most = way[:, last, None], float(way[:, last].max())
            way[:, last + 1 : rows[-1] + 1] = end - most
            # An edge that is sharp has no normal of its own, and is frayed from behind.
            way[:, last - 1 : last + 1] -= np.float32(most) * EDGE
