"""Open the holes of a product through which the photo's backdrop shows, and close those in which something else does."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.morphology import convex_hull_image

from worker.pipeline.backdrop import fit_backdrop
from worker.pipeline.background import Alpha

SIDE = 1024  # pixels of the longer side, at which holes are searched
BUSY = 6.0  # levels; a ground that differs more from a smooth surface is no backdrop
LEAST = 0.002  # of the product's area; smaller holes do not matter
UNSURE = 0.9  # mean alpha; above it the background model takes the region for the product
STEP = 6.0  # levels that the product differs from the backdrop around a hole; its own shading changes slowly
BRIGHTER = 12.0  # levels, in one channel
RIM = 4  # pixels, of the product's outline and of a hole's
ARM = 0.15  # of the square root of the product's area; the arm of a handle is thinner
BODY = 0.6  # part of the product that is left without such arms
BESIDE = 0.5  # part of a handle's opening that may lie between parts of the body; a label lies there whole
WHITE = 252.0  # levels; a white label on a white ground looks like a hole


def open_holes(rgb: NDArray[np.uint8], alpha: Alpha) -> Alpha:
    """Make each part of the product transparent that has the colour which a plain backdrop has behind it.

    Where the background model is sure of the product, as it is of many handles, that part must also be enclosed, have a
    sharp border, and not be white but in a handle.

    Args:
        rgb: (H, W, 3) sRGB, the photo.
        alpha: (H, W), of the background model.
    """
    step = -(-max(alpha.shape) // SIDE)
    holes = _find_holes(rgb[::step, ::step], alpha[::step, ::step])
    if not holes.any():
        return alpha
    # The border's own pixels are mixed with the backdrop: a pixel more, and a soft rim.
    wider = ndimage.binary_dilation(holes, iterations=2).astype(np.float32)
    return alpha * _enlarged(1 - ndimage.gaussian_filter(wider, 0.7), alpha)


def close_holes(rgb: NDArray[np.uint8], alpha: Alpha) -> Alpha:
    """Fill holes where the photo is brighter than a plain backdrop would be there: a shadow only darkens a backdrop.

    A background model may leave out a light mark on the product, such as a tooth.

    Args:
        rgb: (H, W, 3) sRGB, the photo.
        alpha: (H, W), of the background model.
    """
    step = -(-max(alpha.shape) // SIDE)
    closed = _find_marks(rgb[::step, ::step], alpha[::step, ::step])
    return np.maximum(alpha, _enlarged(closed.astype(np.float32), alpha)) if closed.any() else alpha


def _enlarged(small: Alpha, alpha: Alpha) -> Alpha:
    height, width = alpha.shape
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def _find_marks(rgb: NDArray[np.uint8], alpha: Alpha) -> NDArray[np.bool_]:
    none = np.zeros(alpha.shape, bool)
    solid = alpha > 0.5
    filled = ndimage.binary_fill_holes(solid)
    backdrop = fit_backdrop(rgb, ndimage.distance_transform_edt(~filled) > RIM)
    if backdrop is None or backdrop.noise > BUSY:
        return none
    least = max(BRIGHTER, 3 * backdrop.noise)
    brighter = (
        ndimage.gaussian_filter(rgb.astype(np.float32), (1, 1, 0)) - backdrop.levels(*alpha.shape)
    ).max(axis=2)
    holes, count = ndimage.label(filled & ~solid)
    bright = np.flatnonzero(ndimage.mean(brighter, holes, np.arange(1, count + 1)) > least) + 1
    # The rim of an opening is as soft as that of the product.
    inner = ndimage.distance_transform_edt(solid | np.isin(holes, bright)) > RIM
    marks = inner & (alpha < UNSURE) & (brighter > least)
    return np.asarray(inner & ndimage.binary_dilation(marks, iterations=RIM)) if marks.any() else none


def _find_holes(rgb: NDArray[np.uint8], alpha: Alpha) -> NDArray[np.bool_]:
    holes = np.zeros(alpha.shape, bool)
    away = ndimage.distance_transform_edt(alpha <= 0.1) > 4
    backdrop = fit_backdrop(rgb, away & (alpha < 0.02))
    if backdrop is None or backdrop.noise > BUSY:
        return holes
    colors = backdrop.levels(*alpha.shape)
    off = np.abs(ndimage.gaussian_filter(rgb.astype(np.float32), (1, 1, 0)) - colors).max(axis=2)
    solid = alpha > 0.5
    inside = ndimage.binary_fill_holes(solid) & (alpha > 0.1)
    like = inside & (off < max(3 * backdrop.noise, 3.0))
    regions, _ = ndimage.label(ndimage.binary_opening(like, iterations=2))
    for n, extent in enumerate(ndimage.find_objects(regions), 1):
        box = tuple(slice(max(0, side.start - 6), side.stop + 6) for side in extent)
        region = regions[box] == n
        if region.sum() < LEAST * solid.sum() or off[box][region].mean() > max(0.7, 0.8 * backdrop.noise):
            continue
        if alpha[box][region].mean() > UNSURE:
            # With its corners, which the opening has cut off.
            whole = ndimage.binary_dilation(region, iterations=4, mask=like[box])
            distance = ndimage.distance_transform_edt(~whole)
            ring = (distance > 3.5) & (distance <= 5)
            edge = float(np.percentile(np.where(alpha[box] < 0.1, 0, off[box])[ring], 10))
            if edge < max(STEP, 3 * backdrop.noise):
                continue
            white = colors[box][region].min(axis=-1).mean() > WHITE
            if white and not _is_in_handle(solid, np.argwhere(region) + [side.start for side in box]):
                continue
        holes[box] |= region
    return holes


def _is_in_handle(solid: NDArray[np.bool_], pixels: NDArray[np.intp]) -> bool:
    """True if a region lies beside the product's body, with only a thin arm around it. A label lies within the body.

    Args:
        solid: the product, (H, W).
        pixels: (N, 2), the row and the column of each pixel of the region in it.
    """
    product = np.pad(solid, 1)
    product[tuple((pixels + 1).T)] = False
    radius = ARM * np.sqrt(product.sum()) / 2
    inside = ndimage.distance_transform_edt(product) > radius
    body = ndimage.distance_transform_edt(~inside) <= radius
    if body.sum() < BODY * product.sum():
        return False
    hull = convex_hull_image(body)  # type: ignore[no-untyped-call]  # has no types
    return bool(hull[tuple((pixels + 1).T)].mean() < BESIDE)
