"""Find the pixels that flat triangles cover. Baking and rendering share this."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BATCH = 1 << 19  # pixels tested together; bounds the memory to about 50 MB


class Covered(NamedTuple):
    """K pairs of a pixel and a face that covers its centre."""

    face: NDArray[np.int64]  # (K,)
    pixel: NDArray[np.int64]  # (K,) row * width + column
    weight: NDArray[np.float32]  # (K, 3) barycentric coordinates of the centre in the face; their sum is 1


def rasterize(corners: NDArray[np.float32], width: int, height: int) -> Iterator[Covered]:
    """Yield every pixel whose centre lies in a triangle, batch by batch, in the order of the triangles.

    Args:
        corners: (F, 3, 2) pixels, x to the right and y down; the first pixel's centre is at (0.5, 0.5). What lies outside
            of the image is left out.
        width: of the image, pixels.
        height: of the image, pixels.
    """
    size = np.array([width, height])
    low = np.clip(np.ceil(corners.min(axis=1) - 0.5), 0, size).astype(np.int64)
    high = np.clip(np.floor(corners.max(axis=1) - 0.5) + 1, 0, size).astype(np.int64)
    span = np.maximum(high - low, 0)
    count = span[:, 0] * span[:, 1]
    (a, b, c) = (corners[:, i].astype(np.float64) for i in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    with np.errstate(divide="ignore"):
        scale = np.where(area == 0, 0, 1 / area)
    # Weight of a corner = its gradient · (x, y) + its constant.
    grad_b = np.stack([c[:, 1] - a[:, 1], a[:, 0] - c[:, 0]], axis=1) * scale[:, None]
    grad_c = np.stack([a[:, 1] - b[:, 1], b[:, 0] - a[:, 0]], axis=1) * scale[:, None]

    drawn = np.nonzero((count > 0) & (area != 0))[0]
    total = np.cumsum(count[drawn])
    start = 0
    while start < len(drawn):
        before = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + BATCH, side="right")))
        faces = drawn[start:stop]
        start = stop
        face = np.repeat(faces, count[faces])
        offset = np.arange(len(face)) - np.repeat(np.cumsum(count[faces]) - count[faces], count[faces])
        column = low[face, 0] + offset % span[face, 0]
        row = low[face, 1] + offset // span[face, 0]
        x, y = column + 0.5 - a[face, 0], row + 0.5 - a[face, 1]
        of_b = grad_b[face, 0] * x + grad_b[face, 1] * y
        of_c = grad_c[face, 0] * x + grad_c[face, 1] * y
        of_a = 1 - of_b - of_c
        # With a small tolerance, so that a centre on a common edge belongs to both faces and never to none.
        inside = (of_a >= -1e-6) & (of_b >= -1e-6) & (of_c >= -1e-6)
        weight = np.stack([of_a[inside], of_b[inside], of_c[inside]], axis=1).astype(np.float32)
        yield Covered(face[inside], row[inside] * width + column[inside], weight)
