"""Say in words what a model's score is made of. docs/models.md has the formula."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from worker.database import Row


class Part(NamedTuple):
    """A part of the score as people read it."""

    title: str
    text: str
    factor: float | None  # 0..1; None in the report of an older worker


def explain(quality: Mapping[str, Any], *, preview: bool) -> Row | None:
    """Return `score` (0 to 100), `warnings` and `parts` of a report's `quality`. None if it has none.

    A report may be of another version, or written by a backend: values of unexpected types are left out.
    """
    if not quality:
        return None
    warnings = quality.get("warnings")
    return {
        "score": number(quality.get("score")),
        "warnings": [text for text in warnings if isinstance(text, str)]
        if isinstance(warnings, list)
        else [],
        "parts": _parts(quality, preview=preview),
    }


def number(value: object) -> float | None:
    """Return a number of a report as a float; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _parts(quality: Mapping[str, Any], *, preview: bool) -> list[Part]:
    factors = quality.get("parts")
    factors = factors if isinstance(factors, dict) else {}
    found = []
    for name, (title, figure, text) in PARTS.items():
        factor = number(factors.get(name))
        if factor is not None and not 0 <= factor <= 1:
            factor = None
        value = quality.get(figure) if figure else factor
        said = text(value) if isinstance(value, (bool, int, float)) else None
        # What only lowers the score of some models is said of these alone.
        if said and (figure or factor != 1) and (name != "preview" or preview):
            found.append(Part(title, said, factor))
    return found


def _percent(text: str) -> Callable[[float], str]:
    return lambda value: text.format(f"{value:.0%}")


# Each part of the score: its title, the figure of the report that it follows from, and what that means. Without a figure the
# text is of the factor.
PARTS: Mapping[str, tuple[str, str, Callable[[Any], str]]] = {
    "outline": ("Outline", "silhouette_iou", _percent("The model's outline and the photo's share {}.")),
    "colours": (
        "Colours",
        "delta_e",
        lambda value: (
            f"They differ from the photo's by ΔE {value:.1f}: 1 is just visible, 10 is another shade."
        ),
    ),
    "detail": ("Fine details", "detail", _percent("{} of the photo's fine structure is in its place.")),
    "coverage": (
        "Seen surface",
        "coverage",
        _percent("Photos show {} of the surface; the rest is inferred."),
    ),
    "agreement": (
        "Agreement",
        "views_agreement",
        _percent("The model looks like each of its photos to {}."),
    ),
    "cutout": ("Cut-out", "cutout_certainty", _percent("The cut-out is certain to {}.")),
    "photo_size": (
        "Photo's size",
        "photo_px",
        lambda value: f"The product is {value:.0f} pixels long in it; 512 are used at most.",
    ),
    "sharpness": (
        "Sharpness",
        "photo_blur",
        lambda value: f"Blur {value:.2f}, from 0 (sharp) to 1.",
    ),
    "closed": (
        "Surface",
        "watertight",
        lambda value: "It is closed." if value else "It is open: it has holes or loose edges.",
    ),
    "preview": ("Engine", "", lambda _: "A preview: what the photos do not show is invented."),
    "roundness": (
        "Depth",
        "",
        lambda _: "No photo shows it. The preview makes all things round, and the product may not be.",
    ),
    "opening": ("Opening", "", lambda _: "The product has a large one, and a preview cannot tell its depth."),
    "left_out": ("Photos left out", "", lambda _: "A stated photo contradicts the others and was not used."),
    "whole": ("Cut off", "", lambda _: "The photo's edge cuts the product off."),
}
