"""Find out how large the product is."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LONGEST_SIDE = 0.3
"""Metres, where nothing tells the size: a photo does not. In AR this fits on a table and can be seen well."""

METRES = {"mm": 0.001, "cm": 0.01, "m": 1.0, "in": 0.0254}
SIDES = ("width", "height", "depth")
SEEN = ("width", "height")  # by the photo of the front
POSSIBLE = (0.001, 100.0)  # metres; anything smaller or larger is a mistake in the unit
DISAGREEMENT = 1.25  # factor between a given side and the model's; above it there is a warning


class Scale(NamedTuple):
    """The size of a mesh, and what was wrong with the dimensions."""

    metres: float  # of one unit of the mesh
    source: str  # "dimensions" or "default"
    warnings: list[str]


def scale(extent: NDArray[np.floating], dimensions: Any, *, depth_explained: bool = False) -> Scale:
    """Choose one factor for all three sides, so that the shape stays.

    The photo shows width and height: the factor is the geometric mean of theirs. The depth, which no photo shows, counts
    only if neither of them is given.

    Args:
        extent: (3,) width, height and depth of the mesh, in its own unit.
        dimensions: {"width" | "height" | "depth": number, "unit": "mm" | "cm" | "m" | "in", "fit": boolean}, or anything else
            that the backend wrote. What makes no sense is not used and causes a warning.
        depth_explained: another sentence says already why the model's depth is not the given one.
    """
    default = LONGEST_SIDE / float(extent.max())
    if dimensions is None:
        return Scale(default, "default", [])
    unit = _unit(dimensions)
    if unit is None:
        return Scale(
            default, "default", ["The dimensions have no unit of mm, cm, m or in and were not used."]
        )

    asked, warnings = _sides(dimensions, unit)
    match dimensions.get("fit"):
        case None | False:
            pass
        case True if "depth" not in asked or len(asked) == 1:
            warnings.append("The dimensions hold no depth beside a width or a height: no depth was fitted.")
        case True:
            pass
        case _:
            warnings.append("The fit in the dimensions is not true or false and was not used.")
    own = {side: float(length) for side, length in zip(SIDES, extent, strict=True) if length > 0}
    factors = {side: length / own[side] for side, length in asked.items() if side in own}
    seen = [factors[side] for side in SEEN if side in factors] or list(factors.values())
    if not seen:
        return Scale(
            default, "default", [*warnings, "The dimensions hold no width, height or depth to go by."]
        )
    metres = _mean(seen)
    for side, factor in factors.items():
        if side == "depth" and depth_explained:
            continue
        if max(factor / metres, metres / factor) > DISAGREEMENT:
            warnings.append(
                f"The {side} should be {asked[side]:.3g} m, but by the model's proportions it is {own[side] * metres:.3g} m."
            )
    return Scale(metres, "dimensions", warnings)


def depth_factor(extent: NDArray[np.floating], dimensions: Any) -> float | None:
    """Return the factor of the depth at which the mesh's proportions are those of the dimensions.

    Args:
        extent: (3,) width, height and depth of the mesh, in its own unit, all above 0.
        dimensions: as in `scale`. None is returned unless they have `"fit": true`, a depth, and a width or a height.
    """
    unit = _unit(dimensions)
    if unit is None or dimensions.get("fit") is not True:
        return None
    asked, _ = _sides(dimensions, unit)
    factors = [asked[side] / float(extent[SIDES.index(side)]) for side in SEEN if side in asked]
    if not factors or "depth" not in asked:
        return None
    return asked["depth"] / (_mean(factors) * float(extent[SIDES.index("depth")]))


def _unit(dimensions: Any) -> float | None:
    """Return the metres of the dimensions' unit; None if they have none."""
    unit = dimensions.get("unit") if isinstance(dimensions, dict) else None
    return METRES.get(unit) if isinstance(unit, str) else None


def _mean(factors: Sequence[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(map(math.log, factors)) / len(factors))


def _sides(dimensions: dict[str, Any], unit: float) -> tuple[dict[str, float], list[str]]:
    """Return the lengths that make sense, in metres, and a warning for each of the others."""
    asked, warnings = {}, []
    for side in SIDES:
        match dimensions.get(side):
            case None:
                continue
            case int() | float() as value if (
                value is not True and POSSIBLE[0] / unit <= value <= POSSIBLE[1] / unit
            ):
                asked[side] = value * unit
            case _:
                warnings.append(f"The {side} in the dimensions makes no sense and was not used.")
    return asked, warnings
