import numpy as np

from worker.mesh.rasterize import rasterize


def test_two_triangles_cover_a_rectangle_without_a_gap() -> None:
    corners = np.array([[[2, 1], [9, 1], [9, 6]], [[2, 1], [9, 6], [2, 6]]], np.float32)
    covered = np.zeros(10 * 8, int)
    for batch in rasterize(corners, 10, 8):
        covered[batch.pixel] += 1
        np.testing.assert_allclose(batch.weight.sum(axis=1), 1, rtol=1e-5)
        row, column = np.divmod(batch.pixel, 10)
        points = np.einsum("ki,kij->kj", batch.weight, corners[batch.face])
        np.testing.assert_allclose(points, np.stack([column, row], axis=1) + 0.5, atol=1e-4)
    inside = np.zeros((8, 10), bool)
    inside[1:6, 2:9] = True
    np.testing.assert_array_equal(covered.reshape(8, 10) > 0, inside)


def test_what_is_outside_the_picture_or_has_no_area_is_not_drawn() -> None:
    corners = np.array(
        [[[-5, -5], [-1, -5], [-5, -1]], [[20, 20], [30, 20], [20, 30]], [[1, 1], [5, 5], [3, 3]]], np.float32
    )
    assert sum(len(batch.face) for batch in rasterize(corners, 8, 8)) == 0


def test_a_triangle_larger_than_a_batch_and_the_picture_fills_the_picture() -> None:
    corners = np.array([[[-3000, -3000], [6000, -3000], [-3000, 6000]]], np.float32)
    assert sum(len(batch.pixel) for batch in rasterize(corners, 1024, 1024)) == 1024 * 1024
