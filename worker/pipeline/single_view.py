"""Judge from one photo how well the shape of the product follows from its outline.

An engine that inflates an outline makes a pillow of a chest, a house or a car, but a banana or a vase looks right. The
outline of a boxy product has long straight sides, and its faces meet in straight edges. A large opening shows that the
product is far from being inflated: a ring that is seen at an angle, a chair, a basket. Edges that run along the outline are the
rim of something flat: a plate that is seen from above, a clock.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.measure import find_contours

from worker.engines.surface import View

# Lengths are in parts of the product's size, which is the square root of its area.
# Either of these alone makes a product boxy: straight edges inside, and the part of the outline in straight sides.
LINES, SIDES = 6.9, 0.65

STEP = 4.0  # ΔE a pixel of half the view's size; a softer edge is shading
RIM = 3  # pixels along the outline whose edges do not count
DIRECTIONS = 12  # into which the edges are sorted
SHORTEST, WIDEST = 10.0, 3.0  # pixels, of a straight edge
SIDE = (0.2, 0.5)  # length of a side of the outline; a longer one counts as a whole
FLAT = 0.012  # how far a straight side may bend
ALONG = 0.94  # cosine of the angle to the outline, up to which an edge runs along it

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def boxiness(view: View) -> float:
    """Return how boxy the product in a (S, S, 4) view is: 0 is round, and from 1 on boxes are more likely."""
    lab, alpha = _half(view)
    size = float(np.sqrt((alpha > 0.5).sum()))
    if not size:
        return 0.0
    return _straight_edges(lab, alpha > 0.5) / size / LINES + _straight_sides(alpha, size) / SIDES


def opening(view: View) -> float:
    """Return which part of the area inside the product's outline in a (S, S, 4) view is open, 0..1: 0.7 for a ring."""
    solid = view[..., 3] > 127
    filled = ndimage.binary_fill_holes(solid)
    return float((filled & ~solid).sum() / max(1, filled.sum()))


def rims(view: View) -> float:
    """Return the length of all edges inside the product in a (S, S, 4) view that run along its outline: 3.5 for a disc's rim."""
    lab, alpha = _half(view)
    filled = ndimage.binary_fill_holes(alpha > 0.5)
    if not filled.any():
        return 0.0
    inwards = ndimage.distance_transform_edt(filled)
    edge, direction = _edges(lab)
    down, across = np.gradient(ndimage.gaussian_filter(inwards, 1))
    along = np.abs(np.cos(direction - np.arctan2(down, across))) > ALONG
    return float((edge & along & (inwards > RIM + 1)).sum() / np.sqrt(filled.sum()))


def _half(view: View) -> tuple[Floats, Floats]:
    """Return the view at half its size: (S / 2, S / 2, 3) L*a*b* and (S / 2, S / 2) alpha in 0..1."""
    side = len(view) // 2
    alpha = view[..., 3:].astype(np.float32) / 255
    weighted = np.concatenate([view[..., :3] * alpha / 255, alpha], axis=2)
    blocks = weighted[: 2 * side, : 2 * side].reshape(side, 2, side, 2, 4).mean(axis=(1, 3))
    colors = blocks[..., :3] / np.maximum(blocks[..., 3:], 1e-6)
    return np.asarray(rgb2lab(colors), np.float32), blocks[..., 3]


def _straight_edges(lab: Floats, solid: Mask) -> float:
    """Return the length of all straight edges inside the product, in pixels."""
    edge, direction = _edges(lab)
    edge &= ndimage.binary_erosion(solid, iterations=RIM)
    total = 0.0
    for sector in range(DIRECTIONS):
        off = np.abs((direction - np.pi * sector / DIRECTIONS + np.pi / 2) % np.pi - np.pi / 2)
        # Sectors overlap, so that no line is cut where one ends.
        runs, count = ndimage.label(edge & (off < 0.9 * np.pi / DIRECTIONS), np.ones((3, 3)))
        length, width = _extents(runs, count)
        total += float(length[(length >= SHORTEST) & (width < WIDEST)].sum())
    return total / 1.8  # a line lies in 1.8 sectors on average


def _edges(lab: Floats) -> tuple[Mask, Floats]:
    """Find the pixels where the colour changes most across an edge. Return them and the direction of the change, in radians."""
    across, down = (
        np.stack([ndimage.gaussian_filter(lab[..., i], 1, order=order) for i in range(3)], axis=-1)
        for order in ((0, 1), (1, 0))
    )
    xx, yy, xy = (across**2).sum(axis=2), (down**2).sum(axis=2), (across * down).sum(axis=2)
    strength = np.sqrt(xx + yy)
    direction = np.arctan2(2 * xy, xx - yy) / 2
    # An edge is stronger than its neighbours on both sides: of the four pairs of neighbours, those across it.
    pair = np.rint(direction / (np.pi / 4)).astype(np.intp) % 4
    steps = ((0, 1), (1, 1), (1, 0), (1, -1))
    after, before = (
        np.choose(pair, [np.roll(strength, (sign * y, sign * x), axis=(0, 1)) for y, x in steps])
        for sign in (-1, 1)
    )
    return (strength > STEP) & (strength >= after) & (strength > before), direction


def _extents(runs: NDArray[np.int32], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the length and the width of each labelled run of pixels, those of the rectangle with the same moments."""
    rows, columns = np.nonzero(runs)
    of = runs[rows, columns]

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(of, values, count + 1)[1:] / np.bincount(of, minlength=count + 1)[1:]

    x, y = mean(columns.astype(np.float64)), mean(rows.astype(np.float64))
    dx, dy = columns - x[of - 1], rows - y[of - 1]
    xx, yy, xy = mean(dx * dx), mean(dy * dy), mean(dx * dy)
    middle, spread = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    return np.sqrt(12 * (middle + spread)), np.sqrt(12 * np.maximum(middle - spread, 0))


def _straight_sides(alpha: Floats, size: float) -> float:
    """Return which part of the product's outer outline is in long straight sides, 0..1."""
    # It imports scipy.signal: half a second that no child without a preview needs.
    from skimage.measure import approximate_polygon  # noqa: PLC0415

    outlines = find_contours(np.pad(alpha, 1), 0.5)  # type: ignore[no-untyped-call]  # has no types
    if not outlines:
        return 0.0
    corners = approximate_polygon(max(outlines, key=len), FLAT * size)  # type: ignore[no-untyped-call]
    sides = np.hypot(*np.diff(corners, axis=0).T)
    short, long = SIDE
    return float((sides * np.clip((sides / size - short) / (long - short), 0, 1)).sum() / sides.sum())
