"""The separate parts of a cut-out: specks, products side by side, the part that is meant, and parts that were left out."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from worker.core.errors import JobError
from worker.pipeline.background import Alpha
from worker.pipeline.subject import Box

Mask = NDArray[np.bool_]  # (H, W)

SOLID = 0.5  # a pixel above it belongs to the product; networks give products 1.0, and an empty photo at most 0.06
MIN_AREA = 0.001  # of the photo; a smaller part is a speck and no product
KEPT_SHARE = 0.05  # of the largest part's area; a smaller part does not belong to the product
ALIKE_SHARE = 0.25  # of the largest part's area; from here on a part may be a product of its own


def without_specks(alpha: Alpha) -> Alpha:
    """Keep the largest part and others of some size, each with its soft rim. Holes stay holes.

    Raises: JobError `no_object`.
    """
    labels, _ = ndimage.label(alpha > SOLID)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    if areas.max() < MIN_AREA * alpha.size:
        raise JobError("no_object")
    kept = (areas >= KEPT_SHARE * areas.max())[labels]
    reach = max(2, round(max(alpha.shape) / 100))  # pixels that a rim is soft
    # Filled, because a translucent region inside the product belongs to it; a drop shadow outside does not.
    near = ndimage.distance_transform_edt(~ndimage.binary_fill_holes(kept)) <= reach
    dropped = (labels > 0) & ~kept
    return np.where(near & ~dropped, alpha, np.float32(0))


def within(alpha: Alpha, box: Box) -> Alpha:
    """Keep what lies in the box: whole parts if three quarters of them do, else what of them does.

    A part of which less than a tenth lies in the box is a neighbour's edge, and goes.
    """
    height, width = alpha.shape
    inside = np.zeros(alpha.shape, bool)
    inside[
        round(box.top * height) : round(box.bottom * height),
        round(box.left * width) : round(box.right * width),
    ] = True
    labels, count = ndimage.label(alpha > 0)
    share = np.bincount(labels[inside], minlength=count + 1) / np.maximum(np.bincount(labels.ravel()), 1)
    kept = (share >= 0.75)[labels] | ((share >= 0.1)[labels] & inside)
    return np.where(kept, alpha, np.float32(0))


def cut_along(alpha: Alpha, kept: Alpha, seen: tuple[int, int, int, int]) -> float:
    """Return how long the longest straight cut through a product is, as a part of its width or height, 0..1.

    Args:
        alpha: of everything in the photo, (H, W).
        kept: what `within` left of it. It shows a product.
        seen: left, top, right and bottom, in pixels, of what the background model may have looked at. A product that ends
            there with a straight edge goes on outside.
    """
    left, top, right, bottom = seen
    beyond = np.zeros(alpha.shape, bool)
    beyond[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = True
    beyond[top:bottom, left:right] = False
    product = kept > SOLID
    lost = ((alpha > SOLID) | beyond) & ~product
    width, height = (max(1, int(product.any(axis=axis).sum())) for axis in (0, 1))
    across = max((product[1:] & lost[:-1]).sum(), (product[:-1] & lost[1:]).sum())
    down = max((product[:, 1:] & lost[:, :-1]).sum(), (product[:, :-1] & lost[:, 1:]).sum())
    return float(max(across / width, down / height))


def count_alike(alpha: Alpha) -> int:
    """Return how many things of like size the cut-out shows. 1 is what it should be.

    Parts are separate things if there is background between them, or if they stand side by side and only a region that
    the model is unsure about joins them. A head on a thin neck is no separate thing.
    """
    apart = _like_parts(alpha > 0.1)
    if len(apart) > 1:
        return len(apart)
    parts = sorted(_like_parts(ndimage.binary_erosion(alpha > 0.9, iterations=2)))
    stacked = sum(
        right - start > 0.5 * min(right - left, stop - start)
        for (left, right), (start, stop) in pairwise(parts)
    )
    return len(parts) - stacked if parts else 1


def _like_parts(mask: Mask) -> list[tuple[int, int]]:
    """Return the left and the right end of each part that is about as large as the largest."""
    labels, _ = ndimage.label(mask)
    areas = np.bincount(labels.ravel())[1:]
    return [
        (columns.start, columns.stop)
        for area, (_, columns) in zip(areas, ndimage.find_objects(labels), strict=True)
        if area >= ALIKE_SHARE * areas.max()
    ]


def with_parts(alpha: Alpha, parts: NDArray[np.bool_]) -> Alpha:
    """Return the (H, W) alpha made opaque in the (h, w) parts, which were found at a lower resolution."""
    height, width = alpha.shape
    soft = Image.fromarray(ndimage.gaussian_filter(parts.astype(np.float32), 0.7))
    sure = np.asarray(soft.resize((width, height), Image.Resampling.BILINEAR))
    return np.asarray(np.maximum(alpha, sure), np.float32)
