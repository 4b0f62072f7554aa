"""Which photo becomes which side of the product."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.errors import JobError
from worker.engines.surface import AZIMUTHS, Role
from worker.pipeline.choose import PhotoScore
from worker.pipeline.photo import Photo, ScoredView
from worker.pipeline.role_checks import COPY, OTHER_OUTLINE
from worker.pipeline.roles import NO_FRONT, SAME_FILE, TWICE, assign, read_views

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
entries = values | st.integers(-2, 6) | st.sampled_from([True, "0", 1.0, 10**400, -(10**400)])
views = values | st.dictionaries(st.sampled_from([*AZIMUTHS, "top", ""]), entries)


def photo(n: int, size: float | None) -> Photo:
    """A photo whose score is its size; None for one that cannot be used."""
    found = Photo(f"https://a/{n}", Path(f"/photo-{n}"))
    if size is None:
        return Photo(found.url, found.file, error=JobError("photo_not_found"))
    view = np.zeros((512, 512, 4), np.uint8)
    view[200:300, 40:470] = 255
    return Photo(found.url, found.file, scored=ScoredView(view, PhotoScore(size, 1.0, 1.0, 1.0)))


def photos(*sizes: float | None) -> list[Photo]:
    return [photo(n, size) for n, size in enumerate(sizes)]


@given(views, st.lists(st.none() | st.sampled_from([0.5, 1.0]), max_size=5))
def test_whatever_is_stated_the_model_is_made_if_a_photo_can_be_used(
    stated: Any, sizes: list[float | None]
) -> None:
    usable = {n for n, size in enumerate(sizes) if size}
    found = assign(stated, photos(*sizes))
    assert bool(found.roles) is bool(usable)
    assert set(found.roles) <= usable
    assert list(found.roles.values()) == [role for role in AZIMUTHS if role in found.roles.values()]
    assert not found.roles or next(iter(found.roles.values())) == "front"
    assert all(text.endswith(".") for text in [*found.reasons.values(), *found.warnings])


@pytest.mark.parametrize("stated", [None, {}, {"front": 9}, {"back": 1}, [0], {"front": True}])
def test_without_a_stated_front_the_best_photo_is_the_front(stated: Any) -> None:
    found = assign(stated, photos(0.2, 0.7, None, 0.7))
    assert (found.roles, found.front_stated) == ({1: "front"}, False)


def test_stated_photos_are_used_in_the_order_of_the_sides_however_good_they_are() -> None:
    found = assign({"right": 0, "front": 2, "left": 3, "back": 1}, photos(0.9, 0.8, 0.1, 0.2, 1.0))
    assert list(found.roles.items()) == [(2, "front"), (3, "left"), (1, "back"), (0, "right")]
    assert (found.warnings, found.reasons, found.front_stated) == ([], {}, True)


@pytest.mark.parametrize(
    ("stated", "kept", "warnings"),
    [
        (None, {}, 0),
        ({"front": 0, "left": None}, {"front": 0}, 0),
        ("front", {}, 1),
        ([0, 1], {}, 1),
        ({"front": 0, "top": 1}, {"front": 0}, 1),
        ({"front": 0, "back": 3}, {"front": 0}, 1),
        ({"front": 0, "back": -1}, {"front": 0}, 1),
        ({"front": 0, "back": "1"}, {"front": 0}, 1),
        ({"front": 0, "back": True}, {"front": 0}, 1),
        ({"front": 0, "left": 1.5, "right": 1e300, "back": [1]}, {"front": 0}, 3),
        ({"front": 0, "left": 1, "right": 1, "back": 2}, {"front": 0, "back": 2}, 2),
        ({"front": 0, "back": 0, "left": 1}, {}, 3),  # two sides are one photo, and so there is no front
        ({"left": 1, "back": 2}, {}, 1),
    ],
)
def test_what_makes_no_sense_is_not_used_and_told_of(
    stated: Any, kept: dict[Role, int], warnings: int
) -> None:
    found = read_views(stated, 3)
    assert found.photos == kept
    assert len(found.warnings) == warnings


def test_a_photo_that_does_not_fit_is_left_out_with_the_reason() -> None:
    found = photos(0.5, 0.5, 0.5)
    assert found[1].scored
    other = np.zeros((512, 512, 4), np.uint8)
    other[40:470, 200:300] = (200, 30, 30, 255)
    found[1] = replace(found[1], scored=found[1].scored._replace(view=other))
    assigned = assign({"front": 0, "back": 1, "left": 2}, found)
    assert assigned.roles == {0: "front", 2: "left"}
    assert assigned.reasons == {1: OTHER_OUTLINE}
    assert assigned.warnings == [f"The back was left out. {OTHER_OUTLINE}"]


def test_without_the_photo_of_the_front_the_best_of_the_others_is_the_only_view() -> None:
    found = assign({"front": 0, "back": 1, "left": 2}, photos(None, 0.9, 0.9, 0.2, 0.3))
    assert found.roles == {4: "front"}
    assert set(found.reasons) == {1, 2}
    assert len(found.warnings) == 1
    found = assign({"front": 0, "back": 1, "left": 2}, photos(None, 0.8, 0.9))
    assert found.roles == {2: "front"}
    assert set(found.reasons) == {1, 2}, "of 2 as well, in case that a second try uses another photo"


@pytest.mark.parametrize(
    ("stated", "reasons"),
    [
        ({"front": 0, "left": 1, "right": 1}, {1: TWICE}),
        ({"left": 1, "back": 2}, {1: NO_FRONT, 2: NO_FRONT}),
        ({"front": 0, "back": 0, "left": 1}, {0: TWICE, 1: NO_FRONT}),
    ],
)
def test_a_contradiction_in_the_row_is_the_reason_of_its_photos(stated: Any, reasons: dict[int, str]) -> None:
    assert assign(stated, photos(0.9, 0.5, 0.5)).reasons == reasons


def test_the_same_file_is_not_two_sides() -> None:
    found = [replace(each, sha256=sha256) for each, sha256 in zip(photos(*[0.5] * 4), "abba", strict=True)]
    assigned = assign({"front": 0, "left": 1, "right": 2, "back": 3}, found)
    assert assigned.roles == {0: "front"}
    assert assigned.reasons == {1: SAME_FILE, 2: SAME_FILE, 3: COPY}
    assert len(assigned.warnings) == 3
    found[1] = replace(found[1], sha256="c")
    assert assign({"front": 0, "left": 1, "right": 2}, found).reasons == {}


def test_a_stated_side_whose_photo_cannot_be_used_is_told_of() -> None:
    found = assign({"front": 0, "left": 2, "back": 1}, photos(0.5, None, 0.5))
    assert found.roles == {0: "front", 2: "left"}
    assert found.warnings == ["The photo of the back could not be used."]


def test_the_report_says_how_a_photo_was_used_and_why_it_was_not() -> None:
    used, spare, refused = photos(0.5, 0.5, None)
    assert used.report("left", None).items() >= {"status": "used", "view": "left"}.items()
    assert "reason" not in used.report("front", "It was stated as the back.")
    assert spare.report(None, "Why.").items() >= {"status": "spare", "view": None, "reason": "Why."}.items()
    assert refused.report(None, None).items() >= {"status": "refused", "view": None}.items()
