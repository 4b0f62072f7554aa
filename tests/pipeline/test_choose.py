import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from worker.pipeline.choose import PhotoScore, score_photo
from worker.pipeline.cutout import Cutout
from worker.pipeline.frame import frame


def photo(
    size: int = 800, box: tuple[int, int, int, int] = (200, 100, 600, 700), blur: float = 0
) -> NDArray[np.uint8]:
    """A striped product, cut out."""
    noise = np.random.default_rng(3).integers(0, 256, (size, size, 3), np.uint8)
    colors = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5 + blur))
    mask = Image.new("L", (size, size))
    ImageDraw.Draw(mask).rounded_rectangle(box, 60, fill=255)
    colors.putalpha(mask)
    return np.asarray(colors)


def judged(rgba: NDArray[np.uint8]) -> PhotoScore:
    return score_photo(Cutout(rgba, 1.0, ()), frame(rgba))


def test_a_sharp_photo_is_better_than_a_blurred_one() -> None:
    assert judged(photo()).sharpness > 1.5 * judged(photo(blur=6)).sharpness


def test_a_large_product_is_better_than_a_small_one() -> None:
    small = judged(photo(box=(350, 350, 450, 500)))
    assert judged(photo()).size == 1
    assert round(small.size, 2) == round(151 / 512, 2)


def test_a_product_that_the_border_cuts_off_is_worse_and_one_that_only_touches_it_is_not() -> None:
    assert judged(photo(box=(200, 300, 600, 1200))).whole < 1
    ball = Image.new("RGBA", (600, 600))
    ImageDraw.Draw(ball).ellipse((0, 0, 599, 599), fill=(200, 80, 40, 255))
    assert judged(np.asarray(ball)).whole == 1


def test_the_score_is_between_0_and_1() -> None:
    for rgba in (photo(), photo(blur=8), photo(box=(0, 0, 800, 800))):
        assert 0 < judged(rgba).total <= 1
