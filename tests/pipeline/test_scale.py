from typing import Any

import numpy as np
import pytest

from worker.pipeline.scale import LONGEST_SIDE, depth_factor, scale

EXTENT = np.array([2.0, 4.0, 1.0])  # width, height, depth


@pytest.mark.parametrize(
    ("dimensions", "height"),
    [
        ({"height": 240, "unit": "mm"}, 0.24),
        ({"height": 24.0, "unit": "cm"}, 0.24),
        ({"height": 2, "unit": "m"}, 2.0),
        ({"height": 10, "unit": "in"}, 0.254),
        ({"width": 12, "unit": "cm"}, 0.24),
        ({"depth": 6, "unit": "cm"}, 0.24),
        ({"width": 12, "height": 24, "depth": 6, "unit": "cm"}, 0.24),
        ({"width": 0.5, "height": None, "unit": "m", "note": "boxed"}, 1.0),
    ],
)
def test_dimensions_make_metres(dimensions: Any, height: float) -> None:
    metres, source, warnings = scale(EXTENT, dimensions)
    assert metres * 4 == pytest.approx(height)
    assert source == "dimensions"
    assert warnings == []


def test_without_dimensions_the_longest_side_is_a_default() -> None:
    metres, source, warnings = scale(EXTENT, None)
    assert metres * 4 == pytest.approx(LONGEST_SIDE)
    assert source == "default"
    assert warnings == []


@pytest.mark.parametrize(
    "dimensions",
    [
        "30 cm",
        [30, 20],
        {},
        {"height": 24},
        {"height": 24, "unit": "ft"},
        {"height": 24, "unit": ["cm"]},
        {"unit": "cm"},
        {"height": "24", "unit": "cm"},
        {"height": True, "unit": "m"},
        {"height": -3, "unit": "cm"},
        {"height": 0, "unit": "cm"},
        {"height": float("nan"), "unit": "cm"},
        {"height": float("inf"), "unit": "cm"},
        {"height": 10**400, "unit": "m"},
        {"height": 240, "unit": "m"},
    ],
)
def test_nonsense_is_told_of_and_not_used(dimensions: Any) -> None:
    metres, source, warnings = scale(EXTENT, dimensions)
    assert metres * 4 == pytest.approx(LONGEST_SIDE)
    assert source == "default"
    assert warnings


@pytest.mark.parametrize(
    ("dimensions", "factor"),
    [
        ({"width": 2, "depth": 3, "fit": True}, 3.0),
        ({"height": 8, "depth": 1, "fit": True}, 0.5),
        (
            {"width": 2, "height": 16, "depth": 2, "fit": True},
            1.0,
        ),  # the mean of width and height is 2 times the model's
        ({"width": 2, "depth": 3, "fit": False}, None),
        ({"width": 2, "depth": 3}, None),
    ],
)
def test_the_depth_that_fits_the_dimensions(dimensions: Any, factor: float | None) -> None:
    dimensions["unit"] = "cm"
    assert depth_factor(EXTENT, dimensions) == (factor and pytest.approx(factor))
    assert not any("fit" in warning for warning in scale(EXTENT, dimensions).warnings)


@pytest.mark.parametrize(
    "dimensions",
    [
        {"depth": 3, "fit": True},
        {"width": 2, "height": 4, "fit": True},
        {"width": 2, "depth": -3, "fit": True},
        {"width": 2, "depth": 1, "fit": 1},
        {"width": 2, "depth": 1, "fit": "yes"},
        {"width": 2, "depth": 1, "fit": [True]},
    ],
)
def test_a_fit_that_makes_no_sense_is_told_of_and_not_used(dimensions: Any) -> None:
    dimensions["unit"] = "cm"
    assert depth_factor(EXTENT, dimensions) is None
    assert any("fit" in warning for warning in scale(EXTENT, dimensions).warnings)


@pytest.mark.parametrize("dimensions", [None, "fit", [True], {"fit": True}, {"fit": True, "unit": "ft"}])
def test_without_dimensions_no_depth_is_fitted(dimensions: Any) -> None:
    assert depth_factor(EXTENT, dimensions) is None


def test_sides_that_contradict_each_other_are_averaged_and_told_of() -> None:
    metres, source, warnings = scale(EXTENT, {"width": 10, "height": 80, "unit": "cm"})
    assert source == "dimensions"
    assert metres == pytest.approx(0.1)
    assert warnings == [
        "The width should be 0.1 m, but by the model's proportions it is 0.2 m.",
        "The height should be 0.8 m, but by the model's proportions it is 0.4 m.",
    ]


def test_the_depth_that_no_photo_shows_does_not_outvote_width_and_height() -> None:
    metres, _, warnings = scale(EXTENT, {"height": 24, "depth": 20, "unit": "cm"})
    assert metres * 4 == pytest.approx(0.24)
    assert warnings == ["The depth should be 0.2 m, but by the model's proportions it is 0.06 m."]


def test_a_flat_model_has_no_depth_to_go_by() -> None:
    metres, source, warnings = scale(np.array([2.0, 4.0, 0.0]), {"depth": 20, "unit": "cm"})
    assert metres * 4 == pytest.approx(LONGEST_SIDE)
    assert (source, len(warnings)) == ("default", 1)
