"""Measure how good a model is, against its photo and by its file: in figures, in sentences, and as one score."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import deltaE_ciede2000, rgb2lab

from worker.engines.surface import SourceView, View
from worker.mesh.align import LEAST_OVERLAP
from worker.mesh.render import Scene
from worker.pipeline.choose import PhotoScore, luminance
from worker.pipeline.finish import Model

# Each part of the score rises from 0 at the first figure to 1 at the second. docs/models.md has the formula and the reasons.
OVERLAP = (0.5, 0.94)  # intersection over union of the model's outline and the cut-out's
DIFFERENCE = (26.0, 4.0)  # mean ΔE2000
DETAIL = (0.1, 0.68)  # the part of the photo's fine structure that the texture has, at its place
PLAIN = 0.15  # standard deviation of L* in it, below which a photo has no structure to keep
PHOTO_SIDE = (0.0, 0.75)  # the product's longer side in the photo, as part of the 512 pixels that are used
PHOTO_BLUR = (0.95, 0.5)  # as `blur` measures it
CUT_OFF, OPEN = 0.6, 0.8  # factors for a product that the photo's border cuts off, and for an open surface

# Beyond these figures the report has a warning.
WARN_OVERLAP, WARN_DIFFERENCE, WARN_DETAIL = 0.88, 9.0, 0.3
WARN_SIDE, WARN_BLUR, WARN_DROPPED, WARN_FLAT = 0.75, 0.72, 5, 0.1

EDGE = 4.0  # 8-bit steps a pixel; a weaker slope is shading, which is soft in a sharp photo too
EDGES = 0.002  # part of the product's pixels; with fewer on edges the blur is unknown


class Similarity(NamedTuple):
    """The similarity of the photo and the model, as the photo's camera sees it."""

    overlap: float  # intersection over union of the outlines, 0..1
    difference: float  # mean ΔE2000 inside both outlines
    detail: float  # the part of the photo's fine structure that the model has at the same place, 0..1


class PhotoQuality(NamedTuple):
    """The quality of the photo itself."""

    side: float  # the product's longer side in it, as part of the 512 pixels that are used, 0..1
    blur: float  # as `blur` measures it
    whole: bool  # the photo's border does not cut the product off


def assess(model: Model, source: SourceView, scene: Scene, photo_score: PhotoScore) -> dict[str, Any]:
    """Build the JSON-able report for `metadata.worker.quality`.

    Args:
        model: of `finish`.
        source: the photo that it was made from, and the camera in the model's coordinates.
        scene: the model's mesh, ready to be drawn.
        photo_score: of that photo.
    """
    view, camera = source.view, source.camera
    seen = compare(scene.render_unlit(camera, len(view)), view)
    photo = PhotoQuality(photo_score.size, blur(view), whole=photo_score.whole == 1)
    return {
        "score": score(seen, photo, watertight=model.mesh.watertight),
        "silhouette_iou": round(seen.overlap, 4),
        "delta_e": round(seen.difference, 2),
        "detail": round(seen.detail, 3),
        "photo_px": round(photo.side * len(view)),
        "photo_blur": round(photo.blur, 3),
        "triangles": len(model.mesh.faces),
        "watertight": model.mesh.watertight,
        "components_dropped": model.report["components_dropped"],
        "texture_use": model.report["texture_used"],
        "warnings": [*model.report["warnings"], *_warnings(model, seen, photo)],
    }


def compare(seen: NDArray[np.uint8], photo: View) -> Similarity:
    """Compare two (S, S, 4) pictures from the same camera, the model and the photo."""
    shape, wanted = seen[..., 3] > 127, photo[..., 3] > 127
    both = shape & wanted
    overlap = float(both.sum() / max(1, (shape | wanted).sum()))
    # Right at the outline a photo's pixels are mixed with its background.
    inside = ndimage.binary_erosion(both, iterations=3)
    if not inside.any():
        return Similarity(overlap, 100.0, 0.0)
    ours, theirs = (rgb2lab(picture[..., :3]) for picture in (seen, photo))
    difference = float(deltaE_ciede2000(ours[inside], theirs[inside]).mean())  # type: ignore[no-untyped-call]  # has no types
    # Structures of a few pixels: finer ones are the photo's noise, and coarser ones count in the difference already.
    fine, wanted_fine = (
        (ndimage.gaussian_filter(lab[..., 0], 1) - ndimage.gaussian_filter(lab[..., 0], 2))[inside]
        for lab in (ours, theirs)
    )
    there = float(wanted_fine.var())
    kept = float((fine * wanted_fine).mean()) / there if there > PLAIN**2 else 1.0
    return Similarity(overlap, difference, min(1.0, max(0.0, kept)))


def blur(view: View) -> float:
    """Measure how blurred the product's edges are in a (S, S, 4) view.

    Blurs the photo once more: the less that changes an edge, the more it was blurred before (Crété, Dolmiere, Ladret and
    Nicolas, "The blur effect", 2007).

    Returns:
        0..1: about 0.3 for a sharp photo, 0.75 from a blur of two pixels on, 0 where there are too few edges.
    """
    light = luminance(view)
    # Away from the outline, which the cut-out makes sharp.
    inside = ndimage.binary_erosion(view[..., 3] > 127, iterations=6)
    lost, total, count = 0.0, 0.0, 0
    for axis in (0, 1):
        again = ndimage.uniform_filter1d(light, 9, axis=axis)
        step, less = (np.abs(ndimage.sobel(image, axis)) / 8 for image in (light, again))
        edge = inside & (step > EDGE)
        lost += float(np.maximum(step - less, 0)[edge].sum())
        total += float(step[edge].sum())
        count += int(edge.sum())
    return 1 - lost / total if count > EDGES * inside.sum() else 0.0


def score(seen: Similarity, photo: PhotoQuality, *, watertight: bool) -> float:
    """Return 0..100: the product of the similarity's parts, the photo's parts, and a factor for an open surface."""
    parts = (
        _rise(seen.overlap, OVERLAP),
        _rise(seen.difference, DIFFERENCE),
        0.4 + 0.6 * _rise(seen.detail, DETAIL),
        0.5 + 0.5 * _rise(photo.side, PHOTO_SIDE),
        0.5 + 0.5 * _rise(photo.blur, PHOTO_BLUR),
        1.0 if photo.whole else CUT_OFF,
        1.0 if watertight else OPEN,
    )
    return round(100 * float(np.prod(parts)), 1)


def _rise(value: float, between: tuple[float, float]) -> float:
    low, high = between
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _warnings(model: Model, seen: Similarity, photo: PhotoQuality) -> list[str]:
    width, height, depth = np.ptp(model.mesh.positions, axis=0).tolist()
    dropped = model.report["components_dropped"]
    said = (
        (not photo.whole, "The product touches the photo's edge: what lies beyond is missing."),
        (photo.blur > WARN_BLUR, "The photo is blurred."),
        (
            photo.side < WARN_SIDE,
            f"Small photo: the product is {photo.side * 512:.0f} px long in it; 512 px are best.",
        ),
        (
            LEAST_OVERLAP <= seen.overlap < WARN_OVERLAP,  # below it finishing has said so
            f"The model's outline is not the photo's: they share {seen.overlap:.0%}.",
        ),
        (
            seen.difference > WARN_DIFFERENCE,
            f"The model's colours are not the photo's: ΔE {seen.difference:.0f}.",
        ),
        (seen.detail < WARN_DETAIL, "Fine details of the photo are missing or out of place."),
        (depth < WARN_FLAT * max(width, height), "The model is very flat."),
        (dropped >= WARN_DROPPED, f"{dropped} loose pieces were removed."),
    )
    return [sentence for applies, sentence in said if applies]
