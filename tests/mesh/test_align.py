"""A camera is put where the outlines agree: a chair of boxes, which looks the same from no two sides."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from worker.mesh.align import fit, refine
from worker.mesh.camera import Camera
from worker.mesh.project import Photo, depth_buffer

BOXES = (((0, 0.5, 0), (1, 0.1, 0.8)), ((0, 1, -0.35), (1, 1, 0.1)), ((-0.4, 0.2, 0.3), (0.1, 0.6, 0.1)))
CUBE = trimesh.creation.box()
VERTICES = np.concatenate([CUBE.vertices * size + at for at, size in BOXES]).astype(np.float32)
FACES = np.concatenate([CUBE.faces + 8 * n for n in range(len(BOXES))]).astype(np.int32)
TRUE = Camera(center=(0, 0.7, 0), side=2, distance=6)


def outline(camera: Camera) -> NDArray[np.uint8]:
    """A photo that shows the outline only."""
    view = np.zeros((512, 512, 4), np.uint8)
    view[depth_buffer(VERTICES, FACES, camera, 512) > -np.inf] = 255
    return view


@pytest.mark.parametrize("azimuth", [0, 90, 180])
def test_a_camera_that_stands_askew_is_moved_to_where_the_outlines_agree(azimuth: float) -> None:
    true = replace(TRUE, azimuth=azimuth + 3, elevation=-2)
    wrong = replace(TRUE, azimuth=azimuth, center=(0.1, 0.65, 0.1), side=2.1)
    start = fit(VERTICES, FACES, outline(true), wrong)
    found = refine(VERTICES, FACES, Photo(outline(true)), start)
    assert start.overlap < 0.95
    assert found.overlap > 0.96
    assert (found.camera.azimuth, found.camera.elevation) == pytest.approx((azimuth + 3, -2), abs=1)


def test_a_camera_whose_outlines_agree_stays() -> None:
    found = refine(VERTICES, FACES, Photo(outline(TRUE)), fit(VERTICES, FACES, outline(TRUE), TRUE))
    assert (*found.camera.center, found.camera.side) == pytest.approx((0, 0.7, 0, 2), abs=0.01)
    assert (found.camera.azimuth, found.camera.elevation) == pytest.approx((0, 0), abs=0.3)


def test_a_photo_of_something_else_moves_the_camera_only_a_little() -> None:
    view = np.zeros((512, 512, 4), np.uint8)
    view[100:400, 240:272] = 255
    found = refine(VERTICES, FACES, Photo(view), fit(VERTICES, FACES, view, TRUE))
    assert found.overlap < 0.5
    assert abs(found.camera.azimuth) <= 7.5
