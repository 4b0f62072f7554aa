import numpy as np
import trimesh

from worker.mesh.normals import normals


def test_the_normals_of_a_ball_point_away_from_its_middle() -> None:
    ball = trimesh.creation.icosphere(3)
    vertices = np.asarray(ball.vertices, np.float32)
    directions = normals(vertices, np.asarray(ball.faces, np.int32))
    np.testing.assert_allclose(directions, vertices, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)


def test_the_corners_of_a_box_lean_evenly_however_its_faces_are_cut() -> None:
    box = trimesh.creation.box((2, 2, 2))
    vertices = np.asarray(box.vertices, np.float32)
    np.testing.assert_allclose(
        normals(vertices, np.asarray(box.faces, np.int32)), vertices / np.sqrt(3), atol=1e-6
    )


def test_slivers_and_unused_vertices_still_have_a_direction() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [5, 5, 5]], np.float32)
    directions = normals(vertices, np.array([[0, 1, 2]], np.int32))
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
