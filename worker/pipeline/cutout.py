"""A photo → the product alone. The alpha is straight: the photo's own if it has one, else that of a rembg model."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from worker import weights
from worker.core.errors import JobError
from worker.pipeline.background import Alpha, BackgroundModel

Rgba = NDArray[np.uint8]  # (H, W, 4), sRGB, straight alpha

SOLID = 0.5  # a pixel above it belongs to the product; networks give products 1.0, and an empty photo at most 0.06
MIN_AREA = 0.001  # of the photo; a smaller part is a speck and no product
KEPT_SHARE = 0.05  # of the largest part's area; a smaller part does not belong to the product
VIEW_SIDE = 435  # pixels that the product's longer side has in a view
MARGIN = 0.12  # of the product's longer side, kept around it in the second pass
AGREEMENT = 0.85  # intersection over union; below it the second pass found another object than the first
RIM = 0.95  # below this alpha a pixel's colour contains the background's
PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}

# Part of the product that is neither product nor background. Clear cut-outs have at most 0.07 of it; a ring with a filled
# hole has 0.4, a cat that the network dissolves 0.2.
UNSURE = (0.05, 0.35)
WARN_UNSURE = 0.1  # from here on the report has a warning


class Cutout(NamedTuple):
    """A product without its background, and how far the cut-out can be trusted."""

    rgba: Rgba  # of the photo's size
    certainty: float  # 0..1; 1 where nothing speaks against the cut-out
    warnings: tuple[str, ...]  # sentences for a merchant


class Cutter:
    """Cut products out of photos with one model. It is loaded when the first photo needs it, and kept."""

    def __init__(self, model: str, folder: Path, device: str = "cpu") -> None:
        """Check the weights of `model` in `folder` (see `worker.weights`). `device` is "cpu" or "cuda", with no fallback.

        Raises: WeightsMissing, CutoutUnavailable.
        """
        weights.verify(folder, model)
        self.model = model
        self._folder = folder
        self._providers = PROVIDERS[device]
        self._background: BackgroundModel | None = None
        if device != "cpu":
            self._load()  # the GPU's libraries may be missing: fail now and not in a job

    def cut(self, image: Image.Image, subject: Any = None) -> Cutout:  # noqa: ARG002 - the next commit
        """Cut the product out of an RGB or RGBA photo.

        Args:
            image: the photo.
            subject: `metadata.subject`, as the backend wrote it: which product of the photo is meant.

        Raises: JobError `no_object`.
        """
        if image.mode == "RGBA":
            rgba = np.array(image)
            match _classify_alpha(rgba[..., 3]):
                case "cut out":
                    alpha = _without_specks(np.divide(rgba[..., 3], 255, dtype=np.float32))
                    return _rated(_assemble(rgba[..., :3], alpha), alpha)
                case "empty":
                    raise JobError("no_object")
            # The transparency is decoration: rounded corners, or a photo that is slightly transparent everywhere.
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        alpha = self._alpha(image)
        return _rated(_assemble(_without_fringe(np.asarray(image), alpha), alpha), alpha)

    def _load(self) -> BackgroundModel:
        if self._background is None:
            self._background = BackgroundModel(self.model, self._folder, self._providers)
        return self._background

    def _alpha(self, image: Image.Image) -> Alpha:
        """Return the product's alpha, (H, W) in 0..1. Raises: JobError `no_object`."""
        background = self._load()
        whole = _without_specks(background.predict(image))
        left, top, right, bottom = box = _surroundings(whole > SOLID)
        # The network sees each photo in a small square. If the product is smaller there than in a view, and fills less than
        # half of the photo, a second pass over the product alone finds finer outlines (IoU 0.94 → 0.98 at a quarter).
        seen = max(right - left, bottom - top) / max(image.size) * background.side
        if seen > VIEW_SIDE or 2 * (right - left) * (bottom - top) > whole.size:
            return whole
        closer = np.zeros_like(whole)
        closer[top:bottom, left:right] = background.predict(image.crop(box))
        # The second pass may find only a part, such as the food without its plate. Then the first result is kept.
        common, either = (closer > SOLID) & (whole > SOLID), (closer > SOLID) | (whole > SOLID)
        return _without_specks(closer) if common.sum() > AGREEMENT * either.sum() else whole


def _rated(rgba: Rgba, alpha: Alpha) -> Cutout:
    share = unsure(alpha)
    low, high = UNSURE
    certainty = float(np.clip((high - share) / (high - low), 0, 1))
    said = []
    if share > WARN_UNSURE:
        said.append(f"The cut-out is unsure: {share:.0%} of it may be background.")
    return Cutout(rgba, certainty, tuple(said))


def unsure(alpha: Alpha) -> float:
    """Return which part of the product is neither product nor background, 0..1, soft rims left out."""
    middle = (alpha > 0.1) & (alpha < 0.9)
    reach = max(2.0, float(np.sqrt((alpha > SOLID).sum())) / 100)  # pixels that a rim is soft to each side
    core = ndimage.distance_transform_edt(middle) > reach
    if not core.any():
        return 0.0
    opened = ndimage.distance_transform_edt(~core) <= reach
    return float(opened.sum() / (alpha > 0.1).sum())


def _classify_alpha(alpha: NDArray[np.uint8]) -> str:
    """Say what a photo's own transparency is: "cut out", "empty" or "decoration".

    A photo is cut out if at least 1 % of its pixels are transparent and its solid part is larger than a speck. If the
    solid part reaches all four edges and fills more than 95 %, it is a photo with rounded corners instead.
    """
    solid = alpha > 127
    share = solid.mean()
    if share > 0.99:
        return "decoration"
    if not share or _largest(solid) < MIN_AREA * solid.size:
        return "empty"
    edges = (solid[0], solid[-1], solid[:, 0], solid[:, -1])
    return "decoration" if share > 0.95 and all(edge.any() for edge in edges) else "cut out"


def _largest(mask: NDArray[np.bool_]) -> int:
    labels, _ = ndimage.label(mask)
    return int(np.bincount(labels.ravel())[1:].max(initial=0))


def _assemble(rgb: NDArray[np.uint8], alpha: Alpha) -> Rgba:
    rgba = np.dstack([rgb, (alpha * 255).round().astype(np.uint8)])
    rgba[rgba[..., 3] == 0] = 0  # the background is removed and not only hidden
    return rgba


def _without_specks(alpha: Alpha) -> Alpha:
    """Keep the largest part and others of some size, each with its soft rim. Holes stay holes. Raises: JobError."""
    labels, _ = ndimage.label(alpha > SOLID)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    if areas.max() < MIN_AREA * alpha.size:
        raise JobError("no_object")
    kept = (areas >= KEPT_SHARE * areas.max())[labels]
    reach = max(2, round(max(alpha.shape) / 100))  # pixels that a rim is soft
    # Filled, because a translucent region inside the product belongs to it; a drop shadow outside does not.
    near = ndimage.distance_transform_edt(~ndimage.binary_fill_holes(kept)) <= reach
    dropped = (labels > 0) & ~kept
    return np.where(near & ~dropped, alpha, np.float32(0))


def _surroundings(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the mask's set pixels, with a margin, inside the photo."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    margin = int(MARGIN * max(np.ptp(rows), np.ptp(columns)))
    height, width = mask.shape
    left, top = max(columns[0] - margin, 0), max(rows[0] - margin, 0)
    right, bottom = min(columns[-1] + 1 + margin, width), min(rows[-1] + 1 + margin, height)
    return int(left), int(top), int(right), int(bottom)


def _without_fringe(rgb: NDArray[np.uint8], alpha: Alpha) -> NDArray[np.uint8]:
    """Give each pixel of the rim the colour of the nearest pixel without background in it."""
    rim = (alpha > 0) & (alpha < RIM)
    if not (alpha >= RIM).any():
        return rgb
    nearest = ndimage.distance_transform_edt(alpha < RIM, return_distances=False, return_indices=True)
    cleaned = rgb.copy()
    cleaned[rim] = rgb[nearest[0][rim], nearest[1][rim]]
    return cleaned
