"""Measure how good a model is, against its photos and by its file: in figures, in sentences, and as one score."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from worker.engines.surface import Role, View
from worker.mesh.align import LEAST_OVERLAP
from worker.mesh.render import Scene
from worker.pipeline.finish import Model
from worker.pipeline.photo import ScoredView
from worker.pipeline.roundness import Signs, chance, signs_of
from worker.pipeline.sharpness import BLURRED, blur
from worker.pipeline.similarity import Similarity, compare
from worker.pipeline.single_view import opening

# Each rises from 0 at the first figure to 1 at the second. docs/models.md has the formula and the reasons.
OVERLAP = (0.5, 0.94)  # intersection over union of the model's outline and the cut-out's
DIFFERENCE = (26.0, 4.0)  # mean ΔE2000
DETAIL = (0.1, 0.68)  # the part of the photo's fine structure that the texture has, at its place
AGREEMENT = (
    0.3,
    0.75,
)  # below the second figure a photo is at odds with the others, not only with a coarse shape
COVERAGE = (0.05, 0.75)  # part of the surface that a photo shows
SOLID = (0.45, 0.15)  # opening
PHOTO_SIDE = (0.1, 0.45)  # the product's longer side in the photo, as part of the 512 pixels that are used
PHOTO_BLUR = (1.0, BLURRED)  # as `blur` measures it; a photo that is not called blurred loses nothing
# Factors.
CUT_OFF, OPEN = 0.6, 0.8  # a product that the photo's border cuts off, an open surface
CERTAIN = 0.4  # cut-outs that are not certain at all
LEFT_OUT = 0.85  # for each stated photo that contradicts the others
PREVIEW, PREVIEW_OF_SIDES = 0.85, 0.95  # an engine that only previews, without and with a photo from the side
GUESSED, OPENED = 0.4, 0.7  # a depth that is surely wrong, and a large opening, in a preview without one

# Beyond these figures the report has a warning.
WARN_OVERLAP, WARN_DIFFERENCE, WARN_DETAIL = 0.88, 9.0, 0.3
WARN_AGREEMENT, WARN_COVERAGE = 0.6, 0.6
WARN_CHANCE, WARN_OPENING = 0.5, 0.25
WARN_SIDE, WARN_DROPPED, WARN_FLAT = 0.75, 5, 0.1


class Outline(NamedTuple):
    """What is known of a shape that is made from the outline of a single photo."""

    signs: Signs  # of how likely its depth is right
    opening: float  # part of it that is open, 0..1


class Figures(NamedTuple):
    """All that the score depends on."""

    front: Similarity  # of the model and the front's photo; its detail is that of all photos
    size: float  # of the product in the front's photo, as part of the 512 pixels that are used, 0..1
    blur: float  # of the front's photo, as `blur` measures it
    whole: bool  # the photo's border does not cut the product off
    certainty: float  # of the cut-outs, 0..1
    coverage: float  # part of the surface that a photo shows, 0..1
    agreement: float | None
    """How much the model looks like its photos, 0..1; None for a single photo."""
    left_out: int  # stated photos that were not used, because they contradict the others
    preview: bool  # the engine shows the photos and invents the rest
    outline: Outline | None
    """For a preview without a photo from the side: its depth follows from the front's outline alone."""
    watertight: bool


class Part(NamedTuple):
    """A part of the score."""

    name: str  # a word for programs
    factor: float  # 0..1
    bad: bool = False  # bad enough for the warning
    warning: str = ""  # a sentence for a merchant


def assess(
    model: Model, scene: Scene, photos: Mapping[Role, ScoredView], *, preview: bool, left_out: int = 0
) -> dict[str, Any]:
    """Build the JSON-able report for `metadata.worker.quality`.

    Args:
        model: of `finish`, with at least one source view.
        scene: the model's mesh, ready to be drawn.
        photos: those that the model was made from, the front among them.
        preview: the engine shows the photos and invents the rest.
        left_out: how many stated photos were not used, because they contradict the others.
    """
    front = photos["front"]
    seen = {
        source.role: compare(scene.render_unlit(source.camera, len(source.view)), source.view)
        for source in model.source_views
    }
    views = model.report["views"]
    used = {role: view["used"] for role, view in views.items()}
    # A photo that was not laid over the model, because its outline is another one, does not fit at all.
    fits = [*map(_fit, seen.values()), *(0.0 for role in views if role not in seen)]
    # Neither the front nor the back shows how deep the product is.
    deep = any(source.role in ("left", "right") for source in model.source_views)
    figures = Figures(
        front=seen["front"]._replace(
            detail=_of_all({role: each.detail for role, each in seen.items()}, used)
        ),
        size=front.score.size,
        blur=blur(front.view),
        whole=front.score.whole == 1,
        certainty=_of_all({role: photo.score.certainty for role, photo in photos.items()}, used),
        coverage=model.report["coverage"],
        # One photo that fits badly is not outvoted, and each one that fits raises it.
        agreement=(min(fits) + float(np.mean(fits))) / 2 if len(views) > 1 else None,
        left_out=left_out,
        preview=preview,
        outline=_outline(model, scene, front.view) if preview and not deep else None,
        watertight=model.mesh.watertight,
    )
    parts = rate(figures)
    return {
        "score": score(parts),
        "parts": {part.name: round(part.factor, 3) for part in parts},
        "coverage": round(figures.coverage, 3),
        "cutout_certainty": round(figures.certainty, 3),
        "views_agreement": None if figures.agreement is None else round(figures.agreement, 3),
        "silhouette_iou": round(figures.front.overlap, 4),
        "delta_e": round(figures.front.difference, 2),
        "detail": round(figures.front.detail, 3),
        "photo_px": round(figures.size * len(front.view)),
        "photo_blur": round(figures.blur, 3),
        "triangles": len(model.mesh.faces),
        "watertight": model.mesh.watertight,
        "components_dropped": model.report["components_dropped"],
        "texture_use": model.report["texture_used"],
        "warnings": [
            *model.report["warnings"],
            # Several photos may have the same to say.
            *dict.fromkeys(warning for photo in photos.values() for warning in photo.warnings),
            *(part.warning for part in parts if part.bad),
            *_mesh_warnings(model),
        ],
    }


def score(parts: Sequence[Part]) -> float:
    """Return 0..100: the product of all factors, so that one bad part is enough to lower it."""
    return round(100 * float(np.prod([part.factor for part in parts])), 1)


def rate(figures: Figures) -> list[Part]:
    """Return the parts of the score. Cut-outs, photos left out and open meshes have warnings of their own already."""
    seen, agreement = figures.front, 1.0 if figures.agreement is None else figures.agreement
    preview = PREVIEW_OF_SIDES if figures.outline is None else PREVIEW
    likely, doubt = chance(figures.outline.signs) if figures.outline else (1.0, "")
    open_part = figures.outline.opening if figures.outline else 0.0
    return [
        Part(
            "preview",
            preview if figures.preview else 1.0,
            figures.preview,
            "This is a preview: what the photos do not show is invented.",
        ),
        Part(
            "roundness",
            GUESSED + (1 - GUESSED) * likely,
            likely < WARN_CHANCE,
            doubt,
        ),
        Part(
            "opening",
            OPENED + (1 - OPENED) * _rise(open_part, SOLID),
            open_part > WARN_OPENING,
            "The product has a large opening, and a preview without photos of the sides cannot tell its depth.",
        ),
        Part(
            "coverage",
            0.75 + 0.25 * _rise(figures.coverage, COVERAGE),
            figures.coverage < WARN_COVERAGE,
            f"No photo shows {1 - figures.coverage:.0%} of the surface. Photos of the other sides make a better model.",
        ),
        Part("cutout", CERTAIN + (1 - CERTAIN) * figures.certainty),
        Part(
            "agreement",
            0.4 + 0.6 * _rise(agreement, AGREEMENT),
            agreement < WARN_AGREEMENT,
            "The photos do not agree: the model does not look like each of them.",
        ),
        Part("left_out", LEFT_OUT**figures.left_out),
        Part(
            "whole",
            1.0 if figures.whole else CUT_OFF,
            not figures.whole,
            "The product touches the photo's edge: what lies beyond is missing.",
        ),
        Part(
            "sharpness",
            0.5 + 0.5 * _rise(figures.blur, PHOTO_BLUR),
            figures.blur > BLURRED,
            "The photo is blurred.",
        ),
        Part(
            "photo_size",
            0.6 + 0.4 * _rise(figures.size, PHOTO_SIDE),
            figures.size < WARN_SIDE,
            f"Small photo: the product is {figures.size * 512:.0f} px long in it; 512 px are best.",
        ),
        Part(
            "outline",
            _rise(seen.overlap, OVERLAP),
            LEAST_OVERLAP <= seen.overlap < WARN_OVERLAP,  # below it finishing has said so
            f"The model's outline is not the photo's: they share {seen.overlap:.0%}.",
        ),
        Part(
            "colours",
            _rise(seen.difference, DIFFERENCE),
            seen.difference > WARN_DIFFERENCE,
            f"The model's colours are not the photo's: ΔE {seen.difference:.0f}.",
        ),
        Part(
            "detail",
            0.4 + 0.6 * _rise(seen.detail, DETAIL),
            seen.detail < WARN_DETAIL,
            "Fine details of the photo are missing or out of place.",
        ),
        Part("closed", 1.0 if figures.watertight else OPEN),
    ]


def _outline(model: Model, scene: Scene, view: View) -> Outline:
    return Outline(signs_of(view, scene, model.source_views[0].camera), opening(view))


def _mesh_warnings(model: Model) -> Iterator[str]:
    width, height, depth = np.ptp(model.mesh.positions, axis=0).tolist()
    if depth < WARN_FLAT * max(width, height):
        yield "The model is very flat."
    dropped = model.report["components_dropped"]
    if dropped >= WARN_DROPPED:
        yield f"{dropped} loose pieces were removed."


def _of_all(values: Mapping[Role, float], used: Mapping[Role, float]) -> float:
    """Return one figure for all photos: half of it is the front's, and half the mean by how much of the texture each gave."""
    weights = [used.get(role, 0.0) for role in values]
    front = values["front"]
    if not sum(weights):
        return front
    return (front + float(np.average(list(values.values()), weights=weights))) / 2


def _fit(seen: Similarity) -> float:
    """Return how much the model looks like one of its photos, 0..1, by outline and colours."""
    return _rise(seen.overlap, OVERLAP) * _rise(seen.difference, DIFFERENCE)


def _rise(value: float, between: tuple[float, float]) -> float:
    low, high = between
    return min(1.0, max(0.0, (value - low) / (high - low)))
