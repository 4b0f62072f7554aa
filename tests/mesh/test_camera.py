import math

import numpy as np
import pytest

from worker.mesh.camera import Camera

POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 1], [1, 1, -2]], np.float32)


def test_a_parallel_camera_sees_its_square_whatever_the_depth() -> None:
    flat, near = Camera(side=2).project(POINTS)
    np.testing.assert_allclose(flat, [[0.5, 0.5], [1.0, 0.5], [0.5, 0.0], [1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(near, POINTS[:, 2])


def test_a_near_thing_is_seen_larger_by_a_camera_at_a_distance() -> None:
    flat, near = Camera(side=2, distance=2).project(POINTS)
    np.testing.assert_allclose(flat, [[0.5, 0.5], [1, 0.5], [0.5, 0], [1.5, -0.5], [0.75, 0.25]])
    np.testing.assert_allclose(1 + near / 2, [1, 1, 1, 2, 0.5])


@pytest.mark.parametrize("distance", [math.inf, 3.0])
def test_nearness_is_linear_on_the_picture(distance: float) -> None:
    middle = POINTS[[3, 4]].mean(axis=0)
    flat, near = Camera(side=2, distance=distance).project(np.vstack([POINTS[[3, 4]], middle]))
    (first, last, between) = flat[:, 0] if np.ptp(flat[:, 0]) else (0, 1, 0.5)
    share = (between - first) / (last - first)
    assert near[2] == pytest.approx(near[0] + share * (near[1] - near[0]), rel=1e-5)


@pytest.mark.parametrize("distance", [math.inf, 3.0])
def test_a_camera_that_moves_with_the_mesh_sees_the_same(distance: float) -> None:
    camera = Camera(center=(0.1, -0.2, 0.3), side=2, distance=distance)
    base, scale = np.array([0.5, -1, 0.25]), 0.3
    before = camera.project(POINTS)
    after = camera.moved(base, scale).project(((POINTS - base) * scale).astype(np.float32))
    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    np.testing.assert_allclose(after[1], before[1] * scale, atol=1e-6)


@pytest.mark.parametrize(
    ("azimuth", "right"), [(0, (1, 0, 0)), (90, (0, 0, -1)), (180, (-1, 0, 0)), (270, (0, 0, 1))]
)
def test_a_camera_beside_the_product_sees_its_side(azimuth: float, right: tuple[float, float, float]) -> None:
    """At 90 degrees it stands on +x: the front, at +z, is on the left of the picture."""
    camera = Camera(side=2, distance=4, azimuth=azimuth)
    toward = camera.rotation[2]
    points = np.array([right, [0, 1, 0], toward], np.float32)
    flat, near = camera.project(points)
    np.testing.assert_allclose(flat, [[1, 0.5], [0.5, 0], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_allclose(near, [0, 0, 4 / 3], atol=1e-6)


def test_a_moved_camera_keeps_its_direction() -> None:
    camera = Camera(center=(0.1, -0.2, 0.3), side=2, distance=5, azimuth=70, elevation=8)
    base, scale = np.array([0.2, -1.0, 0.1]), 0.25
    moved = camera.moved(base, scale)
    before, after = camera.project(POINTS), moved.project(((POINTS - base) * scale).astype(np.float32))
    np.testing.assert_allclose(after[0], before[0], atol=1e-5)


@pytest.mark.parametrize("distance", [math.inf, 3.0])
def test_a_mirrored_camera_sees_the_mirror_image(distance: float) -> None:
    camera = Camera(center=(0.1, -0.2, 0.3), side=2, distance=distance, azimuth=80, elevation=5)
    flat, near = camera.project(POINTS)
    mirrored, as_near = camera.mirrored().project(POINTS * np.array([-1, 1, 1], np.float32))
    np.testing.assert_allclose(mirrored, [1, 0] + flat * [-1, 1], atol=1e-6)
    np.testing.assert_allclose(as_near, near, atol=1e-6)
