"""An opaque photo in a transparent frame, as programs crop it to a circle or a heart, or a product with such an outline.

The outline alone does not tell: a ball and a plate are round, too. So the question is what lies inside of it: the ground of a
photo goes on up to the outline as if nothing ended there, while a body has a rim there, or turns away from the light.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.pipeline.backdrop import fit_backdrop

Mask = NDArray[np.bool_]  # (H, W)
Rgb = NDArray[np.uint8]  # (H, W, 3), sRGB
Rgba = NDArray[np.uint8]  # (H, W, 4), sRGB, straight alpha

SIDE = 400  # pixels of the longer side, at which outlines are judged
ROUNDED = 0.12  # of the square root of the area: a disc of this radius fits everywhere in a smooth outline
SMOOTH = 0.02  # part of the area that it may miss; a square's corners have 0.014, a mug's handle more
SYMMETRIC = 0.015  # part of its box in which a mirrored outline may differ
RIM, INNER = (
    (0.012, 0.035),
    (0.055, 0.09),
)  # depths below the outline, in parts of the square root of the area
SECTORS = 24  # around the middle
STEP = 8.0  # levels; a ground changes less between the two depths, the lit side of a ball or a rim more
CALM, ROUGH = (
    6.0,
    20.0,
)  # levels; the standard deviation of a plain ground is below, that of grass or bricks above
ALL_ROUND = 0.75  # part of the outline up to which a ground must go on
LIKELY = 0.5  # likewise, before it is known where the product stands
TOUCHED = 0.1  # part of the outline that the product may touch
LEAST, MOST = 0.001, 0.75  # part of the photo that the product takes
PLAIN = 4.0  # levels; a studio's backdrop differs less from a smooth surface
ONE_COLOR = 4.0  # levels; light makes larger differences on any product, but none on a print's letters
INK, INKS = (
    0.7,
    0.95,
)  # part of a letter that has its ink's colour, and that has it or a mixture of it with the ground


def outline(rgba: Rgba) -> Mask | None:
    """Return the opaque part if it may be a framed photo, else None.

    Its outline is smooth and has no holes, with a hard edge or a soft one, it holds more than one colour, and for a good part
    of the outline the ground goes on up to it.
    """
    shape = rgba[..., 3] > 127
    core = rgba[ndimage.minimum_filter(shape, 1 + max(shape.shape) // 12)]
    if not len(core) or (core[:, 3] < 230).mean() > 0.01 or core[:, :3].std(axis=0).max() < PLAIN:
        return None
    if not _is_smooth(shape) or _goes_on(rgba[..., :3], shape, np.zeros_like(shape)) < LIKELY:
        return None
    return shape


def continued(rgba: Rgba, shape: Mask) -> Rgb:
    """Continue a framed photo over its frame, so that the frame is no object."""
    rgb = rgba[..., :3].copy()
    depth = ndimage.distance_transform_edt(np.pad(shape, 1))[1:-1, 1:-1]
    frame = depth <= 2  # with the outermost pixels of the photo, which are mixed with others
    backdrop = fit_backdrop(rgb, ~frame & (depth < 2 + 0.05 * np.sqrt(shape.sum())))
    if backdrop and backdrop.noise < PLAIN:
        rgb[frame] = backdrop.levels(*shape.shape)[frame]
        return rgb
    nearest = ndimage.distance_transform_edt(frame, return_distances=False, return_indices=True)
    filled: Rgb = rgb[nearest[0], nearest[1]]
    return filled


def is_framed(rgb: Rgb, shape: Mask, found: Mask) -> bool:
    """Say whether a photo in a frame of that shape shows what the background model found in it, or is all one product.

    Args:
        rgb: the photo, `continued` over its frame.
        shape: the opaque part.
        found: what the model takes for the product, inside of the shape.
    """
    depth = ndimage.distance_transform_edt(np.pad(shape, 1))[1:-1, 1:-1]
    touched = found[(depth > 0) & (depth <= 3)].mean()
    if touched > TOUCHED or not LEAST < found.sum() / shape.sum() < MOST or _is_print(rgb, shape, found):
        return False
    return _goes_on(rgb, shape, found) >= ALL_ROUND


def _is_smooth(shape: Mask) -> bool:
    """Return True if a disc of some size rolls along the outline, inside and outside, and leaves little of it out."""
    step = -(-max(shape.shape) // SIDE)
    shape = np.pad(shape[::step, ::step], SIDE // 2)
    radius, area = ROUNDED * np.sqrt(shape.sum()), shape.sum()
    distance = ndimage.distance_transform_edt
    opened = distance(distance(shape) <= radius) <= radius
    closed = distance(distance(~shape) <= radius) > radius
    return bool(max((shape & ~opened).sum(), (closed & ~shape).sum()) < SMOOTH * area)


def _goes_on(rgb: Rgb, shape: Mask, found: Mask) -> float:
    """Return for which part of the outline, 0..1, the photo's ground goes on up to it, without a rim or a turn of the light.

    A ground is plain, or as rough as grass. Within an outline that is symmetric both ways, as few products are, it may be
    anything that changes less between the two depths than it varies anyhow.
    """
    step = -(-max(shape.shape) // SIDE)
    rgb, shape, found = rgb[::step, ::step], shape[::step, ::step], found[::step, ::step]
    size = np.sqrt(shape.sum())
    depth = ndimage.distance_transform_edt(np.pad(shape, 1))[1:-1, 1:-1] / size
    away = ndimage.distance_transform_edt(~found) > 0.03 * size if found.any() else shape
    y, x = np.nonzero(shape)
    angle = np.arctan2(*(np.indices(shape.shape) - np.array([y.mean(), x.mean()])[:, None, None]))
    sector = np.minimum((angle / (2 * np.pi) + 0.5) * SECTORS, SECTORS - 1).astype(int)
    bands = [away & (depth > least) & (depth < most) for least, most in (RIM, INNER)]
    rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
    box = shape[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    symmetric = max((box != box[::-1]).mean(), (box != box[:, ::-1]).mean()) < SYMMETRIC
    going_on = 0
    for n in range(SECTORS):
        rim, inner = (rgb[band & (sector == n)].astype(np.float32) for band in bands)
        if min(len(rim), len(inner)) < 10:
            continue
        step, noise = np.abs(rim.mean(axis=0) - inner.mean(axis=0)).max(), inner.std(axis=0).max()
        plain, rough = step < STEP and noise < CALM, noise > ROUGH and step < 0.6 * noise
        going_on += bool(plain or rough or (symmetric and step < 4 + noise))
    return going_on / SECTORS


def _is_print(rgb: Rgb, shape: Mask, found: Mask) -> bool:
    """Return True if most of what was found is letters or signs, each in one ink. Their borders mix it with the ground."""
    ground = np.median(rgb[shape & ~found], axis=0)
    core = ndimage.binary_erosion(found, iterations=2) & (np.abs(rgb - ground).max(axis=2) > ONE_COLOR)
    labels, count = ndimage.label(found)
    printed = total = 0
    for n, part in enumerate(ndimage.find_objects(labels, count), 1):
        off = rgb[part][core[part] & (labels[part] == n)] - ground
        if len(off):
            ink = np.median(off, axis=0)
            pure = np.abs(off - ink).max(axis=1) < ONE_COLOR
            mixed = np.abs(off - np.outer(off @ ink / max(ink @ ink, 1), ink)).max(axis=1) < ONE_COLOR
            total += len(off)
            printed += len(off) * bool(pure.mean() > INK and mixed.mean() > INKS)
    return printed > 0.5 * total
