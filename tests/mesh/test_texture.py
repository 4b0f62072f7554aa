import numpy as np
from numpy.typing import NDArray

from worker.mesh.texture import bake


def test_texels_have_the_colour_of_the_point_that_they_stand_for() -> None:
    # A square of 2 by 2 in space on the left half of the texture, upside down.
    vertices = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]], np.float32)
    uv = np.array([[0, 1], [0.5, 1], [0.5, 0], [0, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)

    def color(points: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([points[:, 0] / 2, points[:, 1] / 2, np.full(len(points), 0.5)], axis=1)

    texture = bake(vertices, faces, uv, color, 64)
    assert texture.shape == (64, 64, 3)
    assert texture.dtype == np.uint8
    column, row = np.arange(32), np.arange(64)
    np.testing.assert_allclose(texture[10, :32, 0], (column + 0.5) / 32 * 255, atol=1)
    np.testing.assert_allclose(texture[:, 10, 1], (1 - (row + 0.5) / 64) * 255, atol=1)
    # The padding goes on with the rim's colours: nothing bleeds in when the texture is seen from afar.
    np.testing.assert_array_equal(texture[:, 32:], np.repeat(texture[:, 31:32], 32, axis=1))


def test_colours_out_of_range_are_clipped() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2]], np.int32)

    def color(points: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.tile(np.array([-1, 0.5, 3], np.float32), (len(points), 1))

    texture = bake(vertices, faces, vertices[:, :2], color, 8)
    np.testing.assert_array_equal(np.unique(texture.reshape(-1, 3), axis=0), [[0, 128, 255]])
