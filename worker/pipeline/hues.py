"""Give a product back the parts that the background model leaves out, where a plain ground shows a hue that no shadow has."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.pipeline.backdrop import fit_backdrop
from worker.pipeline.background import Alpha
from worker.pipeline.parts import with_parts

SIDE = 1024  # pixels of the longer side, at which parts are searched
BUSY = 6.0  # levels; a ground that differs more from a smooth surface says nothing of what stands on it
RIM = 4  # pixels of an outline that is soft or mixed with the ground
HUE = 20.0  # levels beside the ground's own hue, however dark it is; a shadow beside red wheels has up to 17
SURE = 0.95  # alpha, above which the background model needs no help
LEAST = 0.002  # of the product's area; a smaller part does not matter


def add_colored(rgb: NDArray[np.uint8], alpha: Alpha) -> Alpha:
    """Make opaque what touches the product and has a hue of its own on a plain ground: a shadow has the ground's hue.

    What reaches below the product is left out: it may be its reflection, or light that shines through it.

    Args:
        rgb: (H, W, 3) sRGB, the photo.
        alpha: (H, W), of the background model.
    """
    step = -(-max(alpha.shape) // SIDE)
    found = _find(rgb[::step, ::step], alpha[::step, ::step])
    return with_parts(alpha, found) if found.any() else alpha


def _find(rgb: NDArray[np.uint8], alpha: Alpha) -> NDArray[np.bool_]:
    found = np.zeros(alpha.shape, bool)
    solid = alpha > 0.5
    if not solid.any():
        return found
    backdrop = fit_backdrop(rgb, ndimage.distance_transform_edt(~ndimage.binary_fill_holes(solid)) > RIM)
    if backdrop is None or backdrop.noise > BUSY:
        return found
    ground = backdrop.levels(*alpha.shape)
    color = ndimage.gaussian_filter(rgb.astype(np.float32), (1, 1, 0))
    # Nearest to the colour among all that the ground has in more or less light.
    shade = (color * ground).sum(axis=2) / np.maximum((ground * ground).sum(axis=2), 1)
    hue = np.abs(color - shade[..., None] * ground).max(axis=2)
    least = max(HUE, 6 * backdrop.noise)
    own = ~solid & (hue > least)
    core = ndimage.binary_opening(own, iterations=2)
    # A part may be in pieces.
    around = ndimage.binary_dilation(core, iterations=2 * RIM)
    parts, count = ndimage.label(around)
    sizes = np.bincount(parts[core], minlength=count + 1)
    bottom = int(np.flatnonzero(solid.any(axis=1))[-1])
    for n, extent in enumerate(ndimage.find_objects(parts), 1):
        near, product = parts[extent] == n, solid[extent]
        if (
            sizes[n] < LEAST * solid.sum()
            or extent[0].stop - 2 * RIM > bottom + RIM
            or not (near & product).any()
        ):
            continue
        # With its corners, which the opening has cut off, and what parts it from the product: its own shading.
        part = ndimage.binary_dilation(core[extent], iterations=RIM, mask=own[extent] & near)
        found[extent] |= _closed(part | product) & near
    # Inside of the outline the photo is sure, even if the model is not.
    inside = ndimage.binary_erosion(solid | found, iterations=RIM)
    return np.asarray(found | (inside & (alpha < SURE) & (hue > least)))


def _closed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill what is narrower than twice `RIM`."""
    wide = ndimage.distance_transform_edt(np.pad(~mask, RIM, constant_values=True)) <= RIM
    return np.asarray(ndimage.distance_transform_edt(wide)[RIM:-RIM, RIM:-RIM] > RIM)
