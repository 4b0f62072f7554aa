"""Leave the far legs of a table or a chair out of an outline: a photo from above shows them higher and closer together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from worker.engines.relief.outline import Measured
from worker.engines.views import Mask

LEGS = 0.5  # of the greatest width: legs are together narrower than that
GAP = 0.02  # of the height, by which the far legs end above the near ones at least
EVEN = 2.0  # as a multiple of what the near legs' ends differ among themselves, the same
SLENDER = 1.3  # as a multiple of a near leg's width, which a far one has at most: it is farther away
LONG = 0.25  # of the longest leg, from which on it is one


@dataclass(frozen=True)
class _Leg:
    """A part of an outline under its seat: its label, rows and columns."""

    part: int
    top: int
    foot: int
    middle: float
    width: float

    @property
    def length(self) -> int:
        return self.foot - self.top


def without_far_legs(outlines: Sequence[Measured]) -> list[Measured]:
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


def _without(outline: Measured, part: Mask) -> Measured:
    view = outline.view.copy()
    view[part, 3] = 0
    return outline._replace(view=view, mask=outline.mask & ~part)


def _far_legs(mask: Mask) -> Mask:
    """Return the far legs, (S, S); none where it is not certain that there are some."""
    none = np.zeros_like(mask)
    width = mask.sum(axis=1)
    rows = np.flatnonzero(width)
    wide = np.flatnonzero(width >= LEGS * width.max())[-1]
    under = mask & (np.arange(len(mask))[:, None] > wide)
    parts, _ = ndimage.label(under)
    legs = []
    for part, box in enumerate(ndimage.find_objects(parts), start=1):
        inside = parts[box] == part
        top, foot = box[0].start, box[0].stop
        if top == wide + 1:
            middle = box[1].start + float(np.nonzero(inside)[1].mean())
            legs.append(_Leg(part, top, foot, middle, inside.sum() / (foot - top)))
    longest = max((leg.length for leg in legs), default=0)
    legs = sorted((leg for leg in legs if leg.length > LONG * longest), key=lambda leg: leg.foot)
    if len(legs) not in (3, 4):
        return none
    far, near = legs[:-2], legs[-2:]
    gap = near[0].foot - far[-1].foot
    first, last = sorted(leg.middle for leg in near)
    # A rung is thinner than what it joins, and legs go on above it.
    seat = wide - np.flatnonzero(width[:wide] < LEGS * width.max())[-1]
    certain = (
        seat > near[0].width
        and gap > max(GAP * len(rows), EVEN * (near[1].foot - near[0].foot))
        and all(
            first < leg.middle < last and leg.width < SLENDER * max(one.width for one in near) for leg in far
        )
    )
    return np.isin(parts, [leg.part for leg in far]) if certain else none
