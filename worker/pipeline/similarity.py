"""Compare a picture of the model with the photo that it was made from."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import deltaE_ciede2000, rgb2lab

from worker.engines.surface import View

PLAIN = 0.15  # standard deviation of L* in it, below which a photo has no structure to keep


class Similarity(NamedTuple):
    """The similarity of the photo and the model, as the photo's camera sees it."""

    overlap: float  # intersection over union of the outlines, 0..1
    difference: float  # mean ΔE2000 inside both outlines
    detail: float  # the part of the photo's fine structure that the model has at the same place, 0..1


def compare(seen: NDArray[np.uint8], photo: View) -> Similarity:
    """Compare two (S, S, 4) pictures from the same camera, the model and the photo."""
    shape, wanted = seen[..., 3] > 127, photo[..., 3] > 127
    both = shape & wanted
    overlap = float(both.sum() / max(1, (shape | wanted).sum()))
    # Right at the outline a photo's pixels are mixed with its background.
    inside = ndimage.binary_erosion(both, iterations=3)
    if not inside.any():
        return Similarity(overlap, 100.0, 0.0)
    (box,) = ndimage.find_objects(both.astype(np.int8))
    inside = inside[box]
    ours, theirs = (rgb2lab(picture[box][..., :3] / np.float32(255)) for picture in (seen, photo))
    difference = float(deltaE_ciede2000(ours[inside], theirs[inside]).mean())  # type: ignore[no-untyped-call]  # has no types
    # Structures of a few pixels: finer ones are the photo's noise, and coarser ones count in the difference already.
    fine, wanted_fine = (
        (ndimage.gaussian_filter(lab[..., 0], 1) - ndimage.gaussian_filter(lab[..., 0], 2))[inside]
        for lab in (ours, theirs)
    )
    there = float(wanted_fine.var())
    kept = float((fine * wanted_fine).mean()) / there if there > PLAIN**2 else 1.0
    return Similarity(overlap, difference, min(1.0, max(0.0, kept)))
