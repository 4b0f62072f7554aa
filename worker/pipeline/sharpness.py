"""Measure how blurred a photo is, by the slope of its edges."""

import numpy as np
from scipy import ndimage

from worker.engines.surface import View
from worker.pipeline.choose import luminance

BLURRED = 0.65  # blur of a view; from here on a photo is called blurred

CONTRAST = 60.0  # 8-bit steps across an edge; less may be the soft shading of a rounded edge
ACROSS = 11  # pixels, along which the contrast of an edge is measured
SLOPE = 4.0  # 8-bit steps a pixel, of an edge at least
FEW, EDGES = 20, 0.002  # pixels, part of the product's pixels; with fewer on edges the blur is unknown
STEEPNESS = (0.3, 0.1)  # slope of the sharpest edges, as part of their contrast: sharp, and blurred


def blur(view: View) -> float:
    """Measure how blurred the product's edges are in a (S, S, 4) view.

    The slope of an edge is compared with its contrast. The sharpest tenth of the edges decides: part of a product may be out
    of focus, or rounded. Edges with little contrast do not count: the shading of a rounded edge is soft in a sharp photo too.

    Returns:
        0..1: up to 0.3 for a sharp photo, 0.75 from a blur of three pixels on (standard deviation), 0 if there are too few edges.
    """
    light = luminance(view)
    # Away from the outline, which the cut-out makes sharp.
    inside = ndimage.binary_erosion(view[..., 3] > 127, iterations=6)
    steepness = []
    for axis in (0, 1):
        slope = np.abs(ndimage.sobel(light, axis)) / 8  # steps a pixel
        highest, lowest = (
            extreme(light, ACROSS, axis=axis)
            for extreme in (ndimage.maximum_filter1d, ndimage.minimum_filter1d)
        )
        contrast = highest - lowest
        edge = inside & (contrast > CONTRAST) & (slope > SLOPE)
        steepness.append(slope[edge] / contrast[edge])
    found = np.concatenate(steepness)
    if len(found) < max(FEW, EDGES * inside.sum()):
        return 0.0
    sharp, soft = STEEPNESS
    return float(np.clip((sharp - np.quantile(found, 0.9)) / (sharp - soft), 0, 1))
