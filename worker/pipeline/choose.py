"""Which of several photos the model is made from."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.surface import View

SHARP = 6.0  # variance of the Laplacian, 8-bit luminance at the frame's size, that counts half
CUT_OFF = 0.2  # of its height or width: so long a straight edge along the photo's border is the photo's, not the product's


class PhotoScore(NamedTuple):
    """How well a photo shows the product; each part and their product are in 0..1, and more is better."""

    size: float  # the product's longer side, 1 from the frame's 512 pixels on
    sharpness: float  # v / (v + SHARP), v the variance of the Laplacian inside the product
    whole: float  # 0.25 where the photo's border cuts the product off, else 1

    @property
    def total(self) -> float:
        return self.size * self.sharpness * self.whole


def score_photo(cutout: NDArray[np.uint8], view: View) -> PhotoScore:
    """`cutout` is the photo's own (H, W, 4) RGBA, `view` the same framed."""
    solid = cutout[..., 3] > 127
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    borders = ((solid[0], width), (solid[-1], width), (solid[:, 0], height), (solid[:, -1], height))
    cut_off = any(_longest_run(border) > CUT_OFF * side for border, side in borders)

    luminance = view[..., :3].astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    # A few pixels from the outline, which is sharp in any cut-out.
    inside = ndimage.binary_erosion(view[..., 3] > 127, iterations=4)
    variance = float(ndimage.laplace(luminance)[inside].var()) if inside.any() else 0.0
    return PhotoScore(
        size=min(1.0, max(height, width) / view.shape[0]),
        sharpness=variance / (variance + SHARP),
        whole=0.25 if cut_off else 1.0,
    )


def _longest_run(line: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))
