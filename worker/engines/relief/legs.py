"""Leave the far legs of a table or a chair out of an outline: a photo shows them higher than the near ones and closer together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.views import Mask, Outline

LEGS = 0.5  # of the greatest width: legs are together narrower than that
GAP = 0.02  # of the height, by which the far legs end above the near ones at least
EVEN = 2.0  # as a multiple of what the near legs' ends differ among themselves, the same
SLENDER = 1.3  # as a multiple of a near leg's width, which a far one has at most: it is farther away
APART = 0.25  # of the height of all legs, in which they are seen apart at least
BESIDE = (2, 4)  # pixels beside two legs that touch: what lies between these is a rung

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class _Leg:
    """A part of an outline under its seat."""

    edges: Floats  # (2, N) its left and its right end in each of the rows in which all legs are seen apart
    foot: int  # its last row

    @property
    def middle(self) -> float:
        return float(self.edges.mean())

    @property
    def width(self) -> float:
        return float((self.edges[1] - self.edges[0]).mean())


def without_far_legs(outlines: Sequence[Outline]) -> list[Outline]:
    """Return the outlines without the far legs, which stand behind the near ones: all legs are where the near ones are.

    Each outline is taken for one in parallel light from the side. So the legs of the front's photo and those of the side's would
    cross at sixteen places, and most of them would not reach the ground. A product of which one photo alone shows far legs may have
    a trunk or a tail there instead.
    """
    far = [_far_legs(outline.mask) for outline in outlines]
    showing = {
        outline.role in ("left", "right") for outline, of in zip(outlines, far, strict=True) if of.any()
    }
    if len(showing) < 2:
        return list(outlines)
    return [_without(outline, of) for outline, of in zip(outlines, far, strict=True)]


def _without(outline: Outline, part: Mask) -> Outline:
    view = outline.view.copy()
    view[part, 3] = 0
    return outline._replace(view=view, mask=outline.mask & ~part)


def _far_legs(mask: Mask) -> Mask:
    """Return the far legs, (S, S); none where it is not certain that there are some."""
    none = np.zeros_like(mask)
    width = mask.sum(axis=1)
    bands, _ = ndimage.label(width >= LEGS * width.max())
    change = np.asarray(np.diff(mask.astype(np.int8), axis=1, prepend=0, append=0), np.int8)
    # From the lowest band upwards: one that is thinner than a leg is a rung, and legs go on above it.
    for (band,) in reversed(ndimage.find_objects(bands)):
        rows, legs = _legs(mask, change, band.stop)
        if not legs:
            return none
        *far, one, other = legs
        if band.stop - band.start > one.width:
            break
    else:
        return none
    gap = one.foot - far[-1].foot
    first, last = sorted((one.middle, other.middle))
    certain = gap > max(GAP * np.count_nonzero(width), EVEN * (other.foot - one.foot)) and all(
        first < leg.middle < last and leg.width < SLENDER * max(one.width, other.width) for leg in far
    )
    if not certain:
        return none
    part = none
    for leg in far:
        near = min((one, other), key=lambda near: abs(near.middle - leg.middle))
        part = part | _pixels(leg, near, rows, band.stop, mask)
    return part


def _legs(mask: Mask, change: NDArray[np.int8], top: int) -> tuple[Rows, list[_Leg]]:
    """Return the rows from `top` on in which all legs are seen apart, and the legs, the shortest first; none if they are not three or four.

    `change`: (S, S + 1) 1 where a run of a row begins, -1 after its end.
    """
    runs = (change == 1).sum(axis=1)
    runs[:top] = 0
    # Legs that touch here and there are apart elsewhere.
    for count in (4, 3):
        rows = np.flatnonzero(runs == count)
        if len(rows) > max(APART * np.count_nonzero(runs), 2):
            ends = [np.nonzero(change[rows] == step)[1].reshape(len(rows), count).T for step in (1, -1)]
            edges = np.array(ends, np.float64).swapaxes(0, 1)
            return rows, sorted((_Leg(of, _foot(mask, rows, of)) for of in edges), key=lambda leg: leg.foot)
    return np.zeros(0, np.intp), []


def _foot(mask: Mask, rows: Rows, edges: Floats) -> int:
    """Return the last row of a leg, from its ends in rows in which it is seen apart."""
    below = np.arange(rows[-1], len(mask))
    left, right = (_along(rows, of, below) for of in edges)
    middle = np.rint((left + right - 1) / 2).clip(0, mask.shape[1] - 1).astype(np.intp)
    there = mask[below, middle]
    return int(below[-1] if there.all() else below[there.argmin()] - 1)


def _pixels(leg: _Leg, near: _Leg, rows: Rows, top: int, mask: Mask) -> Mask:
    """Return the pixels of a far leg, also where it touches the near one beside it; not those of a rung."""
    every = np.arange(top, leg.foot + 1)
    columns = np.arange(mask.shape[1])
    left, right, near_left, near_right = (
        np.rint(_along(rows, of, every))[:, None] for of in (*leg.edges, *near.edges)
    )
    first, last = np.minimum(left, near_left), np.maximum(right, near_right)
    away = np.maximum(first - columns, columns - last + 1)
    around = (away > BESIDE[0]) & (away <= BESIDE[1])
    crossed = (mask[every] & around).any(axis=1) & ~np.isin(every, rows)
    own = (columns >= left) & (columns < right) & ~((columns >= near_left) & (columns < near_right))
    part = np.zeros_like(mask)
    part[every] = mask[every] & own & ~crossed[:, None]
    return part


def _along(rows: Rows, end: Floats, others: Rows) -> Floats:
    """(M,) where the end of a leg is in other rows: linear between (N,) known rows and beyond them."""
    found, half = np.interp(others, rows, end), len(rows) // 2
    for beyond, last, known in (
        (others < rows[0], 0, slice(half + 1)),
        (others > rows[-1], -1, slice(half, None)),
    ):
        slope = np.polyfit(rows[known], end[known], 1)[0]
        found[beyond] = end[last] + slope * (others[beyond] - rows[last])
    return found
