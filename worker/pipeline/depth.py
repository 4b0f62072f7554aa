"""Stretch a surface's depth to the product's, where the row gives it and wants the model to follow."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.engines.surface import Colors, Points, SourceView, Surface, View
from worker.pipeline.scale import depth_factor


class Fitted(NamedTuple):
    """A surface, and the factor by which its depth was stretched; 1 if it was left as it is."""

    surface: Surface
    factor: float
    warnings: list[str]


def fit_depth(surface: Surface, dimensions: Any) -> Fitted:
    """Stretch the depth so that the model's proportions are those of the dimensions.

    Only depth is stretched: width and height are what the photo of the front shows. `surface.depth_factors` limits it.

    Args:
        surface: of the engine, cleaned.
        dimensions: `metadata.dimensions`, as the backend wrote it. Nothing happens without `"fit": true`, a depth, and a
            width or a height.
    """
    extent = np.ptp(surface.vertices, axis=0).astype(np.float64)
    wanted = depth_factor(extent, dimensions) if (extent > 0).all() else None
    if wanted is None:
        return Fitted(surface, 1.0, [])
    least, most = surface.depth_factors
    factor = min(max(wanted, least), most)
    bounded = (
        f"By the dimensions the model should be {wanted:.2f} times as deep; its engine allows {factor:.2f}."
    )
    return Fitted(_stretched(surface, factor), factor, [] if factor == wanted else [bounded])


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
    """Return the photo and the camera as they are after the stretch: on a side's photo, depth is the width."""
    x, y, z = source.camera.center
    camera = replace(source.camera, center=(x, y, z * factor))
    if source.role in {"front", "back"}:
        return replace(source, camera=camera)
    if factor > 1:  # the picture must hold more: all of it becomes smaller, and the height smaller only
        camera = replace(camera, side=camera.side * factor)
        return replace(source, camera=camera, view=_squeezed(source.view, 1.0, 1 / factor))
    return replace(source, camera=camera, view=_squeezed(source.view, factor, 1.0))


def _squeezed(view: View, across: float, down: float) -> View:
    """Shrink what a view shows towards its middle."""
    height, width = view.shape[:2]
    size = (max(1, round(width * across)), max(1, round(height * down)))
    # "RGBa" weights the colours by alpha, so that those under transparent pixels do not bleed into the rim.
    small = Image.fromarray(view).convert("RGBa").resize(size, Image.Resampling.BICUBIC).convert("RGBA")
    squeezed: NDArray[np.uint8] = np.zeros_like(view)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    squeezed[top : top + size[1], left : left + size[0]] = np.asarray(small)
    return squeezed
