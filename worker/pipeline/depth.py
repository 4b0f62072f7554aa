"""Stretch a surface's depth to the product's, where the row gives it and wants the model to follow."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from worker.engines.surface import Colors, Points, SourceView, Surface
from worker.pipeline.scale import depth_factor

SAME = 1.1  # between two depths; below it a photo from the side and the dimensions agree
FAR = 3.0  # between the given depth and the engine's; above it one of the numbers is probably wrong

PROVEN = "The photo from the side shows another depth than the dimensions: the model keeps the photo's."
LIMITED = "The given depth is far from what the photo suggests, and the model follows it only in part: check the dimensions."
UNLIKELY = "The given depth is far from what the photo suggests: check the dimensions."


class Fitted(NamedTuple):
    """A surface, and the factor by which its depth was stretched; 1 if it was left as it is."""

    surface: Surface
    factor: float
    warnings: list[str]


def fit_depth(surface: Surface, dimensions: Any) -> Fitted:
    """Stretch the depth so that the model's proportions are those of the dimensions.

    Only depth is stretched: width and height are what the photo of the front shows. `surface.depth_factors` limits it. A
    photo from the left or the right proves the depth, so that nothing is stretched.

    Args:
        surface: of the engine, cleaned.
        dimensions: `metadata.dimensions`, as the backend wrote it. Nothing happens without `"fit": true`, a depth, and a
            width or a height.
    """
    extent = np.ptp(surface.vertices, axis=0).astype(np.float64)
    wanted = depth_factor(extent, dimensions) if (extent > 0).all() else None
    if wanted is None:
        return Fitted(surface, 1.0, [])
    if any(source.role in {"left", "right"} for source in surface.source_views):
        return Fitted(surface, 1.0, [] if 1 / SAME < wanted < SAME else [PROVEN])
    least, most = surface.depth_factors
    factor = min(max(wanted, least), most)
    warnings = [LIMITED] if factor != wanted else [] if 1 / FAR <= wanted <= FAR else [UNLIKELY]
    return Fitted(_stretched(surface, factor), factor, warnings)


def _stretched(surface: Surface, factor: float) -> Surface:
    scale = np.array([1, 1, factor], np.float32)

    def color(points: Points) -> Colors:
        return surface.color(points / scale)

    return replace(
        surface,
        vertices=surface.vertices * scale,
        color=color,
        source_views=[_seen(source, factor) for source in surface.source_views],
    )


def _seen(source: SourceView, factor: float) -> SourceView:
    """Return the photo, of the front or the back, with its camera as it is after the stretch."""
    x, y, z = source.camera.center
    return replace(source, camera=replace(source.camera, center=(x, y, z * factor)))
