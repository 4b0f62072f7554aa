import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from worker.engines.surface import PosedView, Role, View
from worker.engines.views import Outline, align, silhouette
from worker.pipeline.frame import frame


def photo(*shapes: tuple[float, float, float, float], size: int = 700) -> View:
    """Draw boxes (left, top, right, bottom), 0..1 of a picture with 500 pixels for the unit, and frame them alone."""
    image = Image.new("RGBA", (size, size), 0)
    draw = ImageDraw.Draw(image)
    for n, box in enumerate(shapes):
        draw.rectangle([100 + side * 500 for side in box], (40 + 90 * n, 120, 200 - 60 * n))
    return frame(np.asarray(image))


def seen(outline: Outline, point: tuple[float, float, float]) -> NDArray[np.uint8]:
    flat, _ = outline.camera.project(np.array([point], np.float32))
    column, row = (flat[0] * 512).astype(int)
    return np.asarray(outline.view[row, column])


# A tower on a plinth whose front end reaches far forward: the front photo is tall and narrow, the side's is wide.
FRONT = photo((0.4, 0.0, 0.6, 0.5), (0.3, 0.5, 0.7, 0.7))
LEFT = photo((0.5, 0.0, 0.6, 0.5), (0.0, 0.5, 0.7, 0.7))
RIGHT = photo((0.4, 0.0, 0.5, 0.5), (0.3, 0.5, 1.0, 0.7))


def test_the_front_fills_the_square_of_the_axes() -> None:
    (front,) = align([PosedView("front", FRONT)])
    assert front.camera.side == 2.0
    assert front.camera.center == (0.0, 0.0, 0.0)
    assert np.array_equal(front.mask, FRONT[..., 3] > 127)


@pytest.mark.parametrize(("role", "view"), [("left", LEFT), ("right", RIGHT)])
def test_photos_that_were_framed_alone_show_the_product_at_one_height_and_of_one_size(
    role: Role, view: View
) -> None:
    front, side = align([PosedView("front", FRONT), PosedView(role, view)])
    ends = []
    for outline in (front, side):
        rows = np.flatnonzero(outline.mask.any(axis=1))
        ends.append(
            outline.camera.center[1] + (0.5 - np.array([rows[0], rows[-1] + 1]) / 512) * outline.camera.side
        )
    np.testing.assert_allclose(ends[0], ends[1], atol=0.01)
    widths = [outline.mask.any(axis=0).sum() * outline.unit for outline in (front, side)]
    assert widths[1] / widths[0] == pytest.approx(0.7 / 0.4, rel=0.02)


@pytest.mark.parametrize(("role", "view"), [("left", LEFT), ("right", RIGHT)])
def test_the_front_of_the_product_is_on_its_side_of_a_side_photo(role: Role, view: View) -> None:
    """The plinth reaches forward: seen from the left to the picture's left, from the right to its right."""
    _, side = align([PosedView("front", FRONT), PosedView(role, view)])
    low, high = (np.flatnonzero(side.mask.any(axis=0))[[0, -1]] + 0.5) / 512
    half = (high - low) / 2 * side.camera.side
    assert seen(side, (0, -0.7, 0.9 * half))[3] == 255
    assert seen(side, (0, 0.5, 0.9 * half))[3] == 0, "the tower stands at the back"
    assert seen(side, (0, 0.5, -0.6 * half))[3] == 255


def test_a_back_of_another_size_and_beside_the_middle_covers_the_mirrored_front() -> None:
    flag = photo((0.2, 0.0, 0.3, 0.9), (0.3, 0.0, 0.8, 0.4))
    mirrored = flag[:, ::-1]
    smaller = np.zeros_like(flag)
    smaller[40:488, 10:458] = np.asarray(Image.fromarray(mirrored).resize((448, 448)))
    front, back = align([PosedView("front", flag), PosedView("back", smaller)])
    assert back.camera.side == pytest.approx(2.0 * 512 / 448, rel=0.01)
    for point in ((-0.4, -0.7, 0.0), (0.3, 0.5, 0.0), (0.3, -0.5, 0.0)):
        assert seen(front, point)[3] == seen(back, point)[3]
        assert np.abs(seen(front, point).astype(int) - seen(back, point)).max() < 8


def test_a_level_that_both_photos_show_comes_to_one_height() -> None:
    """In perspective the legs that are near reach further down, so that bottoms alone place the seat wrongly."""
    seat, near = (0.2, 0.4, 0.8, 0.44), 0.03
    front = photo(seat, (0.2, 0.44, 0.24, 0.9), (0.76, 0.44, 0.8, 0.9))
    side = photo(seat, (0.2, 0.44, 0.24, 0.9 + near), (0.76, 0.44, 0.8, 0.9 + near))
    at = []
    for outline in align([PosedView("front", front), PosedView("left", side)]):
        row = outline.mask.sum(axis=1).argmax()
        at.append(outline.camera.center[1] + (0.5 - row / 512) * outline.camera.side)
    assert at[0] == pytest.approx(at[1], abs=0.02)


def test_views_without_a_product_are_left_out() -> None:
    nothing = np.zeros_like(FRONT)
    assert [outline.role for outline in align([PosedView("front", FRONT), PosedView("left", nothing)])] == [
        "front"
    ]
    assert align([PosedView("front", nothing), PosedView("left", LEFT)]) == []
    assert align([]) == []


def test_specks_and_pinholes_are_no_part_of_an_outline() -> None:
    alpha = np.zeros((512, 512), np.uint8)
    alpha[100:400, 150:350] = 255
    alpha[10:14, 10:14] = 255
    alpha[200:205, 200:205] = 0
    alpha[250:350, 220:280] = 0  # a hole, not a pinhole
    mask = silhouette(alpha)
    assert not mask[12, 12]
    assert mask[202, 202]
    assert not mask[300, 250]
