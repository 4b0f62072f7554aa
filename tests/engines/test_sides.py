"""The depth of a guess, corrected by photos of the true object from its sides."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from worker.engines.sides import MOST, SURE, correct
from worker.engines.surface import AZIMUTHS, PosedView, Role
from worker.mesh.camera import Camera
from worker.mesh.project import depth_buffer
from worker.pipeline.frame import frame

Floats = NDArray[np.float32]

CAMERA = Camera(side=1.4, distance=1.9)
BALL = trimesh.creation.icosphere(4, 0.4)
FACES = np.asarray(BALL.faces, np.int32)
TRUE = np.asarray(BALL.vertices * (0.7, 1, 1), np.float32)


def photo(role: Role, vertices: Floats = TRUE, faces: NDArray[np.int32] = FACES) -> PosedView:
    camera = replace(CAMERA, azimuth=AZIMUTHS[role])
    view = np.zeros((512, 512, 4), np.uint8)
    view[depth_buffer(vertices, faces, camera, 512) > -np.inf] = 255
    return PosedView(role, frame(view))


def deeper(by: float, shift: float = 0.0) -> Floats:
    return np.asarray(TRUE * (1, 1, by) + (0, 0, shift), np.float32)


@pytest.mark.parametrize("roles", [("left",), ("right",), ("left", "right")])
@pytest.mark.parametrize("by", [0.75, 1.4])
def test_the_depth_of_the_photo_replaces_that_of_the_guess(roles: tuple[Role, ...], by: float) -> None:
    found = correct(deeper(by), FACES, [photo("front"), *map(photo, roles)], CAMERA)
    assert found is not None
    moved = found.move(deeper(by))
    np.testing.assert_allclose(np.ptp(moved, axis=0), np.ptp(TRUE, axis=0), rtol=0.05)
    assert np.abs(moved - TRUE).mean() < 0.2 * np.abs(deeper(by) - TRUE).mean()
    np.testing.assert_allclose(found.guess_of(moved), deeper(by), atol=1e-5)


def test_the_middle_of_the_depth_stays_where_the_guess_has_it() -> None:
    found = correct(deeper(1.4, shift=0.1), FACES, [photo("front"), photo("left")], CAMERA)
    assert found is not None
    assert found.move(deeper(1.4, shift=0.1))[:, 2].mean() == pytest.approx(0.1, abs=0.025)


@pytest.mark.parametrize("by", [0.4, 2.5])
def test_no_depth_changes_by_more_than_the_bound(by: float) -> None:
    found = correct(deeper(by), FACES, [photo("front"), photo("left")], CAMERA)
    assert found is not None
    assert 1 / MOST <= found.scale.min() <= found.scale.max() <= MOST
    assert not found.outlines, "what is so far off is no reason to cut"


def test_a_guess_that_is_right_stays() -> None:
    assert correct(deeper(1 + (SURE - 1) / 3), FACES, [photo("front"), photo("left")], CAMERA) is None


def test_front_and_back_say_nothing_of_the_depth() -> None:
    assert correct(deeper(1.4), FACES, [photo("front"), photo("back")], CAMERA) is None


def test_a_thin_part_that_only_the_photo_has_moves_nothing() -> None:
    rod = trimesh.creation.box((0.02, 0.02, 1.1))
    vertices = np.concatenate([TRUE, rod.vertices]).astype(np.float32)
    faces = np.concatenate([FACES, rod.faces + len(TRUE)]).astype(np.int32)
    views = [photo("front"), photo("left", vertices, faces)]
    found = correct(deeper(1.3), FACES, views, CAMERA)
    assert found is not None
    assert np.ptp(found.move(deeper(1.3))[:, 2]) == pytest.approx(0.8, rel=0.06)


def test_what_lies_outside_of_the_outline_is_cut_off() -> None:
    found = correct(deeper(1.3), FACES, [photo("front"), photo("left")], CAMERA)
    assert found is not None
    points = np.array([[0, 0, 0], [0, 0, 0.3], [0, 0.3, 0.35], [0, 0, 0.5]], np.float32)
    assert (found.inside(points) > 0).tolist() == [True, True, False, False]
    assert found.inside(points)[0] == pytest.approx(0.4, abs=0.03)
