"""A photo's own transparency: a cut-out, or nothing of use.

Shops export transparency in many ways. A cut-out may come with a soft black shadow, be translucent where the product is
glass, or have its alpha inverted. A photo in a round frame is no cut-out at all: see `framed`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.pipeline.background import Alpha

Mask = NDArray[np.bool_]  # (H, W)
Rgb = NDArray[np.uint8]  # (H, W, 3), sRGB
Rgba = NDArray[np.uint8]  # (H, W, 4), sRGB, straight alpha
Color = NDArray[np.float64]  # (3,), sRGB levels

MIN_AREA = 0.001  # of the photo; a smaller part is a speck and no product
OPAQUE = 0.9  # alpha; a product's own alpha is often a little below 1 everywhere
CLEAR = 0.06  # alpha; below it is background, or glass that is too clear to be seen
PLAIN = 4.0  # levels; a studio's backdrop differs less from a smooth surface
DARK, GREY = (
    60.0,
    24.0,
)  # levels; a shadow is darker than the one, and its channels differ by less than the other
SAME = 4.0  # levels; what differs by less has one colour
SOFT, ALL_ROUND = (
    0.985,
    0.75,
)  # alpha of the pixels beside a shadow's opaque middle, and part of them that has it; a product has a harder edge
LINE = 0.02  # part of the photo; an opaque border that takes less is a line around it, and no ground


def classify(rgba: Rgba) -> Literal["cut out", "opaque", "inverted", "punched", "empty"]:
    """Say what a photo's own transparency is.

    "cut out": a solid part on a transparent ground. "opaque": less than 1 % is clear, or only the corners are.
    "inverted": a plain ground is opaque, and the product in it transparent; a program that takes a mask for its opposite
    keeps the colours, so that the product is still there. "punched": a transparent hole in an ordinary photo, with the
    photo's colours still under it. "empty": nothing is larger than a speck.
    """
    rgb, alpha = rgba[..., :3], rgba[..., 3]
    solid = alpha > 127
    seen = alpha > 255 * CLEAR
    if seen.mean() > 0.99:
        return "opaque"
    labels, _ = ndimage.label(seen)
    if np.bincount(labels.ravel())[1:].max(initial=0) < MIN_AREA * alpha.size:
        return "empty"
    edges = (solid[0], solid[-1], solid[:, 0], solid[:, -1])
    if min(edge.mean() for edge in edges) > 0.98:
        if solid.mean() < LINE:
            return "punched"
        plain = rgb[alpha > 255 * OPAQUE].std(axis=0).max(initial=0) < PLAIN
        if rgb[alpha < 255 * CLEAR].std(axis=0).max(initial=0) > PLAIN:
            return "inverted" if plain else "punched"
        return "empty" if plain else "cut out"
    return "opaque" if solid.mean() > 0.95 and all(edge.any() for edge in edges) else "cut out"


class Cleaned(NamedTuple):
    """A photo's own cut-out, such that each pixel is either the product or not, but for soft rims."""

    rgb: Rgb
    alpha: Alpha
    translucent: float  # part of the product that was translucent and is opaque now


def clean(rgba: Rgba) -> Cleaned:
    """Remove soft shadows, and make opaque what is translucent in a product, with the colours it has on a white page.

    A shadow fades out, is dark and grey, and has one colour: at least two of the three. Where it touches the product it may be
    opaque. A translucent body has an outline. A region that is neither, such as fluff or a reflection, stays as it is.
    """
    rgb, alpha, faded = _unfaded(rgba)
    middle = (alpha > CLEAR) & (alpha < OPAQUE)
    rim = 2 * max(2, round(max(alpha.shape) / 250)) + 1  # pixels; a soft rim is narrower
    if not ndimage.minimum_filter(middle, rim).any():
        return Cleaned(rgb, alpha, faded)
    dark = (rgb.max(axis=2) < DARK) & (np.ptp(rgb, axis=2) < GREY)
    bodies, shadows = np.zeros_like(middle), np.zeros_like(middle)
    reach = max(
        4, round(max(alpha.shape) / 80)
    )  # pixels from the clear ground, where a body has its full alpha
    depth = ndimage.distance_transform_edt(alpha > CLEAR)
    found, colors = [], []
    for kind in (dark, ~dark):
        core = ndimage.minimum_filter(middle & kind, rim)
        regions, _ = ndimage.label(middle & kind & ndimage.maximum_filter(core, rim))
        for n, part in enumerate(ndimage.find_objects(regions), 1):
            region = regions[part] == n
            levels, deep = alpha[part][region], depth[part][region]
            inner = levels[(deep > 0.8 * reach) & (deep < 1.2 * reach)]
            is_outer = deep.min() <= 2 and inner.size
            fades = is_outer and (inner < 0.5 * np.percentile(levels, 80)).mean() > 0.25
            low, color, high = np.percentile(rgb[part][region], (10, 50, 90), axis=0)
            one_color = (high - low).max() < SAME
            if is_outer and ((kind is dark and (fades or one_color)) or (fades and one_color)):
                shadows[part] |= region
                colors.append(color)
            elif not fades:
                found.append((part, region, color if one_color else None))
    for part, region, color in found:
        # Between the legs of a chair a shadow may have no clear ground beside it.
        if color is not None and any(np.abs(color - shadow).max() < SAME for shadow in colors):
            shadows[part] |= region
        else:
            bodies[part] |= region
            _make_opaque(rgb[part], alpha[part], region)
    if shadows.any():
        _remove_shadows(alpha, shadows, bodies, _has_color(rgb, colors), reach)
    return Cleaned(rgb, alpha, max(faded, float(bodies.sum() / max(1, (alpha > 0.5).sum()))))


def _remove_shadows(alpha: Alpha, shadows: Mask, bodies: Mask, like: Mask, reach: int) -> None:
    """Make shadows transparent, in place.

    Args:
        alpha: of the whole photo.
        shadows: where shadows were found. What adjoins them and is opaque or nearly so is found here.
        bodies: what is translucent in the product.
        like: what has the colour of one of the shadows.
        reach: pixels beside a shadow where a rim is mixed with it.
    """
    solid = alpha >= OPAQUE
    # A contact shadow is nearly opaque in its middle, but less so than the product, if most of what is solid is product.
    others = solid & ~like
    is_known = 2 * others.sum() > solid.sum()
    opaque = np.percentile(alpha[others if is_known else solid], 10) if solid.any() else OPAQUE
    if is_known:
        core = like & (alpha > CLEAR) & (alpha < opaque) & ~bodies
        shadows = ndimage.binary_propagation(shadows, mask=shadows | core)
    middles = like & (alpha >= opaque) & ~bodies
    if 4 * others.sum() > solid.sum() and middles.any():
        middles = _fading(middles, shadows & (alpha >= SOFT), others)
        alpha[middles] = 0
        shadows = shadows | middles
    # Beside a shadow a rim is mixed with it: only what is as opaque as the rest belongs to the product.
    near = ndimage.distance_transform_edt(~shadows) <= 2 * reach
    alpha[near & (alpha < opaque) & ~bodies] = 0


def _fading(middles: Mask, soft: Mask, others: Mask) -> Mask:
    """Return those of the opaque parts that fade out all round, but where the product hides them.

    Args:
        middles: what is opaque and has a shadow's colour.
        soft: what is nearly as opaque, and a shadow.
        others: what is opaque and has another colour.
    """
    shadows = np.zeros_like(middles)
    labels, _ = ndimage.label(ndimage.binary_opening(middles, iterations=2))
    for n, extent in enumerate(ndimage.find_objects(labels), 1):
        box = tuple(slice(max(0, side.start - 4), side.stop + 4) for side in extent)
        # With its corners, which the opening has cut off.
        part = ndimage.binary_dilation(labels[box] == n, iterations=2, mask=middles[box])
        beside = ndimage.binary_dilation(part) & ~part & ~others[box]
        if soft[box][beside].sum() > ALL_ROUND * max(1, beside.sum()):
            shadows[box] |= part
    return shadows


def _has_color(rgb: Rgb, colors: Sequence[Color]) -> Mask:
    """Return where the photo has one of the colours."""
    # By a table of all colours: there may be hundreds of shadows.
    near = np.zeros((256, 256, 256), bool)
    for color in np.unique(np.round(colors), axis=0).astype(int):
        near[tuple(slice(max(0, level - int(SAME) + 1), level + int(SAME)) for level in color)] = True
    return near[rgb[..., 0], rgb[..., 1], rgb[..., 2]]


def _unfaded(rgba: Rgba) -> tuple[Rgb, Alpha, float]:
    """Make opaque what is translucent everywhere, with the colours it has on white.

    Returns the colours, the alpha, and 1 if so much shines through that it may be glass, else 0.
    """
    rgb, alpha = rgba[..., :3].copy(), np.divide(rgba[..., 3], 255, dtype=np.float32)
    full = np.percentile(alpha[alpha > CLEAR], 95)
    if full < OPAQUE:
        rgb = (rgb * full + 255 * (1 - full)).round().astype(np.uint8)
        alpha = np.minimum(alpha / full, 1).astype(np.float32)
    return rgb, alpha, float(full < 0.7)


def _make_opaque(rgb: Rgb, alpha: Alpha, region: Mask) -> None:
    """Lay a translucent region on white, in place. Its soft rim stays soft."""
    full = max(float(np.percentile(alpha[region], 10)), CLEAR)
    raised = ndimage.binary_dilation(region, iterations=2) & (alpha < OPAQUE)
    share = np.maximum(alpha, full)[raised, None]
    rgb[raised] = (rgb[raised] * share + 255 * (1 - share)).round()
    alpha[raised] = np.minimum(alpha[raised] / full, 1)
