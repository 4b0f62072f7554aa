"""`metadata.subject`: which of the things in a photo is the product."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from worker.pipeline.cutout import Cutter
from worker.pipeline.roles import subject_photo
from worker.pipeline.subject import Box, read_subject

LEFT = {"box": [0.02, 0.1, 0.5, 0.9]}

numbers = st.floats() | st.integers() | st.sampled_from([10**400, True, None, "0.5"])
junk = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["box", "photo", ""]), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def cutter(u2netp: Path) -> Cutter:
    return Cutter("u2netp", u2netp)


@given(junk | st.fixed_dictionaries({"box": st.lists(numbers, min_size=3, max_size=5)}))
def test_whatever_a_row_says_there_is_a_box_in_the_photo_or_a_warning(value: Any) -> None:
    box, warnings = read_subject(value)
    if box:
        assert 0 <= box.left < box.right <= 1
        assert 0 <= box.top < box.bottom <= 1
    assert bool(warnings) is (box is None and value is not None)


def test_a_box_is_read() -> None:
    assert read_subject({"box": [0, 0.25, 1, 1], "note": "the left one"}) == (Box(0, 0.25, 1, 1), ())
    assert read_subject(None) == (None, ())


def test_the_subject_is_marked_in_the_front_or_in_the_first_photo() -> None:
    assert subject_photo({"front": 2, "back": 0}, 3) == 2
    assert subject_photo(None, 3) == subject_photo("nonsense", 3) == 0


def two_mugs(ground: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGBA", (900, 500), ground)
    draw = ImageDraw.Draw(image)
    for left, color in ((90, (40, 90, 190, 255)), (530, (190, 60, 40, 255))):
        draw.ellipse((left + 170, 160, left + 290, 330), outline=color, width=28)
        draw.rounded_rectangle((left, 110, left + 220, 390), 30, fill=color)
    return image


@pytest.mark.parametrize("ground", [(0, 0, 0, 0), (236, 234, 230, 255)])
def test_two_products_make_a_cutout_unsure_until_one_is_marked(
    cutter: Cutter, ground: tuple[int, int, int, int]
) -> None:
    image = two_mugs(ground)
    both = cutter.cut(image)
    assert both.certainty < 0.5
    assert "2 things" in both.warnings[-1]
    for box, side in ((LEFT, np.s_[:, :450]), ({"box": [0.52, 0.1, 1, 0.9]}, np.s_[:, 450:])):
        one = cutter.cut(image, box)
        alpha = np.zeros_like(one.rgba[..., 3])
        alpha[side] = both.rgba[side][..., 3]
        solid, expected = one.rgba[..., 3] > 127, alpha > 127
        assert (solid & expected).sum() > 0.95 * (solid | expected).sum()
        assert one.certainty > 0.8
        assert one.warnings == ()


def test_a_product_that_the_box_cuts_is_kept_whole_if_most_of_it_is_inside(cutter: Cutter) -> None:
    image = two_mugs((0, 0, 0, 0))
    whole = cutter.cut(image, LEFT).rgba[..., 3] > 127
    tight = cutter.cut(image, {"box": [0.12, 0.24, 0.5, 0.77]}).rgba[..., 3] > 127
    assert (tight == whole).all()


@pytest.mark.parametrize("ground", [(0, 0, 0, 0), (236, 234, 230, 255)])
def test_a_box_that_cuts_the_product_off_makes_the_cutout_unsure(
    cutter: Cutter, ground: tuple[int, int, int, int]
) -> None:
    found = cutter.cut(two_mugs(ground), {"box": [0.02, 0.1, 0.5, 0.5]})
    assert "The subject's box cuts the product off." in found.warnings
    assert found.certainty < 0.5


def test_a_box_between_two_things_that_touch_does_not_cut_the_product_off(cutter: Cutter) -> None:
    image = two_mugs((0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((380, 220, 530, 270), fill=(40, 90, 190, 255))
    assert cutter.cut(image, LEFT).warnings == ()


def test_a_box_with_nothing_in_it_is_ignored_and_told_of(cutter: Cutter) -> None:
    found = cutter.cut(two_mugs((0, 0, 0, 0)), {"box": [0.45, 0.9, 0.55, 1]})
    assert "box" in found.warnings[0]
    assert found.certainty < 0.5
    assert (found.rgba[..., 3] > 127).sum() > 100_000


def test_a_malformed_subject_is_ignored_and_told_of(cutter: Cutter) -> None:
    image = two_mugs((0, 0, 0, 0)).crop((0, 0, 450, 500))
    found = cutter.cut(image, {"box": [10, 20, 300, 400]})
    assert (found.rgba == cutter.cut(image).rgba).all()
    assert "ignored" in found.warnings[0]
    assert found.certainty == 1
