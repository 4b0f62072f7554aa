"""Find light parts of a product that the background model takes for the light ground, such as a white pump or a cream lid."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.pipeline.backdrop import PLAIN, fit_backdrop
from worker.pipeline.background import Alpha
from worker.pipeline.parts import with_parts

Mask = NDArray[np.bool_]  # (H, W)

SIDE = 600  # pixels of the longer side, at which parts are searched
SAME = 3.0  # levels; what differs by less from a plain ground looks like it
STEP = 10.0  # levels by which a part differs from the ground close to its border; a soft shadow does so farther in
SHARP = 0.35  # part of the border that is such; a soft shadow has at most 0.1, the noise of a JPEG 0.26
LEAST, MOST = 0.003, 0.5  # of the product's area; what is larger is a thing of its own
THICK = 3.0  # pixels to the nearest border; the noise of a JPEG is thinner
# Lengths in parts of the square root of the product's area.
NEAR, FAR = 0.02, 0.03  # a part begins nearer to the product, and reaches farther from it than a rim
GROUND = 0.08  # of the product's height, above its lowest point: shadows and reflections begin below
ROUNDS = 3  # a part may adjoin another part


def add_light_parts(rgb: NDArray[np.uint8], alpha: Alpha) -> Alpha:
    """Add to the product what adjoins it and ends with a sharp border in a plain ground.

    A shadow ends softly, and both shadows and reflections lie at the product's foot, where nothing is added.

    Args:
        rgb: (H, W, 3) sRGB, the photo.
        alpha: (H, W), of the background model.
    """
    step = -(-max(alpha.shape) // SIDE)
    parts = _find_parts(rgb[::step, ::step], alpha[::step, ::step] > 0.5)
    return with_parts(alpha, parts) if parts.any() else alpha


def _find_parts(rgb: NDArray[np.uint8], solid: Mask) -> Mask:
    none = np.zeros_like(solid)
    backdrop = fit_backdrop(rgb, ndimage.distance_transform_edt(~solid) > FAR * max(solid.shape))
    if backdrop is None or backdrop.noise > PLAIN or not solid.any():
        return none
    smooth = ndimage.gaussian_filter(rgb.astype(np.float32), (0.7, 0.7, 0))
    off = np.abs(smooth - backdrop.levels(*solid.shape)).max(axis=2)
    off[off < max(SAME, 3 * backdrop.noise)] = 0
    product = solid
    for _ in range(ROUNDS):
        added = _adjoining(off, product)
        if not added.any():
            break
        product = _joined(product, added)
    return product & ~solid


def _adjoining(off: NDArray[np.float32], solid: Mask) -> Mask:
    """Return the parts beside the product that differ from the ground and end sharply. `off` is 0 where the ground is."""
    found = np.zeros_like(solid)
    away = ndimage.distance_transform_edt(~ndimage.binary_fill_holes(solid))
    area, size = solid.sum(), np.sqrt(solid.sum())
    rows = np.flatnonzero(solid.any(axis=1))
    foot = rows[-1] - GROUND * np.ptp(rows)
    labels, _ = ndimage.label((off > 0) & (away > 1.5), np.ones((3, 3)))
    for n, (down, across) in enumerate(ndimage.find_objects(labels), 1):
        cut_off = 0 in (down.start, across.start) or down.stop == len(solid) or across.stop == len(solid[0])
        part = labels[down, across] == n
        if cut_off or down.stop > foot or not LEAST * area < part.sum() < MOST * area:
            continue
        distance = away[down, across]
        if distance[part].min() > max(4, NEAR * size) or distance[part].max() < FAR * size:
            continue
        # Its border in the ground, without the one towards the product.
        inner = ndimage.distance_transform_edt(np.pad(part | (distance == 0), 1))[1:-1, 1:-1]
        border = part & (inner <= 1) & (distance > 4)
        strongest = ndimage.maximum_filter(np.where(part, off[down, across], 0), 5)
        if inner[part].max() >= THICK and (strongest[border] > STEP).mean() > SHARP:
            found[down, across] |= part
    return found


def _joined(solid: Mask, parts: Mask) -> Mask:
    """Return the product with parts of it, and with what is as light as the ground in the middle of a part or beside it."""
    both = solid | parts
    near = ndimage.binary_dilation(parts, iterations=5)
    both |= near & ndimage.binary_closing(np.pad(both, 5), iterations=4)[5:-5, 5:-5]
    holes, count = ndimage.label(ndimage.binary_fill_holes(both) & ~ndimage.binary_fill_holes(solid) & ~both)
    small = np.bincount(holes.ravel(), minlength=count + 1) < 0.5 * parts.sum()
    small[0] = False
    return np.asarray(both | small[holes])
