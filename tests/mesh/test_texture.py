import numpy as np
from numpy.typing import NDArray

from worker.mesh.texture import Color, bake, dilate, texels


def painted(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], uv: NDArray[np.float32], color: Color, size: int
) -> NDArray[np.uint8]:
    on = texels(faces, uv, size)
    return dilate(on, bake(vertices, faces, uv, on, color, size), size)


def test_texels_have_the_colour_of_the_point_that_they_stand_for() -> None:
    # A square of 2 by 2 in space on the left half of the texture, upside down.
    vertices = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]], np.float32)
    uv = np.array([[0, 1], [0.5, 1], [0.5, 0], [0, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)

    def color(points: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([points[:, 0] / 2, points[:, 1] / 2, np.full(len(points), 0.5)], axis=1)

    texture = painted(vertices, faces, uv, color, 64)
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

    texture = painted(vertices, faces, vertices[:, :2], color, 8)
    np.testing.assert_array_equal(np.unique(texture.reshape(-1, 3), axis=0), [[0, 128, 255]])


def square(size: float) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    uv = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]], np.float32)
    vertices = np.concatenate([uv * np.float32(size), np.zeros((4, 1), np.float32)], axis=1)
    return vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32), uv


def test_smooth_colours_are_asked_for_a_quarter_of_the_points_and_exact_all_the_same() -> None:
    vertices, faces, uv = square(1)
    asked = 0

    def color(points: NDArray[np.float32]) -> NDArray[np.float32]:
        nonlocal asked
        asked += len(points)
        return np.stack(
            [0.5 + 0.4 * np.sin(6 * points[:, 0]), points[:, 1], np.full(len(points), 0.5)], axis=1
        )

    on = texels(faces, uv, 256)
    colors = bake(vertices, faces, uv, on, color, 256)
    assert asked < 0.27 * len(on.texel)
    np.testing.assert_allclose(colors, color(on.on(vertices, faces)), atol=0.002)


def test_sharp_colours_are_asked_for_where_they_are_sharp() -> None:
    vertices, faces, uv = square(1)

    def color(points: NDArray[np.float32]) -> NDArray[np.float32]:
        letters = (np.sin(70 * points[:, 0]) * np.sin(50 * points[:, 1]) > 0).astype(np.float32)
        return np.repeat(letters[:, None], 3, axis=1)

    on = texels(faces, uv, 256)
    colors = bake(vertices, faces, uv, on, color, 256)
    np.testing.assert_array_equal(colors, color(on.on(vertices, faces)))


def test_a_colour_that_is_not_a_number_is_taken_from_its_surroundings() -> None:
    vertices, faces, uv = square(1)

    def color(points: NDArray[np.float32]) -> NDArray[np.float32]:
        colors = np.full((len(points), 3), 0.25, np.float32)
        colors[np.abs(points[:, 0] - 0.5) < 0.1] = np.nan
        return colors

    assert np.unique(painted(vertices, faces, uv, color, 64)).tolist() == [64]
    nothing = painted(vertices, faces, uv, lambda points: np.full_like(points, np.nan), 64)
    assert np.unique(nothing).tolist() == [128]
