"""Find the pixels that flat triangles cover, and the nearest triangle at each. Baking, laying photos and drawing share this.

A triangle is cut into spans, the runs of pixels that it covers in each row. What is linear across the triangle, such as a
weight or a depth, is computed once at the start of a span and stepped from pixel to pixel: no pixel is tested that is not
covered.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BATCH = 1 << 19  # pixels computed together; bounds the memory to about 30 MB
NEAR_ENOUGH = (
    1e-6  # pixels; a centre so near to an edge belongs to the faces on both sides of it, and never to none
)

Index = NDArray[np.int64]
Floats = NDArray[np.float32]


class Covered(NamedTuple):
    """K pairs of a pixel and a face that covers its centre."""

    face: Index  # (K,)
    pixel: Index  # (K,) row * width + column
    weight: Floats  # (K, 3) barycentric coordinates of the centre in the face; their sum is 1


class Nearest(NamedTuple):
    """The nearest face at every pixel."""

    face: Index  # (height * width,); -1 where there is none
    near: Floats  # (height * width,); -inf where there is none


class _Spans(NamedTuple):
    """S runs of pixels, each of one face in one row, in the order of the faces."""

    face: Index  # (S,)
    row: Index  # (S,)
    column: Index  # (S,) of the first pixel
    length: Index  # (S,) at least 1


def rasterize(corners: Floats, width: int, height: int) -> Iterator[Covered]:
    """Yield every pixel whose centre lies in a triangle, batch by batch, in the order of the triangles.

    Args:
        corners: (F, 3, 2) pixels, x to the right and y down; the first pixel's centre is at (0.5, 0.5). What lies outside
            of the image is left out.
        width: of the image, pixels.
        height: of the image, pixels.
    """
    weights = planes(corners, np.eye(3, dtype=np.float32)[None, :, 1:])
    for spans in _batches(_spans(corners, width, height)):
        offsets = _offsets(spans)
        of_b, of_c = (_along(weights, spans, offsets, value) for value in (0, 1))
        weight = np.stack([1 - of_b - of_c, of_b, of_c], axis=1)
        yield Covered(np.repeat(spans.face, spans.length), _pixels(spans, offsets, width), weight)


def nearest(corners: Floats, near: Floats, width: int, height: int) -> Nearest:
    """Find the nearest face at every pixel of an image. Where two are equally near, either is taken.

    Args:
        corners: (F, 3, 2) as for `rasterize`.
        near: (F, 3) of the corners; greater is nearer.
        width: of the image, pixels.
        height: of the image, pixels.
    """
    found = Nearest(np.full(width * height, -1, np.int64), np.full(width * height, -np.inf, np.float32))
    for spans, pixel, here in _depths(corners, near, width, height):
        np.maximum.at(found.near, pixel, here)
        wins = here == found.near[pixel]
        found.face[pixel[wins]] = np.repeat(spans.face, spans.length)[wins]
    return found


def depth_map(corners: Floats, near: Floats, width: int, height: int) -> Floats:
    """(height * width,) the nearness alone, as `nearest` finds it."""
    found = np.full(width * height, -np.inf, np.float32)
    for _, pixel, here in _depths(corners, near, width, height):
        np.maximum.at(found, pixel, here)
    return found


def _depths(corners: Floats, near: Floats, width: int, height: int) -> Iterator[tuple[_Spans, Index, Floats]]:
    """Yield spans, their (K,) pixels, and how near their faces are at each."""
    depth = planes(corners, near[..., None])
    for spans in _batches(_spans(corners, width, height)):
        offsets = _offsets(spans)
        yield spans, _pixels(spans, offsets, width), _along(depth, spans, offsets, 0)


def signed_area(corners: Floats) -> Floats:
    """(F,) area of (F, 3, 2) triangles; positive where they run clockwise in a picture, whose y goes down."""
    (ax, ay), (bx, by), (cx, cy) = (corners[:, i].T for i in range(3))
    double = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    return np.asarray(double / 2, np.float32)


class Planes(NamedTuple):
    """C values that are linear across each of F triangles: value + gradient · (position - origin)."""

    origin: NDArray[np.float64]  # (F, 2) the first corner, pixels
    value: NDArray[np.float64]  # (F, C) there
    gradient: NDArray[np.float64]  # (F, C, 2) for one pixel to the right, and for one down

    def at(self, face: Index, place: NDArray[np.float64]) -> Floats:
        """Return (K, C) the values of (K,) faces at (K, 2) positions in pixels."""
        away = (place - self.origin.take(face, axis=0)).astype(np.float32)
        gradient = self.gradient.astype(np.float32).take(face, axis=0)
        found = self.value.astype(np.float32).take(face, axis=0)
        found += gradient[..., 0] * away[:, :1]
        found += gradient[..., 1] * away[:, 1:]
        return found


def planes(corners: Floats, values: Floats) -> Planes:
    """Make the planes through (F, 3, 2) corners in pixels and their (F or 1, 3, C) values; flat ones for no area."""
    a, b, c = (corners[:, i].astype(np.float64) for i in range(3))
    (bx, by), (cx, cy) = (b - a).T, (c - a).T
    area = bx * cy - by * cx
    with np.errstate(divide="ignore"):
        scale = np.where(area == 0, 0, 1 / area)[:, None]
    at = values[:, 0].astype(np.float64)
    of_b, of_c = values[:, 1] - at, values[:, 2] - at
    right = (of_b * cy[:, None] - of_c * by[:, None]) * scale
    down = (of_c * bx[:, None] - of_b * cx[:, None]) * scale
    return Planes(a, np.broadcast_to(at, right.shape), np.stack([right, down], axis=2))


def _spans(corners: Floats, width: int, height: int) -> _Spans:
    """Cut the triangles into spans. One without area has none."""
    top, middle, bottom = _from_top(corners)
    (bx, by), (cx, cy) = (middle - top).T, (bottom - top).T
    first = np.ceil(top[:, 1] - 0.5 - NEAR_ENOUGH).clip(0, height).astype(np.int64)
    last = np.floor(bottom[:, 1] - 0.5 + NEAR_ENOUGH).clip(-1, height - 1).astype(np.int64)
    rows = np.where(bx * cy == by * cx, 0, (last - first + 1).clip(0))

    face = np.repeat(np.arange(len(corners)), rows)
    row = np.arange(len(face)) - np.repeat(np.cumsum(rows) - rows - first, rows)
    # The long edge runs from the top to the bottom corner, the other two meet at the middle one.
    with np.errstate(divide="ignore", invalid="ignore"):
        long, upper, lower = (
            np.nan_to_num(slope, posinf=0, neginf=0) for slope in (cx / cy, bx / by, (cx - bx) / (cy - by))
        )
    # From here on y is counted from the middle corner.
    y = (row + 0.5 - middle[:, 1].take(face)).clip(-by.take(face), (cy - by).take(face))
    x = (top[:, 0] + by * long).take(face) + y * long.take(face)
    other = middle[:, 0].take(face) + y * np.where(y < 0, upper.take(face), lower.take(face))
    left = np.ceil(np.minimum(x, other) - 0.5 - NEAR_ENOUGH).clip(0, width)
    right = np.floor(np.maximum(x, other) - 0.5 + NEAR_ENOUGH).clip(-1, width - 1)
    length = (right - left + 1).astype(np.int64)
    covers = np.flatnonzero(length > 0)
    return _Spans(face[covers], row[covers], left[covers].astype(np.int64), length[covers])


def _from_top(corners: Floats) -> list[NDArray[np.float64]]:
    """Three times (F, 2): the triangles' top, middle and bottom corners."""
    x, y = ([*of.T] for of in np.moveaxis(corners, 2, 0))
    for first, second in ((0, 1), (1, 2), (0, 1)):
        swap = y[first] > y[second]
        for of in (x, y):
            of[first], of[second] = (
                np.where(swap, of[second], of[first]),
                np.where(swap, of[first], of[second]),
            )
    return [np.stack(corner, axis=1).astype(np.float64) for corner in zip(x, y, strict=True)]


def _batches(spans: _Spans) -> Iterator[_Spans]:
    """Yield the spans in batches of about `BATCH` pixels."""
    total = np.cumsum(spans.length)
    start = 0
    while start < len(total):
        before = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + BATCH, side="right")))
        yield _Spans(*(of[start:stop] for of in spans))
        start = stop


def _along(of: Planes, spans: _Spans, offsets: Index, value: int) -> Floats:
    """(K,) one of the values at all pixels of the spans."""
    right, down = of.gradient[:, value, 0], of.gradient[:, value, 1]
    # At the left end of the first pixel's row.
    start = of.value[:, value] + right * (0.5 - of.origin[:, 0]) + down * (0.5 - of.origin[:, 1])
    step = right.take(spans.face)
    first = start.take(spans.face) + step * spans.column + down.take(spans.face) * spans.row
    steps = np.repeat(step.astype(np.float32), spans.length)
    steps *= offsets.astype(np.float32)
    steps += np.repeat(first.astype(np.float32), spans.length)
    return steps


def _offsets(spans: _Spans) -> Index:
    """(K,) the place of each pixel in its span, from 0."""
    ends = np.cumsum(spans.length)
    return np.arange(ends[-1]) - np.repeat(ends - spans.length, spans.length)


def _pixels(spans: _Spans, offsets: Index, width: int) -> Index:
    """(K,) row * width + column."""
    return np.repeat(spans.row * width + spans.column, spans.length) + offsets
