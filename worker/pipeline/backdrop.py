"""A studio's backdrop: what colour the ground of a photo has where the product hides it."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]  # (H, W)
Rgb = NDArray[np.uint8]  # (H, W, 3), sRGB

SIDE = 400  # pixels of the longer side, at which outlines are compared with the ground
PLAIN = 4.0  # levels; a studio's backdrop differs less from a smooth surface
SAMPLES = 20_000  # pixels; more do not make the fit better


class Backdrop(NamedTuple):
    """Colours that change smoothly over the photo, as a studio's light does: a quadratic in x and y for each channel."""

    coefficients: NDArray[np.floating[Any]]  # (6, 3)
    noise: float  # levels; robust standard deviation of the ground from these colours

    def levels(self, height: int, width: int) -> NDArray[np.float32]:
        """Return the backdrop of a photo of that size, (H, W, 3) in 0..255."""
        y, x = np.mgrid[:height, :width].reshape(2, -1)
        colors = _terms(y / height, x / width) @ self.coefficients
        return colors.reshape(height, width, 3).clip(0, 255).astype(np.float32)


def fit_backdrop(rgb: Rgb, ground: Mask) -> Backdrop | None:
    """Fit a backdrop to the pixels of the ground. None if there are too few of them.

    A shadow on the ground, or an object, does not count if it takes less than half of it.
    """
    y, x = np.nonzero(ground)
    if len(y) < 100:
        return None
    step = max(1, len(y) // SAMPLES)
    y, x = y[::step], x[::step]
    height, width = ground.shape
    terms, colors = _terms(y / height, x / width), rgb[y, x].astype(np.float64)
    near = np.ones(len(y), bool)
    for _ in range(4):
        coefficients, *_ = np.linalg.lstsq(terms[near], colors[near], rcond=None)
        off = np.abs(terms @ coefficients - colors).max(axis=1)
        near = off <= max(2.5 * float(np.median(off)), 1.0)
    return Backdrop(coefficients, 1.48 * float(np.median(off)))


def lost_outline(rgb: Rgb, solid: Mask) -> float:
    """Return which part of a product's rim has the colour of the plain ground beside it, 0..1. An outline there is a guess.

    0 if the ground is not plain. A soft rim is left out.
    """
    step = -(-max(solid.shape) // SIDE)
    rgb, solid = rgb[::step, ::step], solid[::step, ::step]
    backdrop = fit_backdrop(rgb, ndimage.distance_transform_edt(~solid) > 0.03 * max(solid.shape))
    depth = ndimage.distance_transform_edt(solid)
    rim = (depth > 1.5) & (depth <= 4)
    if backdrop is None or backdrop.noise > PLAIN or not rim.any():
        return 0.0
    off = np.abs(rgb - backdrop.levels(*solid.shape)).max(axis=2)
    return float((off[rim] < max(3.0, 3 * backdrop.noise)).mean())


def _terms(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
