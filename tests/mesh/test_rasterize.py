import numpy as np

from worker.mesh.rasterize import nearest, planes, rasterize


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


def test_the_spans_cover_what_a_test_of_each_pixel_finds() -> None:
    random = np.random.default_rng(3)
    corners = random.uniform(-8, 40, (400, 3, 2)).astype(np.float32)
    corners[::7] = np.round(corners[::7] * 2) / 2  # edges through the centres of pixels
    corners[1::7, 2] = corners[1::7, 1] + random.normal(0, 0.3, (len(corners[1::7]), 2))  # slivers
    row, column = np.mgrid[:32, :32].reshape(2, -1)
    for face, (a, b, c) in enumerate(corners.astype(np.float64)):
        x, y = column + 0.5 - a[0], row + 0.5 - a[1]
        (bx, by), (cx, cy) = b - a, c - a
        area = bx * cy - by * cx
        if not area:
            continue
        weight_b, weight_c = (x * cy - y * cx) / area, (y * bx - x * by) / area
        nearest_edge = np.minimum(np.minimum(weight_b, weight_c), 1 - weight_b - weight_c)
        found = np.zeros(32 * 32, bool)
        for batch in rasterize(corners[face : face + 1], 32, 32):
            found[batch.pixel] = True
        assert found[nearest_edge > 1e-4].all()
        assert not found[nearest_edge < -1e-4].any()


def test_the_nearest_face_wins_and_its_depth_is_linear() -> None:
    square = np.array([[[0, 0], [8, 0], [8, 8]], [[0, 0], [8, 8], [0, 8]]], np.float32)
    slope = square.mean(axis=2) / 8  # of the corners: nearer to the right and down
    flat = np.full((2, 3), 0.5, np.float32)
    seen = nearest(np.concatenate([square, square]), np.concatenate([slope, flat]).astype(np.float32), 10, 8)
    row, column = np.mgrid[:8, :10]
    depth = np.where(column < 8, np.maximum((row + column + 1) / 16, 0.5), -np.inf)
    np.testing.assert_allclose(seen.near.reshape(8, 10), depth, atol=1e-5)
    face = seen.face.reshape(8, 10)
    assert (face[:, 8:] == -1).all()
    assert set(face[(row + column > 7) & (column < 8)]) == {0, 1}
    assert set(face[row + column < 7]) == {2, 3}


def test_planes_are_linear_beyond_their_triangle_too() -> None:
    corners = np.array([[[10, 10], [20, 10], [10, 30]]], np.float32)
    found = planes(corners, np.array([[[1, 0], [3, 0], [1, 8]]], np.float32))
    places = np.array([[10, 10], [15, 20], [0, 50]], np.float64)
    np.testing.assert_allclose(found.at(np.zeros(3, int), places), [[1, 0], [2, 4], [-1, 16]], atol=1e-5)
