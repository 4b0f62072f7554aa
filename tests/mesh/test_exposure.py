"""Photos of a ball from four sides, given as what their cameras saw of its points."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from worker.mesh.exposure import Observed, match

Floats = NDArray[np.float32]
POINTS = np.asarray(trimesh.creation.icosphere(4).vertices, np.float32)
AROUND = np.arctan2(POINTS[:, 0], POINTS[:, 2])
LEATHER = (0.6, 0.4, 0.25)
CASTS = np.array([(1, 1, 1), (0.9, 0.93, 0.96), (1.1, 1.06, 1.08), (0.92, 0.9, 0.88)], np.float32)


def photo(turn: int, color: Callable[[Floats], Floats], contrast: float = 0.03) -> Observed:
    """What a camera far away sees after so many quarters of a turn to the product's left; its colours may depend on the camera."""
    toward = np.array([np.sin(turn * np.pi / 2), 0, np.cos(turn * np.pi / 2)], np.float32)
    cosine = POINTS @ toward
    at = np.flatnonzero(cosine > 0.1)
    return Observed(
        at, color(POINTS[at]).astype(np.float32), np.full(len(at), contrast, np.float32), cosine[at]
    )


def leather(points: Floats) -> Floats:
    grain = 1 + 0.06 * np.sin(9 * points[:, :1]) * np.sin(7 * points[:, 1:2] + 3 * points[:, 2:])
    return np.asarray(LEATHER * grain, np.float32)


def cast(turn: int) -> Callable[[Floats], Floats]:
    """The same leather in the exposure and the white balance of a photo."""
    return lambda points: leather(points) * CASTS[turn]


def gains(photos: Sequence[Observed]) -> Floats:
    """(n, 3)"""
    found = [gain for _, gain in sorted(match(photos, POINTS).items())]
    assert all(gain is not None for gain in found)
    return np.array(found)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_exposures_and_white_balances_are_found_to_a_hundredth_or_two(count: int) -> None:
    photos = [photo(turn, cast(turn)) for turn in range(count)]
    np.testing.assert_allclose(gains(photos) * CASTS[:count], 1, atol=0.02)
    brightness = (gains(photos) * CASTS[:count] * LEATHER).sum(axis=1) / np.sum(LEATHER)
    np.testing.assert_allclose(brightness, 1, atol=0.01)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_photos_that_agree_are_left_exactly_as_they_are(count: int) -> None:
    np.testing.assert_array_equal(gains([photo(turn, leather) for turn in range(count)]), 1)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_stripes_whose_hue_goes_round_the_product_are_no_exposure(count: int) -> None:
    """Cameras do not stand exactly where they are taken to stand, and each side has colours of its own."""

    def striped(turn: int) -> Callable[[Floats], Floats]:
        def color(points: Floats) -> Floats:
            moved = points + np.float32(0.01 * (-1) ** turn)
            hue = np.arctan2(moved[:, :1], moved[:, 2:])
            paint = 0.45 + 0.35 * np.cos(hue - np.array([0.8, 2.6, 4.6]))
            stripe = np.tanh(6 * np.sin(moved @ np.array([[3.5], [10], [6]], np.float32)))
            return np.asarray(paint * (0.7 + 0.3 * stripe), np.float32)

        return color

    np.testing.assert_allclose(
        gains([photo(turn, striped(turn), contrast=0.3) for turn in range(count)]), 1, atol=0.025
    )


def test_a_seam_that_says_something_else_than_the_three_others_is_outvoted() -> None:
    """Each side has a hue of its own, so that only the seams tell."""

    def side(turn: int) -> Callable[[Floats], Floats]:
        def color(points: Floats) -> Floats:
            around = np.arctan2(points[:, :1], points[:, 2:])
            paint = 0.5 + 0.3 * np.cos(around - np.array([0, 2, 4]))
            shade = np.where((around > 0) & (around < np.pi / 2), 0.88 if turn else 1, 1)
            return np.asarray(paint * shade, np.float32)

        return color

    # The seam between the front and the left alone is darker in the left photo.
    np.testing.assert_allclose(gains([photo(turn, side(turn)) for turn in range(4)]), 1, atol=0.03)


def test_light_from_one_side_of_every_photo_is_the_same_light() -> None:
    def lit(turn: int) -> Callable[[Floats], Floats]:
        right = np.array([[np.cos(turn * np.pi / 2)], [0], [-np.sin(turn * np.pi / 2)]], np.float32)
        return lambda points: np.asarray(leather(points) * (1 + 0.1 * points @ right), np.float32)

    np.testing.assert_allclose(gains([photo(turn, lit(turn)) for turn in range(4)]), 1, atol=0.01)


@pytest.mark.parametrize("gain", [0.88, 1.12])
def test_a_front_and_a_back_that_share_no_point_are_matched_by_their_colors(gain: float) -> None:
    found = gains([photo(0, leather), photo(2, lambda points: leather(points) * np.float32(gain))])
    np.testing.assert_allclose(found[1] * gain, 1, atol=0.01)


def test_a_front_and_a_back_of_other_colors_say_nothing() -> None:
    back = photo(2, lambda points: leather(points)[:, ::-1] * np.float32(0.9))
    np.testing.assert_array_equal(gains([photo(0, leather), back]), 1)


def test_a_photo_of_something_else_is_left_out_and_the_others_are_matched() -> None:
    def other(points: Floats) -> Floats:
        return np.asarray(1 - leather(points), np.float32)

    photos = [photo(turn, other if turn == 1 else cast(turn)) for turn in range(4)]
    found = match(photos, POINTS)
    assert found[1] is None
    for n in (2, 3):
        np.testing.assert_allclose(np.asarray(found[n]) * CASTS[n], 1, atol=0.02)


def test_print_that_differs_across_the_edge_of_a_box_is_not_another_product() -> None:
    plane = np.stack(np.meshgrid(*[np.linspace(-0.97, 0.97, 30)] * 2), axis=-1).reshape(-1, 2)
    one, zero = np.ones(len(plane), np.float32), np.zeros(len(plane), np.float32)
    points = np.concatenate([np.column_stack([plane, one]), np.column_stack([one, plane])]).astype(np.float32)
    paints = np.array([LEATHER, (0.2, 0.1, 0.5)], np.float32)
    photos = [
        Observed(np.arange(len(plane)) + len(plane) * side, np.tile(paint, (len(plane), 1)), zero, one)
        for side, paint in enumerate(paints)
    ]
    np.testing.assert_array_equal(np.asarray(match(photos, points)[1]), 1)
