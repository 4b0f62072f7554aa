"""Rate photos, to choose the one that the model is made from."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.surface import View
from worker.pipeline.cutout import Cutout

SHARP = 6.0  # the variance of the Laplacian of 8-bit luminance, at the frame's size, that scores one half
CUT_OFF = 0.2  # part of the product's height or width; a longer straight edge at the photo's border means it is cut off
REC_709 = np.array([0.2126, 0.7152, 0.0722], np.float32)  # luminance of R, G and B (ITU-R BT.709)


class PhotoScore(NamedTuple):
    """The score of a photo, by how well it shows the product. Each part and `total` are in 0..1, and more is better."""

    size: float  # the product's longer side, as part of the frame's 512 pixels; 1 if it is longer
    sharpness: float  # v / (v + SHARP), where v is the variance of the Laplacian inside the product
    whole: float  # 0.25 if the photo's border cuts the product off, else 1
    certainty: float  # of the cut-out

    @property
    def total(self) -> float:
        """The product of the parts; an unsure cut-out keeps a tenth."""
        return self.size * self.sharpness * self.whole * (0.1 + 0.9 * self.certainty)


def score_photo(cutout: Cutout, view: View) -> PhotoScore:
    """Rate a photo.

    Args:
        cutout: of the photo at its own size; something in it has alpha above one half.
        view: (512, 512, 4) of the same, framed.
    """
    solid = cutout.rgba[..., 3] > 127
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    borders = ((solid[0], width), (solid[-1], width), (solid[:, 0], height), (solid[:, -1], height))
    cut_off = any(_longest_run(border) > CUT_OFF * side for border, side in borders)

    # A few pixels from the outline, which is sharp in any cut-out.
    inside = ndimage.binary_erosion(view[..., 3] > 127, iterations=4)
    variance = float(ndimage.laplace(luminance(view))[inside].var()) if inside.any() else 0.0
    return PhotoScore(
        size=min(1.0, max(height, width) / view.shape[0]),
        sharpness=variance / (variance + SHARP),
        whole=0.25 if cut_off else 1.0,
        certainty=cutout.certainty,
    )


def luminance(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the luma of an (H, W, 3 or more) sRGB image: (H, W) in 0..255, weighted by BT.709, gamma-encoded."""
    return np.asarray(image[..., :3].astype(np.float32) @ REC_709)


def _longest_run(line: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))
