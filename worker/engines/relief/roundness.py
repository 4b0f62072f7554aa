"""Tell a can from a square box whose sides look alike: by the ends of its outlines, and by the light on its sides."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from worker.engines.relief.outline import Measured
from worker.engines.views import Mask

END = 0.1  # of the height: what starts within it belongs to that end of the outline
WIDE = 0.5  # of the body's width, from which on an end says something of the whole
INNER = 0.6  # of the end's half width, within which it is measured: a box that is turned a little has a corner beyond
ARCHED = (
    0.02,
    0.04,
)  # rise of an end, as part of its half width: a line below the first, an arc above the second
LEGS = 0.5  # of the greatest width: two legs are together narrower than that
UNDER = 3  # pixels, by which they are measured below what they carry
CORNER = (
    1.0,
    1.2,
)  # squared distance of legs from the middle, as part of the half widths: in a circle below the first
MIDDLE = (0.1, 0.9)  # of the height, between which light is measured
RIM = np.linspace(0.6, 0.93, 8)  # of the half width: where light falls off on a round side
DARKER = (0.012, 0.025)  # logarithm of that: a flat side below the first, a round one above the second
BLACK = 8  # added to the colours, 0..255: noise of dark print is no light


def arched_ends(outlines: Sequence[Measured]) -> float | None:
    """Decide how certain it is that the ends of a product with straight sides are round, 0..1.

    A camera is hardly ever level with both ends, so that it sees one of them at least as an arc if it is round, and as a line if it is
    not. None if the ends cannot be seen, as those of a table.
    """
    facing, beside = (
        [
            rise
            for outline in outlines
            if outline.role in roles and np.isfinite(rise := _greatest_rise(outline))
        ]
        for roles in (("front", "back"), ("left", "right"))
    )
    if not facing or not beside:
        return None
    return float(np.interp(min(np.mean(facing), np.mean(beside)), ARCHED, (0, 1)))


def _greatest_rise(outline: Measured) -> float:
    """Return that of the upper and the lower end, as `_rise` does. NaN if one of them is narrow."""
    wide = WIDE * float(outline.body.sum(axis=1).max())
    return float(np.maximum(_rise(outline.mask, wide), _rise(outline.mask[::-1], wide)))


def _rise(mask: Mask, wide: float) -> float:
    """Return how far the upper end of a mask rises in its middle, as part of its half width. NaN if the end is not `wide` pixels."""
    first = mask.argmax(axis=0)
    rows = np.flatnonzero(mask.any(axis=1))
    runs, _ = ndimage.label(mask.any(axis=0) & (first < rows[0] + END * len(rows)))
    columns = np.flatnonzero(runs == np.bincount(runs[runs > 0]).argmax())
    half = len(columns) / 2
    if 2 * half < wide:
        return np.nan
    across = (columns - columns.mean()) / half
    inner = np.abs(across) < INNER
    if inner.sum() < 3:  # through fewer points there are many arcs
        return np.nan
    return float(np.polyfit(across[inner], first[columns[inner]], 2)[0]) / half


def corner_legs(outlines: Sequence[Measured]) -> float:
    """Decide how certain it is that a product stands on legs at corners that a round seat or top would not have, 0..1."""
    facing, beside = (
        [
            away
            for outline in outlines
            if outline.role in roles and np.isfinite(away := _legs_away(outline.mask))
        ]
        for roles in (("front", "back"), ("left", "right"))
    )
    if not facing or not beside:
        return 0.0
    return float(np.interp(np.mean(facing) ** 2 + np.mean(beside) ** 2, CORNER, (0, 1)))


def _legs_away(mask: Mask) -> float:
    """Return how far two legs are from the middle of what they carry, as part of its half width. NaN if there are no two legs."""
    width = mask.sum(axis=1)
    wide = int(width.argmax())
    under = np.flatnonzero((width > 0) & (width < LEGS * width[wide]) & (np.arange(len(mask)) > wide))
    if not len(under):
        return np.nan
    row = min(int(under[0]) + UNDER, int(np.flatnonzero(width)[-1]))
    runs, count = ndimage.label(mask[row])
    if count != 2:
        return np.nan
    left, right = np.flatnonzero(mask[wide])[[0, -1]]
    legs = ndimage.mean(np.arange(mask.shape[1]), runs, (1, 2))
    return float(np.abs(np.subtract(legs, (left + right) / 2)).mean() / ((right - left) / 2))


def shaded_sides(outlines: Sequence[Measured]) -> float:
    """Decide how certain it is that light falls off towards both sides of a product, as it does on a round one, 0..1."""
    return float(np.interp(np.median([_darker(outline) for outline in outlines]), DARKER, (0, 1)))


def _darker(outline: Measured) -> float:
    """Return the logarithm of the light that is lost towards the sides. Where one side gains what the other one loses, it is 0."""
    rows = np.flatnonzero(outline.mask.any(axis=1))
    rows = rows[slice(*(int(part * len(rows)) for part in MIDDLE))]
    mask = outline.mask[rows]
    left, right = mask.argmax(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1)
    across = np.array([[-1], [1]]) * RIM
    columns = (left + right)[:, None, None] / 2 + (right - left)[:, None, None] / 2 * across
    light = np.log(outline.view[rows[:, None, None], columns.astype(np.intp), :3].mean(axis=3) + BLACK)
    outwards = (RIM - RIM.mean()) / RIM.var() / len(RIM) * np.ptp(RIM)
    # Print is in some rows only.
    return -float(np.median(light @ outwards, axis=0).mean())
