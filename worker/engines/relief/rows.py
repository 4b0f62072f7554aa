"""Recognise rows of a photo whose colour goes round the product, such as those of a snowman's scarf or of a plant's pot."""

import numpy as np
from scipy import ndimage

from worker.engines.relief.outline import FloatMap
from worker.engines.views import Mask

NARROW = 6  # pixels; shorter runs say nothing
END = 0.1  # of a run, at each side: its end, which gives the colour
INWARD = 0.35  # of a run, at each side: as far as the colour must hold
SAME = 0.07  # mean difference of colours that are the same; 1 is black to white
LIGHT = 1.6  # the most by which one end may be brighter than the other
OTHER = 0.25  # difference of a pixel's colour within an end that is of something else, such as a frame


def colors_around(photo: FloatMap, mask: Mask) -> tuple[FloatMap, Mask]:
    """Return the colours that rows have on the side that no photo shows, and where they are known.

    A run of a row has a known colour if its two ends have the same one and if it holds inward. What lies in its middle, such
    as a face or a label, does not count.

    Args:
        photo: (S, S, 3), 0..1
        mask: (S, S), true where the product is.

    Returns:
        (S, S, 3), passing from the one end's colour to the other's; and (S, S), true where it is known.
    """
    begins = np.flatnonzero(mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1])
    ends = np.flatnonzero(mask & ~np.pad(mask, ((0, 0), (0, 1)))[:, 1:]) + 1
    wide = ends - begins >= NARROW
    known = np.zeros(mask.shape, bool)
    if not wide.any():
        return np.zeros_like(photo), known
    begins, length = begins[wide], (ends - begins)[wide]
    run = np.repeat(np.arange(len(length)), length)
    first = np.concatenate([[0], length.cumsum()[:-1]])
    place = np.arange(len(run)) - first[run]
    pixel = begins[run] + place
    across = (place + 0.5) / length[run]
    # Each run has two halves, one after the other.
    half = 2 * run + (across >= 0.5)
    starts = np.flatnonzero(np.diff(half, prepend=-1))
    depth = np.minimum(across, 1 - across)
    own = photo.reshape(-1, 3)[pixel]

    def mean(values: FloatMap, within: float) -> FloatMap:
        """Return the (2R, C) means of (N, C) values over the outer part of each half."""
        use = (depth < within)[:, None]
        return np.asarray(np.add.reduceat(values * use, starts) / np.add.reduceat(use, starts), np.float32)

    end = mean(own, END)
    off = np.abs(own - end[half]).mean(axis=1, keepdims=True)
    holds = mean(off, INWARD)[:, 0] < SAME
    holds &= np.maximum.reduceat(np.where(depth < END, off[:, 0], 0), starts) < OTHER
    left, right = end[::2], end[1::2]
    # Light falls from one side.
    brighter = np.sqrt((left**2).sum(axis=1) / np.maximum((right**2).sum(axis=1), 1e-6))
    brighter = np.clip(brighter, 1 / LIGHT, LIGHT)[:, None]
    sure = holds[::2] & holds[1::2] & (np.abs(left / brighter - right).mean(axis=1) < SAME)

    share = (across * across * (3 - 2 * across))[:, None]
    colors = np.zeros_like(photo)
    colors.reshape(-1, 3)[pixel] = (1 - share) * left[run] + share * right[run]
    known.ravel()[pixel] = sure[run]
    # One row alone is a streak.
    known = ndimage.minimum_filter(known, (3, 1))
    weight = known.astype(np.float32)
    soft = ndimage.gaussian_filter(colors * weight[:, :, None], (1.5, 1, 0))
    soft /= np.maximum(ndimage.gaussian_filter(weight, (1.5, 1)), 1e-6)[:, :, None]
    return np.asarray(soft, np.float32), known
