"""A photo → the product alone. The alpha is straight: the photo's own if it is a cut-out, else that of a rembg model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from worker import weights
from worker.core.errors import JobError
from worker.pipeline import framed, transparency
from worker.pipeline.backdrop import lost_outline
from worker.pipeline.background import Alpha, BackgroundModel
from worker.pipeline.holes import close_holes, open_holes
from worker.pipeline.hues import add_colored
from worker.pipeline.light_parts import add_light_parts
from worker.pipeline.parts import SOLID, count_alike, cut_along, within, without_specks
from worker.pipeline.people import shows_face
from worker.pipeline.subject import Box, read_subject

Mask = NDArray[np.bool_]  # (H, W)
Rgb = NDArray[np.uint8]  # (H, W, 3), sRGB
Rgba = NDArray[np.uint8]  # (H, W, 4), sRGB, straight alpha

VIEW_SIDE = 435  # pixels that the product's longer side has in a view
MARGIN = 0.12  # of the product's longer side, kept around it in the second pass
AGREEMENT = 0.85  # intersection over union; below it the second pass found another object than the first
FRINGE = (
    0.012  # of the photo's longer side, from the outline inwards, where unsure pixels may show the background
)
RIM = 0.95  # below this alpha a pixel's colour contains the background's

# Part of the product that is neither product nor background. Clear cut-outs have at most 0.07 of it; a ring with a filled
# hole has 0.4, a cat that the network dissolves 0.2.
UNSURE = (0.05, 0.25)
WARN_UNSURE = 0.1  # from here on there is a warning
NO_PRODUCT = 0.4  # where more is unsure, the photo in a frame shows no product: a pattern has 0.98, a burger on a plate 0.35
LOST = (0.06, 0.15)  # part of the rim that has the ground's colour; clear cut-outs have at most 0.05
WARN_TRANSLUCENT = 0.02  # part of the product; likewise

# What each doubt leaves of the certainty. A third or less puts the best model below the default WORKER_REVIEW_SCORE.
SEVERAL, PERSON, NO_SUBJECT, DISAGREED = 0.25, 0.25, 0.25, 0.33
FRAMED, INVERTED, LIKE_GROUND = 0.6, 0.7, 0.3
CUT_OFF = 0.33

LONG_CUT = 0.3  # of the product's width or height; where things only touch, a box between them cuts less


class Cutout(NamedTuple):
    """A product without its background, and how far the cut-out can be trusted."""

    rgba: Rgba  # of the photo's size
    certainty: float  # 0..1; 1 where nothing speaks against the cut-out
    warnings: tuple[str, ...]  # sentences for a merchant


@dataclass(frozen=True)
class _Draft:
    """A cut-out in work."""

    rgb: Rgb
    alpha: Alpha
    certainty: float = 1.0
    warnings: tuple[str, ...] = ()

    def doubted(self, factor: float, *warnings: str) -> "_Draft":
        return replace(self, certainty=self.certainty * factor, warnings=(*self.warnings, *warnings))


class Cutter:
    """Cut products out of photos with one model. It is loaded when the first photo needs it, and kept."""

    def __init__(self, model: str, folder: Path) -> None:
        """Check the weights of `model` in `folder` (see `worker.weights`). Raises: WeightsMissing."""
        weights.verify(folder, model)
        self.model = model
        self.digest = weights.digest(model)
        self._folder = folder
        self._background: BackgroundModel | None = None

    def cut(self, image: Image.Image, subject: Any = None) -> Cutout:
        """Cut the product out of an RGB or RGBA photo.

        Args:
            image: the photo.
            subject: `metadata.subject`, as the backend wrote it: {"box": [x0, y0, x1, y1]} around the product that is
                meant, in parts of the photo. What makes no sense is ignored with a warning.

        Raises: JobError `no_object`.
        """
        box, warnings = read_subject(subject)
        if box:
            try:
                return self._cut(image, box)
            except JobError:
                warnings = ("No product was found in the subject's box: the whole photo was used.",)
        cutout = self._cut(image, None)
        doubt = NO_SUBJECT if box else 1.0
        return cutout._replace(certainty=cutout.certainty * doubt, warnings=(*warnings, *cutout.warnings))

    def _cut(self, image: Image.Image, box: Box | None) -> Cutout:
        draft = self._own(np.asarray(image), box) if image.mode == "RGBA" else None
        if draft is None:
            draft = self._predicted(_on_white(image), box)
        alpha = draft.alpha
        if box:
            alpha = within(draft.alpha, box)
            if cut_along(draft.alpha, alpha, _pixels(box, image.size)) > LONG_CUT:
                draft = draft.doubted(CUT_OFF, "The subject's box cuts the product off.")
        alpha = without_specks(alpha)
        if not box and (count := count_alike(alpha)) > 1:
            draft = draft.doubted(
                SEVERAL,
                f"The photo shows {count} things of like size. Use a photo of one product, or mark the one that is meant.",
            )
        rgba = np.dstack([draft.rgb, (alpha * 255).round().astype(np.uint8)])
        rgba[rgba[..., 3] == 0] = 0  # the background is removed and not only hidden
        if shows_face(rgba):
            draft = draft.doubted(
                PERSON, "The photo seems to show a person. Use a photo of the product alone."
            )
        return Cutout(rgba, round(draft.certainty, 3), draft.warnings)

    def _own(self, rgba: Rgba, box: Box | None) -> _Draft | None:
        """Use the photo's own transparency. None if it is an ordinary photo, to be laid on white.

        Raises: JobError `no_object`.
        """
        match transparency.classify(rgba):
            case "opaque":
                return None
            case "empty":
                raise JobError("no_object")
            case "punched":
                photo = Image.fromarray(np.ascontiguousarray(rgba[..., :3]))
                return self._predicted(photo, box).doubted(
                    INVERTED, "The photo has a transparent hole: the photo was used as if it had none."
                )
            case "inverted":
                return _rated(rgba[..., :3], np.divide(255 - rgba[..., 3], 255, dtype=np.float32)).doubted(
                    INVERTED, "The photo's transparency is inverted: what it hides was taken for the product."
                )
        shape = framed.outline(rgba)
        if shape is not None and (draft := self._framed(rgba, shape, box)):
            return draft
        cleaned = transparency.clean(rgba)
        draft = _rated(cleaned.rgb, cleaned.alpha)
        if cleaned.translucent > WARN_TRANSLUCENT:
            draft = draft.doubted(
                1 - 0.4 * min(1.0, cleaned.translucent),
                "Parts of the product are translucent in the photo: the model shows them opaque.",
            )
        return draft

    def _framed(self, rgba: Rgba, shape: Mask, box: Box | None) -> _Draft | None:
        """Cut the product out of a photo in a transparent frame. None if the opaque part is the product itself."""
        rgb = framed.continued(rgba, shape)
        try:
            draft = self._predicted(Image.fromarray(rgb), box)
        except JobError:
            return None
        found = draft.alpha * shape > SOLID
        if unsure(draft.alpha) > NO_PRODUCT or not framed.is_framed(rgb, shape, found):
            return None
        return replace(draft, alpha=draft.alpha * shape).doubted(
            FRAMED,
            "The photo's transparency was taken for a frame around it: the product is what lies inside.",
        )

    def _predicted(self, photo: Image.Image, box: Box | None) -> _Draft:
        """Cut the product out of an RGB photo with the background model. Raises: JobError `no_object`."""
        left, top, right, bottom = _pixels(box, photo.size) if box else (0, 0, *photo.size)
        alpha = np.zeros((photo.height, photo.width), np.float32)
        alpha[top:bottom, left:right], agreed = self._alpha(photo.crop((left, top, right, bottom)))
        rgb = np.asarray(photo)
        opened = open_holes(rgb, close_holes(rgb, add_light_parts(rgb, add_colored(rgb, alpha))))
        # The backdrop's colour settles what the model left open, but a guess of two parts is less than one answer.
        draft = _rated(without_fringe(rgb, opened), opened, (unsure(alpha) + unsure(opened)) / 2)
        if not agreed:
            draft = draft.doubted(DISAGREED, "It is unclear what in the photo is the product.")
        least, most = LOST
        if (lost := lost_outline(rgb, opened > SOLID)) > least:
            draft = draft.doubted(
                1 - (1 - LIKE_GROUND) * min(1.0, (lost - least) / (most - least)),
                "Parts of the product have the colour of the ground: its outline is unsure there.",
            )
        return draft

    def _alpha(self, image: Image.Image) -> tuple[Alpha, bool]:
        """Return the product's alpha, (H, W) in 0..1. False if a closer look found something else.

        Raises: JobError `no_object`.
        """
        background = self._load()
        whole = without_specks(background.predict(image))
        left, top, right, bottom = box = _surroundings(whole > SOLID)
        # The network sees each photo in a small square. If the product is smaller there than in a view, and fills less than
        # half of the photo, a second pass over the product alone finds finer outlines (IoU 0.94 → 0.98 at a quarter).
        seen = max(right - left, bottom - top) / max(image.size) * background.side
        if seen > VIEW_SIDE or 2 * (right - left) * (bottom - top) > whole.size:
            return whole, True
        closer = np.zeros_like(whole)
        closer[top:bottom, left:right] = background.predict(image.crop(box))
        # The second pass may find only a part, such as the food without its plate. Then the first result is kept.
        common, either = (closer > SOLID) & (whole > SOLID), (closer > SOLID) | (whole > SOLID)
        agreed = bool(common.sum() > AGREEMENT * either.sum())
        return (without_specks(closer) if agreed else whole), agreed

    def _load(self) -> BackgroundModel:
        if self._background is None:
            self._background = BackgroundModel(self.model, self._folder)
        return self._background


def unsure(alpha: Alpha) -> float:
    """Return which part of the product is neither product nor background, 0..1, soft rims left out."""
    step = -(-max(alpha.shape) // 512)
    alpha = alpha[::step, ::step]
    rim = 2 * max(2, round(float(np.sqrt((alpha > SOLID).sum())) / 100)) + 1  # pixels; a soft rim is narrower
    core = ndimage.minimum_filter((alpha > 0.1) & (alpha < 0.9), rim)
    return float(ndimage.maximum_filter(core, rim).sum() / max(1, (alpha > 0.1).sum()))


def _rated(rgb: Rgb, alpha: Alpha, share: float | None = None) -> _Draft:
    """Start a draft whose certainty falls with the share that is unsure."""
    share = unsure(alpha) if share is None else share
    sure, lost = UNSURE
    draft = _Draft(rgb, alpha, float(np.clip((lost - share) / (lost - sure), 0, 1)))
    if share <= WARN_UNSURE:
        return draft
    return draft.doubted(
        1, f"The cut-out is unsure: it is not clear whether {share:.0%} of it belongs to the product."
    )


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the box in pixels, with a margin, inside the photo."""
    width, height = size
    mask = np.zeros((height, width), bool)
    mask[
        round(box.top * height) : round(box.bottom * height),
        round(box.left * width) : round(box.right * width),
    ] = True
    return _surroundings(mask)


def _surroundings(mask: Mask) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the mask's set pixels, with a margin, inside the photo."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    margin = int(MARGIN * max(np.ptp(rows), np.ptp(columns)))
    height, width = mask.shape
    left, top = max(columns[0] - margin, 0), max(rows[0] - margin, 0)
    right, bottom = min(columns[-1] + 1 + margin, width), min(rows[-1] + 1 + margin, height)
    return int(left), int(top), int(right), int(bottom)


def without_fringe(rgb: Rgb, alpha: Alpha) -> Rgb:
    """Give each pixel of the rim the colour of the nearest pixel without background in it.

    Far from the background a pixel keeps its colour, however unsure its alpha is: it shows the product.
    """
    inside = ndimage.distance_transform_edt(alpha > SOLID) > FRINGE * max(alpha.shape)
    rim = (alpha > 0) & (alpha < RIM) & ~inside
    clean = (alpha >= RIM) | inside
    if not clean.any():
        return rgb
    nearest = ndimage.distance_transform_edt(~clean, return_distances=False, return_indices=True)
    cleaned = rgb.copy()
    cleaned[rim] = rgb[nearest[0][rim], nearest[1][rim]]
    return cleaned
