"""Build solids on a grid: positive inside, negative outside, zero on the surface."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.relief.arm import add_arm
from worker.engines.relief.ends import flatten_ends
from worker.engines.relief.inflate import DEPTH, continue_outwards, inflate
from worker.engines.relief.lathe import turned
from worker.engines.relief.nearer import Nearer, nearer
from worker.engines.relief.outline import (
    FloatMap,
    Measured,
    inner_distance,
    longer_side,
    thicken,
)
from worker.engines.relief.section import RISE, UNLIKE_ROW, Section
from worker.engines.relief.share import Height, Share, share_of
from worker.engines.relief.thin import add_thin, one_thin

MARGIN = 2  # samples around the product
THICK = 0.9  # cells on each side of a part's spine, where two outlines are joined
ROUND = 0.8  # exponent below which nothing is taken for a circle
ROWS = 256  # heights at which the area of a solid's surface is estimated
LOST = 4.0  # samples by which a lost part sticks out at least
FLAT = (
    1.3,
    1.8,
)  # ratio of two widths: a section below the first, a rim that one photo shows above the second
NEEDED = 0.2  # of the outline of a piece in the air, from which on a photo needs it
STRIP = 2.0  # width of a lost part as a multiple of its reach, from which on it is but a strip
STEP = 0.6  # pixels by which an edge lies off the border of its last pixel at most
THIN = 2.5  # pixels, half of the depth near an edge: below it, a part is thin
INNER = 0.25  # pixels by which it lies outside of that border on average: a mask of half of the resolution is narrow
WALL = 2.0  # samples, over which a part in front passes to a wider one behind
LEAST = 2.2  # pixels on each side of a part's spine


class Solid(NamedTuple):
    """A field on a grid in the axes of the front photo."""

    origin: NDArray[np.float32]  # (3,) where the first sample is
    cell: float  # from sample to sample
    volume: NDArray[np.float32]  # (X, Y, Z) samples, positive inside


def inflated(outlines: Sequence[Measured], radius: float) -> list[Height]:
    """Inflate outlines, with their thin parts widened to `radius` in the common unit, so that the grid can resolve them."""
    masks = [thicken(outline.mask, outline.inner, max(radius / outline.unit, LEAST)) for outline in outlines]
    inner = [
        outline.inner if mask is outline.mask else inner_distance(mask)
        for outline, mask in zip(outlines, masks, strict=True)
    ]
    squared = inflate(masks, inner, [DEPTH * longer_side(mask) for mask in masks])
    return [
        Height(outline, mask, its, square * np.float32(outline.unit**2))
        for outline, mask, its, square in zip(outlines, masks, inner, squared, strict=True)
    ]


def pillow(front: Measured, samples: int) -> tuple[Solid, Height]:
    """Inflate the front: as deep in front of the plane of the photo as behind it.

    Args:
        front: its outline.
        samples: of the grid along its longest axis.

    Returns:
        The solid, and the inflated outline that it was made of.
    """
    samples -= 1 + 2 * MARGIN
    cell = longer_side(front.mask) * front.unit / samples
    (height,) = inflated([front], cell)
    round_ = turned(height.mask)
    if round_ is not None:
        height = height._replace(squared=_rounded(height, round_))
    (left, bottom), (right, top) = _extent(height)
    x, y = _samples(left, right, cell), _samples(bottom, top, cell)
    layers = int(np.ceil(np.sqrt(height.squared.max()) / cell)) + MARGIN
    z = np.arange(-layers, layers + 1, dtype=np.float32) * np.float32(cell)
    solid = Solid(np.array([x[0], y[0], z[0]], np.float32), cell, height.at(x, y)[:, :, None] - z**2)
    return solid, height


def between_pixels(height: Height) -> Height:
    """Move the rim of an inflated outline to where the photo's transparency has it, between pixels.

    An edge that leans a little would have a step wherever it passes to the next pixel.
    """
    view, mask, squared = height.outline.view, height.mask, height.squared
    off = view[..., 3] / np.float32(255) - height.outline.mask
    # Summed up across the edge, this is how far it is from the border of the last pixel.
    off = ndimage.gaussian_filter(off, 1) * np.float32(np.sqrt(2 * np.pi)) - np.float32(INNER)
    off = np.clip(off, -STEP, STEP)
    # Of a thin part, which may have been widened, nothing is taken: it might break.
    off[ndimage.maximum_filter(squared, 7) < (THIN * height.outline.unit) ** 2] = 0
    off[ndimage.binary_dilation(mask != height.outline.mask, iterations=3)] = 0
    return height._replace(squared=squared + np.hypot(*np.gradient(squared)) * off)


def _rounded(height: Height, body_height: FloatMap) -> FloatMap:
    """Return the inflated outline with a turned body, (S, S) in the common unit; handles and spouts stay as they are."""
    unit = np.float32(height.outline.unit**2)
    own = np.where(height.mask, np.maximum(height.squared / unit, 1), 0)
    thin = (height.mask & (body_height <= 0)).astype(np.float32)
    both = np.where(thin > 0, own, np.where(height.mask, np.maximum(body_height, 1), 0)).astype(np.float32)
    return continue_outwards(both, height.mask, height.inner) * unit


def sided(outlines: Sequence[Measured], samples: int, faces: int, section: Section) -> Solid:
    """Join outlines from the front and from a side; the back and the other side may be there too.

    Seen from the front or from the side, the solid has the outline of that photo. At each height its section is
    f(x) + s(z) = 1 with f = (1 - x²/a²)^e and s = (1 - z²/b²)^e, where a and b are the half widths of the two outlines there: an
    ellipse for e = 1, and fuller for less. In general 1 - x²/a² is the inflated outline's squared half depth, as a share of the
    greatest at that height. So two legs in both photos make four, and a tail is about as wide as it is high. For a box the
    section is the rectangle in which f and s are positive, the hull of the outlines.

    Args:
        outlines: the front first.
        samples: of the grid along its longest axis, at most.
        faces: of the solid's surface, about, at most: where it has more, the grid is coarser.
        section: of the solid.
    """
    samples -= 1 + 2 * MARGIN
    facing = [outline for outline in outlines if outline.role in ("front", "back")]
    beside = [outline for outline in outlines if outline.role in ("left", "right")]
    finest = max(longer_side(outline.mask) * outline.unit for outline in outlines) / samples
    pixel = max(outline.unit for outline in outlines)  # finer cells would show nothing more
    # Where the surface goes through the side of a cell, it has two faces.
    cell = max(finest, pixel, (2 * _area(facing[0], beside[0]) / faces) ** 0.5)
    narrower = nearer(facing, beside[0])
    whole = inflated([*outlines, *(part.outline for part in narrower)], THICK * cell)
    heights = {height.outline.role: between_pixels(height) for height in whole[: len(outlines)]}
    extents = {role: _extent(height) for role, height in heights.items()}
    y = _samples(
        min(low[1] for low, _ in extents.values()), max(high[1] for _, high in extents.values()), cell
    )

    def spread(group: Sequence[Measured]) -> NDArray[np.float32]:
        low = min(extents[outline.role][0][0] for outline in group)
        high = max(extents[outline.role][1][0] for outline in group)
        return _samples(low, high, cell)

    x, z = spread(facing), spread(beside)
    heights_of = np.linspace(y[0] + MARGIN * cell, y[-1] - MARGIN * cell, len(section.exponents))
    exponent = np.interp(y, heights_of, section.exponents)
    front = one_thin([share_of(heights[outline.role], x, y, cell, exponent) for outline in facing])
    side = one_thin([share_of(heights[outline.role], z, y, cell, exponent) for outline in beside])
    # A circle needs all photos: under a seat, one may show its rim where another one shows legs.
    circle = np.minimum.reduce([share.once for share in front + side])
    circle *= np.clip((exponent - ROUND) / (1 - ROUND), 0, 1).astype(np.float32)
    # Over x, y and z.
    rim = _rim(front, side)
    f = _between([share.rounded(x, circle, *rim)[:, :, None] for share in front], z)
    for part, height in zip(narrower, whole[len(outlines) :], strict=True):
        share = share_of(between_pixels(height), x, y, cell, exponent)
        own = share.rounded(x, np.minimum(circle, share.once), *rim)
        f = _narrowed(f, own, part, y, z)
    s = _between([share.rounded(z, circle, *rim).T[None] for share in side], x[:, None, None])
    least = np.minimum(f, s) if section.box else None
    volume = np.add(f, s, out=f) if f.shape[2] > 1 else f + s
    volume -= 1
    if least is not None:
        # In the hull, rungs that both photos show would be a plate.
        rungs = np.minimum(*(np.maximum.reduce([share.bridge for share in group]) for group in (front, side)))
        box = np.float32(section.box) * (1 - rungs)[:, None]
        volume *= 1 - box
        least *= box
        volume += least
    top = np.minimum(*(np.mean([share.top for share in group], axis=0) for group in (front, side)))
    volume *= top[None, :, None]
    front[0], side[0] = add_arm(volume, front[0], side[0], x, z)
    add_thin(volume, front[0], side[0], z)
    add_thin(volume.transpose(2, 1, 0), side[0], front[0], x)
    add_lost(volume, front[0], z)
    add_lost(volume.transpose(2, 1, 0), side[0], x)
    remove_ghosts(volume)
    flatten_ends(volume)
    return Solid(np.array([x[0], y[0], z[0]], np.float32), cell, np.ascontiguousarray(volume, np.float32))


def _narrowed(
    f: NDArray[np.float32],
    own: NDArray[np.float32],
    part: Nearer,
    y: NDArray[np.float32],
    z: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Give what is nearest to a camera its own share, (N, M), as far as it reaches."""
    camera, size = part.outline.camera, len(part.end)
    row = np.rint((0.5 - (y - camera.center[1]) / camera.side) * size - 0.5).clip(0, size - 1).astype(np.intp)
    end = part.end[row]
    rows = np.flatnonzero(np.isfinite(end))
    step = np.float32(camera.rotation[2, 2] / (WALL * (z[1] - z[0])))
    weight = np.clip((z - end[rows, None]) * step, 0, 1)
    f = np.repeat(f, len(z), axis=2) if f.shape[2] == 1 else f
    f[:, rows] += weight * (own[:, rows, None] - f[:, rows])
    return f


def _rim(front: Sequence[Share], side: Sequence[Share]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return where one photo shows a rim that another one shows at other heights, (M,) 0..1, and the (M,) half width there.

    A photo from farther above shows a rim higher. Between the two heights the lesser width holds.
    """
    halves = [np.mean([share.half for share in group], axis=0) for group in (front, side)]
    least, most = np.minimum(*halves), np.maximum(*halves)
    heights = np.arange(len(least))
    reach = len(heights) * RISE // 100

    def apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return by how much the widths differ if one of them is shifted so that they differ least."""
        shifts = heights + np.arange(-reach, reach + 1)[:, None]
        return np.asarray(np.abs(one[shifts.clip(0, heights[-1])] - other).min(axis=0))

    # The same rim if each width is found in the other photo.
    unlike = np.maximum(apart(*halves), apart(*halves[::-1])) / most.max()
    rim = np.interp(most / np.maximum(least, 1e-6), FLAT, (0, 1)) * np.interp(unlike, UNLIKE_ROW, (1, 0))
    return rim.astype(np.float32), least


def add_lost(volume: NDArray[np.float32], seen: Share, along: NDArray[np.float32]) -> None:
    """Give parts that the other photo does not show at their height their own thickness, as a leaf that grows from the rest.

    Args:
        volume: (N, M, K) of the solid, changed in place.
        seen: (N, M) of an outline.
        along: (K,) the samples along its camera's axis.
    """
    shown = volume.max(axis=2) > 0
    parts, count = ndimage.label(shown)
    if not count:
        return
    shown = parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1
    lost, count = ndimage.label((seen.squared > 0) & ~shown)
    if not count:
        return
    away, nearest = ndimage.distance_transform_edt(~shown, return_indices=True)
    some = lost > 0
    reach = np.zeros(count + 1)
    np.maximum.at(reach, lost[some], away[some])
    reach = reach[1:]
    # A strip along a rim is not lost: the photos show the rim at different places.
    wide = np.bincount(lost.ravel())[1:] / reach
    for part in np.flatnonzero((reach > LOST) & (wide < STRIP * reach)) + 1:
        columns, rows = np.nonzero(ndimage.binary_dilation(lost == part, iterations=3))
        # Where the piece lies that has come off, or else most of what it grows from: in one of two legs, and not between them.
        piece = volume[lost == part] > 0
        root = tuple(index[columns, rows] for index in nearest)
        middle = along[(piece if piece.any() else volume[root] > 0).sum(axis=0).argmax()]
        own = seen.squared[columns, rows, None] - (along - middle) ** 2
        volume[columns, rows] = np.maximum(volume[columns, rows], own)


def remove_ghosts(volume: NDArray[np.float32]) -> None:
    """Remove each piece that hangs in the air and that no photo needs: from the front and from the side another part is there too.

    Where one photo shows two thin parts at a height, and another one two as well, four crossings fit both of them.

    Args:
        volume: (N, M, K) of the solid, changed in place.
    """
    solid = volume > 0
    # Most solids are in one piece, which half of the resolution tells in an eighth of the time.
    coarse = solid  # its last samples are empty: MARGIN
    for _ in range(3):
        coarse = np.moveaxis(coarse[:-1:2] | coarse[1::2], 0, 2)
    if ndimage.label(coarse)[1] < 2:
        return
    parts, _ = ndimage.label(solid)
    sizes, boxes = np.bincount(parts.ravel())[1:], ndimage.find_objects(parts)
    shown = [
        (parts > 0).sum(axis) for axis in (2, 0)
    ]  # how often from the front, (N, M), and from the side, (M, K)
    for part in np.argsort(sizes)[:-1]:
        box = boxes[part]
        piece = parts[box] == part + 1
        rest, needed = [of.copy() for of in shown], 0.0
        for left, own, place in zip(rest, (piece.sum(2), piece.sum(0)), (box[:2], box[1:]), strict=True):
            left[place] -= own
            bare = (own > 0) & ~ndimage.binary_dilation(left > 0, iterations=2)[place]
            needed = max(needed, float(bare.sum() / (own > 0).sum()))
        if needed < NEEDED:
            volume[box][piece] *= -1
            shown = rest


def _area(front: Measured, side: Measured) -> float:
    """Return about the area of the surface of a solid with these outlines, in the common unit squared.

    At each height every run of the one outline is a wall as wide as the other outline is in all, and where the section
    changes, there is a level face.
    """
    (width, runs), (depth, rows) = (_profile(outline) for outline in (front, side))
    walls = (
        2 * (width * rows + depth * runs).mean() * np.ptp(np.flatnonzero(front.mask.any(axis=1))) * front.unit
    )
    return float(walls + np.abs(np.diff(width * depth, prepend=0, append=0)).sum())


def _profile(outline: Measured) -> NDArray[np.float64]:
    """Return (2, `ROWS`): the width of the product in the common unit, and the number of its runs, at heights from top to base."""
    starts = outline.mask & ~np.pad(outline.mask, ((0, 0), (1, 0)))[:, :-1]
    rows = np.flatnonzero(outline.mask.any(axis=1))
    at = np.linspace(rows[0], rows[-1], ROWS).round().astype(np.intp)
    return np.stack([outline.mask[at].sum(axis=1) * outline.unit, starts[at].sum(axis=1)])


def _between(shares: Sequence[NDArray[np.float32]], along: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pass from the outline of the second photo to that of the first one along the axis that points to the first one."""
    if len(shares) == 1:
        return shares[0]
    low, high = along.min(), along.max()
    weight = np.clip((along - low) / (high - low) * 2 - np.float32(0.5), 0, 1)
    weight = weight * weight * (3 - 2 * weight)
    between: NDArray[np.float32] = weight * (shares[0] - shares[1])
    between += shares[1]
    return between


def _extent(height: Height) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the outline's lowest and highest place along its horizontal and its vertical, in the common axes."""
    rows, columns = np.nonzero(height.squared > 0)
    camera, size = height.outline.camera, len(height.squared)
    axis = 0 if height.outline.role in ("front", "back") else 2
    sign = camera.rotation[0, axis]
    across = (
        camera.center[axis] + sign * (np.array([columns.min(), columns.max() + 1]) / size - 0.5) * camera.side
    )
    up = camera.center[1] + (0.5 - np.array([rows.max() + 1, rows.min()]) / size) * camera.side
    return (float(across.min()), float(up[0])), (float(across.max()), float(up[1]))


def _samples(low: float, high: float, cell: float) -> NDArray[np.float32]:
    """Return the grid's samples along an axis: the extent and a margin on both sides."""
    count = int(np.ceil((high - low) / cell)) + 1 + 2 * MARGIN
    return np.asarray(low - MARGIN * cell + np.arange(count) * cell, np.float32)
