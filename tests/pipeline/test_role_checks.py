"""Photos that do not show the stated side are found where that can be told, and only there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from worker.engines.surface import AZIMUTHS, Role, View
from worker.pipeline.role_checks import COPY, EXCHANGED, MIRRORED, OTHER_OUTLINE, OTHER_PRODUCT, doubts

SIZE = 512
RED, WHITE, BROWN, BLUE = (200, 40, 40), (235, 230, 220), (120, 80, 50), (40, 70, 190)


def product(
    azimuth: float, *, front: object = WHITE, back: object = BROWN, handle: bool = True, waist: float = 0.0
) -> View:
    """A round can, its front half of one colour and its back half of another; its handle is on its own left."""
    view = np.zeros((SIZE, SIZE, 4), np.uint8)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(float)
    up, across = (SIZE / 2 - y) / 217, (x - SIZE / 2) / 217
    radius = 0.5 * (1 - waist * np.cos(np.pi * up / 2))
    body = (np.abs(up) < 1) & (np.abs(across) < radius)
    angle = np.radians(azimuth) + np.arcsin(np.clip(across / radius, -1, 1))
    view[body] = (*np.array(front), 255)
    view[body & (np.cos(angle) < 0)] = (*np.array(back), 255)
    view[body & (up < -0.7)] = (*RED, 255)
    if handle and azimuth in {0, 180}:
        side = across if azimuth == 0 else -across
        view[~body & (side > 0) & (side < 0.8) & (np.abs(np.abs(up) - 0.35) < 0.12)] = (*RED, 255)
    return view


def turned(**looks: object) -> dict[Role, View]:
    return {role: product(azimuth, **looks) for role, azimuth in AZIMUTHS.items()}  # type: ignore[arg-type]


def flipped(view: View) -> View:
    return np.ascontiguousarray(view[:, ::-1])


CAN = turned()
PLAIN = turned(front=BLUE, back=BLUE, handle=False)
VASE = turned(front=BLUE, back=RED, handle=False, waist=0.7)


@pytest.mark.parametrize("views", [CAN, PLAIN, VASE], ids=["can", "plain", "vase"])
def test_correct_photos_are_believed(views: dict[Role, View]) -> None:
    assert doubts(views) == {}
    for role, view in views.items():
        assert doubts({"front": views["front"], role: view}) == {}


def test_light_and_a_few_degrees_do_not_matter() -> None:
    views = turned()
    for role, gain, shift in (("left", 1.1, 4), ("back", 0.85, -6), ("right", 0.9, 8)):
        bright = (views[role][..., :3] * gain).clip(0, 255)  # type: ignore[index]
        views[role][..., :3] = bright  # type: ignore[index]
        views[role] = np.roll(views[role], shift, axis=1)  # type: ignore[index]
    assert doubts(views) == {}


def test_a_back_that_is_mirrored_is_found_by_its_outline() -> None:
    assert doubts(CAN | {"back": flipped(CAN["back"])}) == {"back": MIRRORED}


def test_a_copy_of_the_front_is_no_other_side() -> None:
    noisy = CAN["front"].copy()
    noisy[::2, ::3, :3] ^= 1
    assert doubts(CAN | {"back": noisy}) == {"back": COPY}
    assert doubts({"front": CAN["front"], "right": noisy}) == {"right": COPY}
    # All sides of a plain one look like its front.
    assert doubts(PLAIN | {"left": PLAIN["front"]}) == {}


def test_another_product_is_found_by_its_outline_or_its_colours() -> None:
    assert doubts(CAN | {"back": VASE["back"]}) == {"back": OTHER_OUTLINE}
    assert doubts(CAN | {"left": VASE["left"]}) == {"left": OTHER_PRODUCT}


def test_exchanged_sides_are_found_by_their_colours() -> None:
    exchanged = CAN | {"left": CAN["right"], "right": CAN["left"]}
    assert doubts(exchanged) == {"left": EXCHANGED, "right": EXCHANGED}
    assert doubts({"front": CAN["front"], "back": CAN["back"], "left": CAN["right"]}) == {"left": EXCHANGED}
    same = PLAIN | {"left": PLAIN["right"], "right": PLAIN["left"]}
    assert doubts(same) == {}


def test_a_weak_sign_of_exchanged_sides_counts_only_if_several_comparisons_have_it() -> None:
    can = turned(back=(190, 170, 150), handle=False)
    exchanged = can | {"left": can["right"], "right": can["left"]}
    assert doubts(exchanged).keys() == {"left", "right"}
    assert doubts({"front": can["front"], "left": can["right"]}) == {}


def test_a_wrong_back_costs_no_correct_side() -> None:
    assert doubts(CAN | {"back": VASE["back"]}).keys() == {"back"}


boxes = st.tuples(*[st.integers(0, SIZE - 1)] * 4)
odd_views = st.lists(boxes, min_size=1, max_size=4)


def _drawn(parts: list[tuple[int, int, int, int]]) -> NDArray[np.uint8]:
    view = np.zeros((SIZE, SIZE, 4), np.uint8)
    for n, (top, left, height, width) in enumerate(parts):
        view[top : top + height + 1, left : left + width + 1] = (80 * n, 255 - 80 * n, 40, 255)
    return view


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from([*AZIMUTHS]), odd_views, min_size=1), odd_views)
def test_no_outline_is_too_odd_to_be_compared(
    others: dict[Role, list[tuple[int, int, int, int]]], front: list[tuple[int, int, int, int]]
) -> None:
    views = {role: _drawn(parts) for role, parts in (others | {"front": front}).items()}
    assert doubts(views).keys() <= others.keys() - {"front"}
