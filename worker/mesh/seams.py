"""Put the seams between photos where these show the same, by minimum cuts."""

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

Floats = NDArray[np.float32]
Places = NDArray[np.intp]

WORSE = 0.2  # cost of a cell whose best photo is twice as good as the one that it gets
WORST = 0.01  # of the best photo's score, below which a photo does not get worse
NEVER = 1000.0  # cost of a photo in a cell for which it cannot be taken
LENGTH = 0.04  # cost of a seam, per two cells, besides what the two photos differ in both
UNITS = 1000  # in a cost of 1: capacities are whole numbers

# One of each two opposite steps to a neighbour, diagonal ones too.
STEPS = np.array([step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)])


def cut(
    scores: Sequence[Floats],
    colors: Sequence[Floats],
    free: Sequence[NDArray[np.bool_]],
) -> NDArray[np.int8]:
    """(X, Y, Z) the photo that each cell is to show, -1 where none can be taken.

    Two costs are small together: that of cells, the more the better another photo shows them; and that of seams, the more the
    two photos differ there or one cell beside, since a seam between two prints that overlap would join them.

    Each photo takes cells from the others once, by a minimum cut; a second time would change next to nothing. This is the
    "expansion" of Boykov, Veksler and Zabih, "Fast approximate energy minimization via graph cuts", 2001, with the cost of
    seams of Kwatra et al., "Graphcut textures: image and video synthesis using graph cuts", 2003.

    Args:
        scores: (X, Y, Z) of each photo, how well it shows each cell. No cell at the border of the grid is free.
        colors: (3, X, Y, Z) what it shows there, sRGB in 0..1.
        free: (X, Y, Z) which cells it can be taken for.
    """
    shape = free[0].shape
    at = np.flatnonzero(np.logical_or.reduce(free))
    apart = _apart(colors, free, at)
    can = np.stack([there.ravel()[at] for there in free])
    score = np.stack([of.ravel()[at] for of in scores]) * can
    best = score.max(axis=0)
    loss = WORSE * (best / np.maximum(score, WORST * best + np.float32(1e-30)) - 1)
    loss[~can] = NEVER
    edges, lengths = _neighbours(at, shape)

    def seam(i: Places, j: Places) -> Floats:
        """(E,) cost of the edges if their ends get photos i and j."""
        cost = LENGTH + apart[i, j, edges[0]] + apart[i, j, edges[1]]
        return np.asarray(np.where(i == j, 0, cost) / lengths, np.float32)

    chosen = score.argmax(axis=0)
    for n in range(len(free)):
        first, second = chosen[edges]
        new = np.full_like(first, n)
        neither, only_first, only_second = seam(first, second), seam(new, second), seam(first, new)
        # An edge costs nothing if both its ends take the photo. All of its cost but the last part is that of one end alone.
        keep = loss[chosen, np.arange(len(at))]
        take = loss[n] + np.bincount(edges[0], only_first - neither, len(at))
        take -= np.bincount(edges[1], only_first, len(at))
        chosen[_cheaper(keep, take, edges, np.maximum(only_first + only_second - neither, 0))] = n
    photo = np.full(shape, -1, np.int8)
    photo.ravel()[at] = chosen
    return photo


def _cheaper(keep: Floats, take: Floats, edges: Places, parting: Floats) -> NDArray[np.bool_]:
    """(N,) which cells take a photo, at the least cost in all.

    Args:
        keep: (N,) cost of each cell that does not.
        take: (N,) cost of each cell that does.
        edges: (2, E) cells beside each other.
        parting: (E,) cost of an edge of which only the second end does.
    """
    count = len(keep)
    source, sink = count, count + 1
    cells, least = np.arange(count), np.minimum(keep, take)
    start = np.concatenate([np.full(count, source), cells, edges[0]])
    end = np.concatenate([cells, np.full(count, sink), edges[1]])
    capacity = np.rint(np.concatenate([take - least, keep - least, parting]) * UNITS).astype(np.int32)
    graph = coo_array((capacity, (start, end)), shape=(count + 2, count + 2)).tocsr()
    left = graph - maximum_flow(graph, source, sink).flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    # Of choices that cost the same, the one in which most cells keep what they have.
    takes = np.zeros(count + 2, bool)
    takes[breadth_first_order(left.T.tocsr(), sink, return_predecessors=False)] = True
    return takes[:count]


def _apart(colors: Sequence[Floats], free: Sequence[NDArray[np.bool_]], at: Places) -> Floats:
    """(n, n, N) by how much two photos differ in or beside cells, in the channel where they differ most."""
    apart = np.zeros((len(colors), len(colors), len(at)), np.float32)
    for i, j in combinations(range(len(colors)), 2):
        off = np.abs(colors[i] - colors[j]).max(axis=0) * (free[i] & free[j])
        apart[i, j] = apart[j, i] = ndimage.maximum_filter(off, 3).ravel()[at]
    return apart


def _neighbours(at: Places, shape: tuple[int, ...]) -> tuple[Places, Floats]:
    """(2, E) which of the cells lie beside each other, as places in `at`, and (E,) their distances, in cells."""
    place = np.full(shape, -1).ravel()
    place[at] = np.arange(len(at))
    edges, lengths = [], []
    for step in STEPS:
        other = place[at + int(step @ (shape[1] * shape[2], shape[2], 1))]
        edges.append(np.stack([np.arange(len(at)), other])[:, other >= 0])
        lengths.append(np.full(len(edges[-1][0]), np.linalg.norm(step), np.float32))
    return np.concatenate(edges, axis=1), np.concatenate(lengths)
