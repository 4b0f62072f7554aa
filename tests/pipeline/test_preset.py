"""What `auto` stands for."""

import numpy as np
import pytest
from scipy import ndimage

from worker.engines.presets import PRESETS
from worker.engines.surface import View
from worker.pipeline.choose import PhotoScore
from worker.pipeline.photo import ScoredView
from worker.pipeline.preset import choose_preset


def view(*, cell: int = 0, blur: float = 0.0, legs: bool = False) -> View:
    """A grey box with checks of `cell` pixels, or with two dark halves; on thin legs."""
    view = np.full((512, 512, 4), 180, np.uint8)
    view[..., 3] = 0
    view[40:470, 100:400, 3] = 255
    row, column = np.mgrid[0:512, 0:512]
    dark = (row // cell + column // cell) % 2 == 0 if cell else row < 250
    view[dark, :3] = 90
    if legs:
        view[200:470, 100:400, 3] = 0
        for x in range(105, 400, 25):
            view[200:470, x : x + 6, 3] = 255
    view[..., :3] = ndimage.gaussian_filter(view[..., :3], (blur, blur, 0))
    return view


def used(picture: View, size: float = 1.0) -> ScoredView:
    return ScoredView(picture, PhotoScore(size, 1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("photos", "preset"),
    [
        ([used(view(cell=4), 0.49)], "fast"),
        ([used(view(cell=64, blur=4))], "fast"),
        ([used(view(cell=4), 0.9)], "balanced"),
        ([used(view())], "balanced"),
        ([used(view(cell=4))], "quality"),
        ([used(view(legs=True))], "quality"),
        ([used(view())] * 2, "balanced"),
        ([used(view())] * 3, "quality"),
    ],
)
def test_auto_is_the_smallest_preset_that_keeps_what_the_photos_show(
    photos: list[ScoredView], preset: str
) -> None:
    chosen, reason = choose_preset("auto", photos)
    assert chosen is PRESETS[preset]
    assert reason.endswith(".")
    assert choose_preset("auto", photos).report == {"preset": preset, "preset_reason": reason}


@pytest.mark.parametrize("quality", list(PRESETS))
def test_a_preset_that_the_row_names_is_used(quality: str) -> None:
    choice = choose_preset(quality, [used(view(), 0.1)])
    assert choice.preset is PRESETS[quality]
    assert choice.report == {"preset": quality}
