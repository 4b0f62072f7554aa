from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from worker.mesh.clean import drop_floaters, fill_holes, is_watertight, remove_unused, weld


def joined(*meshes: trimesh.Trimesh) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    mesh: Any = trimesh.util.concatenate(meshes)
    return np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32)


def ball(radius: float, x: float = 0.0) -> Any:
    mesh: Any = trimesh.creation.icosphere(2, radius)
    mesh.apply_translation([x, 0, 0])
    return mesh


def test_crumbs_go_and_every_real_part_stays() -> None:
    strap = trimesh.creation.cylinder(0.01, 1.5, sections=8)
    strap.apply_translation([2, 0, 0])
    vertices, faces, dropped = drop_floaters(
        *joined(ball(1), ball(0.03, -2), strap, ball(0.4, 4), ball(0.05, 7))
    )
    assert dropped == 2
    kept = trimesh.Trimesh(vertices, faces, process=False)
    assert kept.body_count == 3
    assert kept.is_watertight
    np.testing.assert_allclose(kept.bounds[:, 0], [-1, 4.4], atol=0.02)


def test_the_wall_of_a_hollow_goes() -> None:
    hollow = ball(0.5)
    hollow.invert()
    vertices, faces, dropped = drop_floaters(*joined(ball(1), hollow))
    assert dropped == 1
    assert np.linalg.norm(vertices, axis=1).min() > 0.9
    assert len(faces) == len(ball(1).faces)


def test_an_inverted_mesh_is_not_dropped_whole() -> None:
    inverted = ball(1)
    inverted.invert()
    _, faces, dropped = drop_floaters(*joined(inverted))
    assert len(faces) == len(inverted.faces)
    assert dropped == 0


def test_an_empty_mesh_stays_empty() -> None:
    vertices, faces, dropped = drop_floaters(np.zeros((5, 3), np.float32), np.zeros((0, 3), np.int32))
    assert (len(vertices), len(faces), dropped) == (0, 0, 0)


def test_remove_unused_renumbers_what_is_used() -> None:
    vertices = np.arange(15, dtype=np.float32).reshape(5, 3)
    faces = np.array([[1, 4, 2], [2, 2, 4]], np.int32)
    vertices, faces = remove_unused(vertices, faces)
    np.testing.assert_array_equal(vertices[:, 0], [3, 6, 12])
    np.testing.assert_array_equal(faces, [[0, 2, 1]])


@pytest.mark.parametrize(
    ("damage", "watertight"),
    [
        (lambda faces: faces, True),
        (lambda faces: faces[1:], False),
        (lambda faces: np.concatenate([faces[:1, ::-1], faces[1:]]), False),
        (lambda faces: np.concatenate([faces, faces[:1]]), False),
        (lambda faces: faces[:0], False),
    ],
    ids=["whole", "hole", "face turned over", "face twice", "empty"],
)
def test_watertight_means_two_agreeing_faces_at_every_edge(
    damage: Callable[[NDArray[np.int32]], NDArray[np.int32]], watertight: bool
) -> None:
    assert is_watertight(damage(np.asarray(ball(1).faces, np.int32))) is watertight


def test_weld_closes_what_only_the_seams_of_a_texture_hold_open() -> None:
    mesh = ball(1)
    soup = np.asarray(mesh.triangles.reshape(-1, 3), np.float32)
    faces = np.arange(len(soup), dtype=np.int32).reshape(-1, 3)
    assert not is_watertight(faces)
    vertices, faces = weld(soup, faces)
    assert len(vertices) == len(mesh.vertices)
    assert is_watertight(faces)


def test_a_hole_is_closed_and_what_is_closed_is_left_alone() -> None:
    vertices, faces = joined(ball(1))
    assert fill_holes(vertices, faces)[1] is faces
    for holes in (slice(40, None), slice(None, -1)):
        whole = trimesh.Trimesh(*fill_holes(vertices, faces[holes]), process=False)
        assert whole.is_watertight
        assert whole.is_winding_consistent
        assert whole.volume > 0.9 * ball(1).volume


def test_two_holes_get_a_fan_each() -> None:
    vertices, faces = joined(ball(1))
    height = vertices[faces].mean(axis=1)[:, 2]
    barrel = remove_unused(vertices, faces[np.abs(height) < 0.8])
    closed = fill_holes(*barrel)
    assert is_watertight(closed[1])
    assert len(closed[0]) == len(barrel[0]) + 2
