"""A surface whose depth is stretched: its colours and its photos go with it."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from worker.engines.surface import AZIMUTHS, Role, SourceView, Surface, View
from worker.mesh.align import fit
from worker.mesh.camera import Camera
from worker.pipeline.depth import LIMITED, PROVEN, UNLIKELY, fit_depth


def disc() -> View:
    """A ball's outline, with room around it."""
    row, column = np.mgrid[0:512, 0:512] - 255.5
    view = np.zeros((512, 512, 4), np.uint8)
    view[np.hypot(row, column) < 200] = (200, 100, 50, 255)
    return view


def ball(*roles: Role) -> Surface:
    """As photos of some of its sides show it; red grows with depth."""
    mesh = trimesh.creation.icosphere(3, 200 / 256)
    return Surface(
        vertices=np.asarray(mesh.vertices, np.float32),
        faces=np.asarray(mesh.faces, np.int32),
        color=lambda points: np.stack([points[:, 2] / 2 + 0.5, *[points[:, 0] * 0] * 2], axis=1),
        source_views=[
            SourceView(role=role, view=disc(), camera=Camera(side=2.0, azimuth=AZIMUTHS[role]))
            for role in roles
        ],
        depth_factors=(0.1, 10),
    )


@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_the_photos_still_show_the_surface(factor: float) -> None:
    before = ball("front", "back")
    fitted = fit_depth(before, {"width": 1, "depth": factor, "unit": "m", "fit": True})
    assert fitted.factor == pytest.approx(factor)
    assert fitted.warnings == []
    after = fitted.surface
    assert np.allclose(after.vertices, before.vertices * [1, 1, factor])
    assert np.allclose(after.color(after.vertices), before.color(before.vertices), atol=1e-6)
    for source in after.source_views:
        camera, overlap, _ = fit(after.vertices, after.faces, source.view, source.camera)
        assert overlap > 0.96
        assert camera.side == pytest.approx(source.camera.side, rel=0.03)


def test_a_surface_without_depth_and_dimensions_without_a_fit_change_nothing() -> None:
    flat = replace(ball(), vertices=ball().vertices * np.array([1, 1, 0], np.float32))
    dimensions = {"width": 1, "depth": 2, "unit": "m", "fit": True}
    assert fit_depth(flat, dimensions).surface is flat
    surface = ball()
    assert fit_depth(surface, {**dimensions, "fit": False}).surface is surface


@pytest.mark.parametrize(
    ("factor", "warnings"), [(1.05, []), (0.95, []), (1.5, [PROVEN]), (0.5, [PROVEN]), (9e3, [PROVEN])]
)
def test_a_photo_from_the_side_proves_the_depth(factor: float, warnings: list[str]) -> None:
    surface = ball("front", "left")
    fitted = fit_depth(surface, {"width": 10, "depth": 10 * factor, "unit": "mm", "fit": True})
    assert fitted == (surface, 1.0, warnings)


@pytest.mark.parametrize(
    ("wanted", "factor", "warnings"),
    [
        (2.9, 2.9, []),
        (0.35, 0.35, []),
        (4, 4, [UNLIKELY]),
        (0.3, 0.3, [UNLIKELY]),
        (900, 10, [LIMITED]),
        (0.05, 0.1, [LIMITED]),
    ],
)
def test_a_depth_that_is_far_from_the_photos_is_said_in_one_sentence(
    wanted: float, factor: float, warnings: list[str]
) -> None:
    fitted = fit_depth(ball("front"), {"width": 0.1, "depth": wanted / 10, "unit": "m", "fit": True})
    assert fitted.factor == pytest.approx(factor, rel=1e-4)
    assert fitted.warnings == warnings
