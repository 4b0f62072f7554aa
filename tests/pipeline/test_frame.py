import numpy as np
import pytest
from numpy.typing import NDArray

from worker.core.errors import JobError
from worker.pipeline.frame import frame


def extent(alpha: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(alpha > 127)
    return int(columns.min()), int(columns.max()) + 1, int(rows.min()), int(rows.max()) + 1


def product(height: int, width: int, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """A green box (left, right, top, bottom) on transparent magenta, which must never be seen."""
    image = np.full((height, width, 4), (255, 0, 255, 0), np.uint8)
    left, right, top, bottom = box
    image[top:bottom, left:right] = (0, 200, 0, 255)
    return image


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (1000, 1500, (100, 900, 300, 700)),  # reduced
        (100, 90, (10, 50, 20, 43)),  # enlarged
        (700, 700, (0, 700, 0, 700)),  # to the photo's edges
        (1024, 683, (550, 683, 0, 1024)),  # in a corner, tall
        (64, 64, (44, 64, 5, 16)),  # tiny
        (233, 1024, (0, 1024, 100, 112)),  # long and thin
    ],
)
def test_the_product_is_centred_and_its_longest_side_takes_435_pixels(
    height: int, width: int, box: tuple[int, int, int, int]
) -> None:
    view = frame(product(height, width, box))
    assert view.shape == (512, 512, 4)
    assert view.dtype == np.uint8
    left, right, top, bottom = extent(view[..., 3])
    scale = 512 * 0.85 / max(box[1] - box[0], box[3] - box[2])
    assert abs((right - left) - (box[1] - box[0]) * scale) <= 2
    assert abs((bottom - top) - (box[3] - box[2]) * scale) <= 2
    assert max(right - left, bottom - top) in (434, 435, 436)
    assert abs(left + right - 512) <= 2
    assert abs(top + bottom - 512) <= 2


@pytest.mark.parametrize("size", [120, 900])
def test_no_color_from_under_transparency_reaches_the_rim(size: int) -> None:
    y, x = np.mgrid[:size, :size] / size - 0.5
    alpha = ((0.4 - np.hypot(x, y)) * size / 3 + 0.5).clip(0, 1)  # a disc with a rim of three pixels
    image = np.full((size, size, 4), (255, 0, 255, 0), np.uint8)
    image[alpha > 0] = (0, 200, 0, 0)
    image[..., 3] = alpha * 255
    view = frame(image)
    seen = view[..., 3] > 0
    assert np.abs(view[seen][:, :3].astype(int) - (0, 200, 0)).max() <= 1
    assert not view[~seen].any()
    assert view[..., 3].mean() / 255 == pytest.approx(np.pi * 0.425**2, rel=0.03)


def test_only_alpha_above_one_half_counts_for_the_box_but_a_fainter_rim_is_kept() -> None:
    image = product(400, 400, (100, 300, 100, 300))
    image[90:310, 90:310, 3] = np.maximum(image[90:310, 90:310, 3], 100)
    view = frame(image)
    left, right, _, _ = extent(view[..., 3])
    assert right - left in (434, 435, 436)
    assert view[256, left - 10, 3] in (99, 100, 101)


def test_fine_detail_is_averaged_not_skipped() -> None:
    image = product(1200, 1200, (0, 1200, 0, 1200))
    image[:, ::2, :3] = 0  # lines of one pixel: half of the brightness
    view = frame(image)
    assert np.abs(view[200:300, 200:300, 1].astype(int) - 100).max() <= 3


@pytest.mark.parametrize("alpha", [0, 127])
def test_nothing_opaque_is_no_object(alpha: int) -> None:
    with pytest.raises(JobError) as caught:
        frame(np.full((100, 100, 4), alpha, np.uint8))
    assert caught.value.code == "no_object"
