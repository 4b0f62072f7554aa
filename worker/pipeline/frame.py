"""Frame a cut-out product: make the square view that the engines expect."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.core.errors import JobError
from worker.engines.surface import View

SIDE = 512  # pixels
FILL = 0.85  # part of the square's side that the product's longest side takes, as TripoSR's own program frames it


def frame(rgba: NDArray[np.uint8]) -> View:
    """Centre the product and scale it to a length of 435 pixels. The product is what has alpha above one half.

    Args:
        rgba: (H, W, 4) sRGB, straight alpha.

    Returns:
        (512, 512, 4) sRGB, straight alpha.

    Raises: JobError `no_object` if nothing has alpha above one half.
    """
    solid = rgba[..., 3] > 127
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not rows.size:
        raise JobError("no_object")
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    side = max(bottom - top, right - left) / FILL  # of the square, in the photo's pixels
    x, y = (left + right - side) / 2, (top + bottom - side) / 2
    square = _window(rgba, math.floor(x), math.floor(y), math.ceil(side) + 1)
    return _resample(square, x % 1, y % 1, side)


def _window(rgba: NDArray[np.uint8], x: int, y: int, side: int) -> NDArray[np.uint8]:
    """Cut a square out of the photo; it is transparent where it reaches beyond the photo."""
    height, width = rgba.shape[:2]
    window = np.zeros((side, side, 4), np.uint8)
    part = rgba[max(y, 0) : min(y + side, height), max(x, 0) : min(x + side, width)]
    window[max(-y, 0) :, max(-x, 0) :][: part.shape[0], : part.shape[1]] = part
    return window


def _resample(square: NDArray[np.uint8], x: float, y: float, side: float) -> View:
    """Resample to 512 pixels, weighted by alpha, so that colours under transparent pixels do not bleed into the rim."""
    alpha = np.divide(square[..., 3], 255, dtype=np.float32)

    def resize(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        resized = Image.fromarray(plane).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side)
        )
        return np.asarray(resized)

    weight = resize(alpha)
    view = np.zeros((SIDE, SIDE, 4), np.uint8)
    seen = weight > 0.5 / 255  # less rounds to 0, and dividing by it would only amplify noise
    for channel in range(3):
        color = resize(np.multiply(square[..., channel], alpha, dtype=np.float32))
        view[seen, channel] = (color[seen] / weight[seen]).round().clip(0, 255)
    view[seen, 3] = (weight[seen] * 255).round().clip(0, 255)
    return view
