"""Decide how round a product is, from the outlines of its photos, and from their colours where two show the same."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.relief.outline import FloatMap, Measured, even_part, straightness
from worker.engines.relief.roundness import arched_ends, corner_legs, shaded_sides
from worker.engines.surface import AZIMUTHS

FULL = 0.7  # exponent of a section that is neither a circle nor a rectangle
UNLIKE = (0.03, 0.08)  # difference of front and side: a turned product below the first, none above the second
UNLIKE_ROW = (
    0.03,
    0.15,
)  # the same of a row, as part of the greatest width: a circle below the first, no circle above the second
STEP = (0.2, 0.4)  # the same of two heights close to each other: no rim below the first, one above the second
RISE = 6  # hundredths of the height, by which one photo may show a rim higher than the other one
BOXY = (0.42, 0.54)  # straightness of the outlines: no box below the first, a box above the second
ENDS = (0.04, 0.96)  # of the height, between which colours are compared
LEVELS = 64  # heights at which colours are compared
ANGLES = np.radians(
    np.arange(15, 76, 2)
)  # around the product, from what the one photo faces to what the other one faces
TURNED, SHIFTED = (
    (-4, -2, 0, 2, 4),
    (-2, 0, 2),
)  # angles and heights by which a photo may be off, as cameras are
LEAST_EDGE = 0.97  # of the half width, beyond which the background shines through
EXPOSURE = 1.25  # by which photos may differ
APART = (
    0.15,
    0.22,
)  # difference between their colours, 0..1: a product may be turned below the first, and is not above the second
TELLING = 0.05  # difference between the colours of one photo and those of the other in reverse, from which on they tell anything
SAME = (
    0.5,
    0.65,
)  # the difference as they are, as part of that in reverse: an ellipse below the first, no sign of one above the second


Floats = NDArray[np.float64]


class Section(NamedTuple):
    """The shape of a level section between its four extremes."""

    exponents: Floats  # at 100 heights, upwards; 1 is an ellipse, less is fuller
    box: float  # part of the rectangle in it, 0..1


def section_of(outlines: Sequence[Measured]) -> Section:
    """Decide how round the product is, from the outlines of its front and of its side, and from the colours of all.

    A product that is as wide as it is deep at each height has been turned: its sections are circles. Outlines of upright
    and level lines are those of a box. Of all else, a part that is as wide as it is deep, such as a head, is round, and the
    rest a little fuller than an ellipse.

    Where outlines are straight, their ends decide, which are arcs or lines. So do the light, and the colours: what two photos would
    both show of an elliptical section is the same print, or it is not one.
    """
    front = outlines[0]
    side = next(outline for outline in outlines if outline.role in ("left", "right"))
    widths = [_widths(outline) for outline in (front, side)]
    unlike = float(np.abs(widths[0] - widths[1]).sum() / np.maximum(*widths).sum())
    straight = _rise(min(straightness(front.mask), straightness(side.mask)), *BOXY)
    turned = 1 - _rise(unlike, *UNLIKE)
    circle = np.maximum(turned, _circles(*widths))
    if straight:
        other, same = _colors_around(outlines)
        arched = arched_ends(outlines)
        round_ = 1 - other
        if arched is None:
            # Most things that look alike from the front and from the side are round.
            arched, round_ = 0.0, round_ * (1 - corner_legs(outlines))
        else:
            round_ = max(arched, round_ * shaded_sides(outlines))
        turned = max(turned * round_, same)
        circle = np.maximum(circle * (1 - straight * (1 - round_)), same)
        straight *= 1 - arched
    # The rows of a photo run downwards.
    return Section(FULL + (1 - FULL) * circle[::-1], straight * (1 - turned))


def _circles(front: Floats, side: Floats) -> Floats:
    """Decide for each height how certain it is that the product is as wide as it is deep there, 0..1."""
    heights, most = np.arange(len(front)), max(front.max(), side.max())

    def at(widths: Floats, up: int) -> Floats:
        return np.interp(heights + up, heights, widths)

    def apart(up: int) -> Floats:
        return np.asarray(ndimage.gaussian_filter1d(np.abs(front - at(side, up)), 2) / most)

    same = 1 - np.interp(apart(0), UNLIKE_ROW, (0, 1))
    # Seen from a little above, what is near is lower. So a rim may be at other heights, close to which the widths are the same.
    least = np.min([apart(up) for up in range(-RISE, RISE + 1, 2)], axis=0)
    shifted = 1 - np.interp(least, UNLIKE_ROW, (0, 1))
    steps = [np.abs(at(widths, 2) - at(widths, -2)) / most for widths in (front, side)]
    signs = [same, *(np.interp(step, STEP, (0, 1)) for step in steps)]
    near = np.min([ndimage.maximum_filter1d(sign, 2 * RISE + 1) for sign in signs], axis=0)
    return np.asarray(np.maximum(same, np.minimum(shifted, near)))


def _colors_around(outlines: Sequence[Measured]) -> tuple[float, float]:
    """Tell from what two photos would both show of an elliptical section, seen at an angle, whether it is one.

    Returns:
        How certain it is that they show different things, 0..1, and how certain that they show the same print.
    """
    around = sorted(outlines, key=lambda outline: AZIMUTHS[outline.role])
    pairs = [
        (one, other)
        for one, other in pairwise([*around, around[0]])
        if (AZIMUTHS[other.role] - AZIMUTHS[one.role]) % 360 == 90
    ]
    found = [_compared(_turning(one, 1), _turning(other, -1)[:, ::-1]) for one, other in pairs]
    apart, reverse = np.array([pair for pair in found if np.isfinite(pair).all()]).reshape(-1, 2).T
    if not len(apart):
        return 0.0, 0.0
    same = float(apart.sum() / max(float(reverse.sum()), 1e-9))
    tells = float(reverse.mean()) > TELLING
    return _rise(float(apart.max()), *APART), (1 - _rise(same, *SAME)) * tells


def _turning(outline: Measured, sign: int) -> FloatMap:
    """(LEVELS, ANGLES, 3) the colours of an elliptical section, from what the photo faces to its right (1) or left (-1).

    NaN at heights that the body crosses more than once.
    """
    mask = outline.body
    rows = np.flatnonzero(mask.any(axis=1))
    rows = rows[(np.linspace(*ENDS, LEVELS) * (len(rows) - 1)).astype(np.intp)]
    mask = mask[rows]
    left, right = mask.argmax(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1)
    half = LEAST_EDGE * (right - left) / 2
    at = (left + right)[:, None] / 2 + sign * half[:, None] * np.sin(ANGLES)
    color = ndimage.gaussian_filter(
        outline.view[rows[:, None], at.astype(np.intp), :3] / np.float32(255), (1, 1, 0)
    )
    color[mask.sum(axis=1) < right - left] = np.nan
    return np.asarray(color, np.float32)


def _compared(one: FloatMap, other: FloatMap) -> tuple[float, float]:
    """Return the mean difference of two strips, (LEVELS, ANGLES, 3), where they fit best, and that with the other one in reverse.

    NaN if they cannot be compared.
    """
    known = np.isfinite(one + other).all(axis=(1, 2))
    if known.sum() < len(known) / 4:
        return np.nan, np.nan
    one, other = one[known], other[known]
    gain = np.median(one, axis=(0, 1)) / np.maximum(np.median(other, axis=(0, 1)), 1e-3)
    other = other * np.clip(gain, 1 / EXPOSURE, EXPOSURE)
    high, wide = one.shape[:2]

    def apart(other: FloatMap) -> float:
        return min(
            float(
                np.abs(one[_part(up, high), _part(turn, wide)] - other[_part(-up, high), _part(-turn, wide)])
                .max(axis=-1)
                .mean()
            )
            for turn in TURNED
            for up in SHIFTED
        )

    return apart(other), apart(other[:, ::-1])


def _part(shift: int, count: int) -> slice:
    """Return what is left of `count` samples if they are shifted against others."""
    return slice(max(shift, 0), count + min(shift, 0))


def _widths(outline: Measured) -> Floats:
    """Return the width of the product's body at 100 heights, in the common unit."""
    whole = np.flatnonzero(outline.mask.any(axis=1))
    wide = even_part(outline.body)[whole[0] : whole[-1] + 1].sum(axis=1) * outline.unit
    return np.asarray(np.interp(np.linspace(0, 1, 100), np.linspace(0, 1, len(wide)), wide))


def _rise(value: float, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, linear between."""
    return min(max((value - low) / (high - low), 0.0), 1.0)
