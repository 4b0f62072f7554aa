"""Infer what goes over the top of a product, which no photo shows, from what all of them show beside their upper outlines."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.engines.relief.outline import FloatMap, Measured
from worker.engines.relief.solid import Solid
from worker.engines.surface import View
from worker.mesh.camera import Camera

SIZE = 256  # pixels of the picture's side
TOP = 0.12  # of the height: what is lower is no top
RIM = 4  # pixels below the upper outline, whose median is its colour
LEVEL = 1  # pixels below the highest one, to which the outline is as high
SAME = 0.12  # mean difference between colours that are the same; 1 is black to white
OTHER = 0.25  # the same, between others


class _Rim(NamedTuple):
    """The top of a photo's outline, from column to column."""

    place: FloatMap  # (N,) ascending, of the columns along the axis of the solid that runs across the photo
    color: FloatMap  # (N, 3) sRGB in 0..1
    highest: NDArray[np.bool_]  # (N,)


def above(
    outlines: Sequence[Measured], inferred: Sequence[Measured], solid: Solid
) -> tuple[View, Camera] | None:
    """Return a picture of the product's top from above, and its camera, if the photos tell what goes over it.

    A band from side to side shows in the front at the upper outline, all along it, and in the side where it is. A stripe
    from front to back is the same turned. None if both or neither explain what the photos show.

    Args:
        outlines: of the photos.
        inferred: likely pictures of sides that no photo shows.
        solid: the product's.
    """
    ahead, aside = (
        [_rim(o) for o in outlines if (o.role in ("front", "back")) == front] for front in (True, False)
    )
    if not ahead or not aside:
        return None
    bands, stripes = _predicts(aside, ahead), _predicts(ahead, aside)
    if min(bands, stripes) > SAME or max(bands, stripes) < OTHER:
        return None
    # How high each column of the grid reaches. No part of the product touches the grid's ends.
    inside = solid.volume > 0
    high = np.where(inside.any(axis=1), inside.shape[1] - inside[:, ::-1].argmax(axis=1), 0)  # (X, Z)
    rows = np.flatnonzero(inside.any(axis=(0, 2)))
    top = high > rows[-1] + 1 - TOP * (rows[-1] - rows[0])
    low, extent = solid.origin, np.array(solid.volume.shape) * solid.cell
    side = float(extent[[0, 2]].max())
    center = low + (extent - solid.cell) / 2
    place = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE * side - side / 2
    x, z = place + center[0], place + center[2]
    column, row = (
        np.rint((at - low[axis]) / solid.cell).astype(np.intp).clip(0, inside.shape[axis] - 1)
        for axis, at in ((0, x), (2, z))
    )
    view = np.zeros((SIZE, SIZE, 4), np.uint8)
    view[..., 3] = 255 * top[column][:, row].T
    if bands < stripes:
        likely = [*aside, *(_rim(o) for o in inferred)]
        color = np.mean([_at(rim, z) for rim in likely], axis=0)[:, None]
    else:
        color = np.mean([_at(rim, x) for rim in ahead], axis=0)[None]
    view[..., :3] = np.rint(255 * np.broadcast_to(color, (SIZE, SIZE, 3)))
    x0, y0, z0 = center.tolist()
    return view, Camera(center=(x0, y0, z0), side=side, elevation=90.0)


def _rim(outline: Measured) -> _Rim:
    """Return the top of an outline."""
    mask, color = outline.mask, outline.colors
    column = np.flatnonzero(mask.any(axis=0))
    first = mask[:, column].argmax(axis=0)
    rows = np.flatnonzero(mask.any(axis=1))
    kept = first <= rows[0] + TOP * (rows[-1] - rows[0])
    column, first = column[kept], first[kept]
    shown = np.stack([color[np.minimum(first + below, len(color) - 1), column] for below in range(RIM)])
    right = outline.camera.rotation[0].round()
    axis = int(np.abs(right).argmax())
    from_middle = ((column + 0.5) / len(mask) - 0.5) * outline.camera.side
    along = from_middle * right[axis] + outline.camera.center[axis]
    order = np.argsort(along)
    highest = first <= first.min() + LEVEL
    return _Rim(along[order].astype(np.float32), np.median(shown, axis=0)[order], highest[order])


def _predicts(along: Sequence[_Rim], across: Sequence[_Rim]) -> float:
    """Return the difference of what photos show at their tops from what others show where they are highest: it goes all across."""
    off = [
        np.abs(rim.color - np.median(other.color[other.highest], axis=0)).max(axis=1).mean()
        for rim in across
        for other in along
    ]
    return float(max(off))


def _at(rim: _Rim, place: FloatMap) -> FloatMap:
    """(N, 3) the colours at (N,) places."""
    return np.stack([np.interp(place, rim.place, of) for of in rim.color.T], axis=1).astype(np.float32)
