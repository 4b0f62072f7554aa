import numpy as np
import pytest

from worker.mesh.pack import pack


@pytest.mark.parametrize(("count", "gap"), [(1, 8), (300, 8), (20_000, 8)])
def test_boxes_keep_apart_and_inside(count: int, gap: int) -> None:
    sizes = np.random.default_rng(0).random((count, 2)) ** 3 * 100
    scale, places = pack(sizes, 1024, gap)
    taken = np.zeros((1024, 1024), np.int32)
    for (width, height), (x, y) in zip(np.ceil(sizes * scale).astype(int), places, strict=True):
        taken[y : y + height, x : x + width] += 1
        assert x + width <= 1024
        assert y + height <= 1024
    assert scale > 0
    assert taken.max() == 1
    if count == 300:
        assert (taken > 0).mean() > 0.5


def test_one_box_fills_the_square() -> None:
    scale, _ = pack(np.array([[2.0, 3.0]]), 256, 2)
    assert scale * 3 == pytest.approx(254, abs=1)


def test_more_than_one_a_texel_is_refused() -> None:
    with pytest.raises(ValueError, match="have no room"):
        pack(np.ones((300, 2)), 16, 2)
