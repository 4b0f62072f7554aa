"""Choose the preset of a job whose `quality` is `auto`: the smallest one that keeps what its photos show."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from worker.engines.presets import PRESETS, Preset
from worker.engines.surface import View
from worker.pipeline.choose import luminance
from worker.pipeline.photo import ScoredView
from worker.pipeline.sharpness import BLURRED, blur

AUTO = "auto"

SMALL = 256  # pixels of the product's longer side in the photo; below it a small grid loses nothing
FULL = (
    512  # pixels, of which a view has 435 for the product: with less, no grid finds more than at `balanced`
)
DETAILED = 7.5  # standard deviation of the luminance's fine structure, 8-bit: print, weave, engraving
THIN_RADIUS = 6  # pixels of a view; what is thinner than twice this needs a fine grid
THIN_PART = 0.03  # part of the product's area that is so thin
MANY = 3  # photos whose pixels need a large texture


class Choice(NamedTuple):
    """A preset, and the sentence that says why `auto` chose it; empty if the row named the preset."""

    preset: Preset
    reason: str

    @property
    def report(self) -> dict[str, str]:
        """JSON-able, for `metadata.worker`."""
        return {"preset": self.preset.name} | ({"preset_reason": self.reason} if self.reason else {})


def choose_preset(quality: str, used: Sequence[ScoredView]) -> Choice:
    """Return the preset of a job.

    Args:
        quality: of the row, a key of PRESETS or `auto`.
        used: the photos that the model is made from, the front first.
    """
    if quality != AUTO:
        return Choice(PRESETS[quality], "")
    view = used[0].view
    side = used[0].score.size * len(view)
    length = f"The product is {side:.0f} pixels long in its photo."
    rules = (
        (side < SMALL, "fast", length),
        (blur(view) > BLURRED, "fast", "The photo is blurred."),
        (side < FULL, "balanced", length),
        (len(used) >= MANY, "quality", f"Large photos from {len(used)} sides."),
        (_fine_structure(view) > DETAILED, "quality", "A large, sharp photo with fine details."),
        (_thin_part(view) > THIN_PART, "quality", "A large photo of a product with thin parts."),
        (True, "balanced", "A large photo without fine details or thin parts."),
    )
    return next(Choice(PRESETS[name], reason) for applies, name, reason in rules if applies)


def _fine_structure(view: View) -> float:
    """Return the standard deviation of structures of a few pixels, inside the outline."""
    inside = ndimage.binary_erosion(view[..., 3] > 127, iterations=4)
    light = luminance(view)
    fine = ndimage.gaussian_filter(light, 1) - ndimage.gaussian_filter(light, 2)
    return float(fine[inside].std()) if inside.any() else 0.0


def _thin_part(view: View) -> float:
    """Return the part of the outline's area that no disk of THIN_RADIUS reaches."""
    mask = view[..., 3] > 127
    core = ndimage.distance_transform_edt(mask) > THIN_RADIUS
    reached = ndimage.distance_transform_edt(~core) <= THIN_RADIUS if core.any() else np.zeros_like(core)
    return 1 - float((reached & mask).sum() / max(1, mask.sum()))
