"""A surface whose depth is stretched: its colours and its photos go with it."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from worker.engines.surface import AZIMUTHS, SourceView, Surface, View
from worker.mesh.align import fit
from worker.mesh.camera import Camera
from worker.pipeline.depth import fit_depth


def disc() -> View:
    """A ball's outline, with room around it."""
    row, column = np.mgrid[0:512, 0:512] - 255.5
    view = np.zeros((512, 512, 4), np.uint8)
    view[np.hypot(row, column) < 200] = (200, 100, 50, 255)
    return view


def ball() -> Surface:
    """As all four photos show it; red grows with depth."""
    mesh = trimesh.creation.icosphere(3, 200 / 256)
    return Surface(
        vertices=np.asarray(mesh.vertices, np.float32),
        faces=np.asarray(mesh.faces, np.int32),
        color=lambda points: np.stack([points[:, 2] / 2 + 0.5, *[points[:, 0] * 0] * 2], axis=1),
        source_views=[
            SourceView(role=role, view=disc(), camera=Camera(side=2.0, azimuth=azimuth))
            for role, azimuth in AZIMUTHS.items()
        ],
        depth_factors=(0.1, 10),
    )


@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_the_photos_still_show_the_surface(factor: float) -> None:
    before = ball()
    fitted = fit_depth(before, {"width": 1, "depth": factor, "unit": "m", "fit": True})
    assert fitted.factor == pytest.approx(factor)
    assert fitted.warnings == []
    after = fitted.surface
    assert np.allclose(after.vertices, before.vertices * [1, 1, factor])
    assert np.allclose(after.color(after.vertices), before.color(before.vertices), atol=1e-6)
    for source in after.source_views:
        camera, overlap = fit(after.vertices, after.faces, source.view, source.camera)
        assert overlap > 0.96
        assert camera.side == pytest.approx(source.camera.side, rel=0.03)


def test_a_surface_without_depth_and_dimensions_without_a_fit_change_nothing() -> None:
    flat = replace(ball(), vertices=ball().vertices * np.array([1, 1, 0], np.float32))
    dimensions = {"width": 1, "depth": 2, "unit": "m", "fit": True}
    assert fit_depth(flat, dimensions).surface is flat
    surface = ball()
    assert fit_depth(surface, {**dimensions, "fit": False}).surface is surface
