"""Inflate an outline: from a mask to the square of half the depth that the product has behind each pixel."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from worker.engines.relief.outline import FloatMap, inner_distance
from worker.engines.views import Mask
from worker.mesh.doubled import doubled
from worker.mesh.project import box_of

DEPTH = 0.46  # half of the greatest depth, as a share of the product's longer side
ROUND = 0.5  # 1: each part is as deep as it is wide; 0: the whole is one pillow
BASE = 0.02  # of the height, from the base upwards, that is mirrored away
FLAT = 0.85  # of the width a little below the top, at the top: more is a flat top
SWEEPS = 6  # at the full resolution; twice as many at each coarser one


def inflate(masks: Sequence[Mask], inner: Sequence[FloatMap], caps: Sequence[float]) -> list[FloatMap]:
    """Return the squares of half the depth in pixels². Outside they are negative, with the slope that they have at the rim.

    A product stands on a flat base, which is no rim with depth 0: there the inflated mask continues as its mirror image, and
    so it does above a flat top.

    Args:
        masks: (S, S), true where the product is.
        inner: (S, S) of `inner_distance`.
        caps: half of the greatest depth of each, in pixels.
    """
    boxes = [box_of(mask, 0) for mask in masks]
    alone = [np.pad(mask[box], 1) for mask, box in zip(masks, boxes, strict=True)]
    tall = [_mirrored(mask[box]) for mask, box in zip(masks, boxes, strict=True)]
    pillows = _pillows([*alone, *(mirrored for mirrored, _ in tall)])
    inflated = []
    for n, (mask, box, cap, (mirrored, inside)) in enumerate(zip(masks, boxes, caps, tall, strict=True)):
        radius = inner_distance(mirrored)
        pillow = doubled(doubled(pillows[len(masks) + n], 0), 1)[: len(mirrored), : mirrored.shape[1]]
        height = ROUND * _balls(radius)[inside] + (1 - ROUND) * pillow[inside]
        # The mirror image widens what it continues. It must not be deeper than it was.
        before = ROUND * inner[n].max() ** 2 + (1 - ROUND) * pillows[n].max()
        after = ROUND * radius.max() ** 2 + (1 - ROUND) * pillow.max()
        height *= np.float32(before / after)
        height /= np.sqrt(1 + (height / cap**2) ** 2)
        whole = np.zeros(mask.shape, np.float32)
        whole[box] = np.where(mask[box], height, 0)
        inflated.append(continue_outwards(whole, mask, inner[n]))
    return inflated


def _mirrored(mask: Mask) -> tuple[Mask, tuple[slice, slice]]:
    """Continue a mask, which fills its box, below its base and above a flat top. Also return where it is in the result."""
    height, width = mask.shape
    skirt = max(2, round(BASE * height))  # the base is curved a little in a photo from above
    reach = min(height - skirt, width)
    top = reach if _is_flat(mask) and reach > 0 else 0
    tall = np.zeros((top + height + reach + 2, width + 2), bool)
    inside = slice(top + 1, top + 1 + height), slice(1, width + 1)
    tall[inside] = mask
    if reach > 0:
        base = top + 1 + height - skirt
        tall[base : base + reach] |= tall[base - reach : base][::-1]
    if top:
        roof = top + 1 + skirt
        tall[roof - top : roof] |= tall[roof : roof + top][::-1]
    return tall, inside


def _is_flat(mask: Mask) -> bool:
    """Return true if the mask is nearly as wide at its top as a little further down."""
    wide = mask.sum(axis=1)
    at, below = (max(2, round(share * len(mask))) for share in (BASE, 3 * BASE))
    return bool(below < len(mask) and wide[at] > FLAT * wide[below])


def _pillows(masks: Sequence[Mask]) -> list[FloatMap]:
    """Inflate each whole mask as one pillow: Δh = -4 inside, h = 0 on the rim. The results have half of the resolution."""
    free = [_halved(mask) for mask in masks]
    sizes = [1 << (max(half.shape) + 1).bit_length() for half in free]
    pillows = [np.zeros(half.shape, np.float32) for half in free]
    # Those of one size together: that costs little more than one alone.
    for size in set(sizes):
        group = [n for n, other in enumerate(sizes) if other == size]
        squares = np.zeros((len(group), size, size), bool)
        for square, n in zip(squares, group, strict=True):
            square[: len(free[n]), : free[n].shape[1]] = free[n]
        solved = relax(np.zeros((len(group) * size, size), np.float32), squares.reshape(-1, size), source=4.0)
        for square, n in zip(solved.reshape(squares.shape), group, strict=True):
            pillows[n] = square[: len(free[n]), : free[n].shape[1]]
    return pillows


def _halved(mask: Mask) -> Mask:
    """Return true where more than half of four pixels are inside."""
    even = np.pad(mask, [(0, side % 2) for side in mask.shape])
    rows, columns = (side // 2 for side in even.shape)
    return np.asarray(even.reshape(rows, 2, columns, 2).mean(axis=(1, 3)) > 0.5)


def continue_outwards(height: FloatMap, mask: Mask, inner: FloatMap) -> FloatMap:
    """Continue a height, which is 0 at the mask's rim, below 0 outside, and smooth it.

    Args:
        height: (S, S) pixels², the square of half the depth.
        mask: (S, S)
        inner: (S, S) distance to the outside, pixels.
    """
    # The rim is half-way between the last pixel inside and the first one outside.
    outer, nearest = ndimage.distance_transform_edt(~mask, return_indices=True)
    slope = height / np.maximum(inner, 1)
    signed = np.where(mask, height - 0.5 * slope, -slope[tuple(nearest)] * (outer - 0.5))
    signed = signed.astype(np.float32)
    # Near the rim, fine smoothing keeps it in place; deep inside, broad smoothing removes creases where parts meet.
    deep = np.clip((inner - 6) / 18, 0, 1)
    return np.asarray(
        (1 - deep) * ndimage.gaussian_filter(signed, 1) + deep * ndimage.gaussian_filter(signed, 6)
    )


def _balls(radius: FloatMap) -> FloatMap:
    """Return the union of the largest ball around each pixel: max over c of radius(c)² - |p - c|², in pixels².

    A leg becomes a cylinder and a disk a sphere. The maximum is separable: first along the rows, then the columns.
    """
    (box,) = ndimage.find_objects((radius > 0).astype(np.int8))
    height = radius[box] ** 2
    for axis in (0, 1):
        source = np.moveaxis(height, axis, 0)
        target = source.copy()
        for shift in range(1, min(int(radius.max()) + 1, len(source))):
            lower = source - np.float32(shift**2)
            np.maximum(target[shift:], lower[:-shift], out=target[shift:])
            np.maximum(target[:-shift], lower[shift:], out=target[:-shift])
        height = np.moveaxis(target, 0, axis)
    balls = np.zeros_like(radius)
    balls[box] = height
    return np.where(radius > 0, balls, 0).astype(np.float32)


def relax(values: FloatMap, free: Mask, *, source: float = 0.0, across: float = 0.5) -> FloatMap:
    """Solve Δu = -4 · source on the free pixels. The other pixels keep their values.

    From coarse to fine: each level starts with the solution of the next coarser one, so a few sweeps are enough.

    Args:
        values: (S, S) or (S, S, C), S a power of two. Several such squares may stand one below the other; their outermost rows
            are not free.
        free: of the same height and width, true where the solution is wanted.
        source: 0 interpolates between the fixed values like a film of soap; 1 inflates it.
        across: the weight of the left and right neighbours; the rest is that of the ones above and below.
    """
    high, size = free.shape
    channels = values.reshape(high, size, -1)
    if size > 16:
        blocks = channels.reshape(high // 2, 2, size // 2, 2, -1)
        fixed = (~free).reshape(high // 2, 2, size // 2, 2).astype(np.float32)
        known = fixed.sum(axis=(1, 3))
        coarse = np.einsum("iajbc,iajb->ijc", blocks, fixed) / np.maximum(known, 1)[:, :, None]
        start = relax(coarse, known < 2, source=4 * source, across=across)
        start = start.repeat(2, axis=0).repeat(2, axis=1)
        channels = np.where(free[:, :, None], start, channels)
    wide = size + 2
    flat = np.pad(channels, ((1, 1), (1, 1), (0, 0)), mode="edge").reshape((high + 2) * wide, -1)
    flat = flat[:, 0] if flat.shape[1] == 1 else flat
    rows, columns = np.nonzero(free)
    pixels = (rows + 1) * wide + columns + 1
    # As on a chessboard: the white squares from the black ones, then the reverse.
    colors = [pixels[(rows + columns) % 2 == parity] for parity in (0, 1)]
    neighbours = [(at, at - 1, at + 1, at - wide, at + wide) for at in colors]
    beside, above = np.float32(across / 2), np.float32((1 - across) / 2)
    for _ in range(SWEEPS * 512 // size):
        for at, left, right, up, down in neighbours:
            pull = beside * (flat.take(left, 0) + flat.take(right, 0)) + above * (
                flat.take(up, 0) + flat.take(down, 0)
            )
            own = flat.take(at, 0)
            flat[at] = own + np.float32(1.5) * (pull + np.float32(source) - own)
    return np.asarray(flat.reshape(high + 2, wide, -1)[1:-1, 1:-1].reshape(values.shape))
