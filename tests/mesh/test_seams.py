"""Seams on a flat sheet of cells, of which the left one of two photos shows the left half better."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.mesh.seams import _cheaper, cut

Floats = NDArray[np.float32]

SIZE = 24
X, Y = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
SEEN = np.zeros((SIZE, SIZE, 3), bool)
SEEN[1:-1, 1:-1, 1] = True
LEFT = np.repeat(np.clip(1.25 - X / SIZE, 0.3, 1)[..., None], 3, axis=2).astype(np.float32)
RIGHT = LEFT[::-1]
PLAIN = np.full((3, SIZE, SIZE, 3), 0.7, np.float32)


def dot(x: float, color: float, radius: float = 3) -> Floats:
    picture = PLAIN.copy()
    picture[:, (X - x) ** 2 + (Y - SIZE / 2) ** 2 < radius**2] = color
    return picture


def chosen(left: Floats, right: Floats) -> NDArray[np.int8]:
    return cut([LEFT, RIGHT], [left, right], [SEEN, SEEN])[..., 1]


def test_without_print_each_photo_gets_its_half() -> None:
    half = SIZE // 2
    photo = chosen(PLAIN, PLAIN)
    assert (photo[1 : half - 1, 1:-1] == 0).all()
    assert (photo[half + 1 : -1, 1:-1] == 1).all()
    assert (photo[~SEEN[..., 1]] == -1).all()


@pytest.mark.parametrize("color", [0.1, 0.45])
@pytest.mark.parametrize("apart", [0, 2, 4])
def test_print_that_two_photos_show_apart_comes_from_one_of_them(color: float, apart: float) -> None:
    left, right = dot(11.5 - apart / 2, color), dot(11.5 + apart / 2, color)
    pictures = np.stack([left[0, ..., 1], right[0, ..., 1]])
    photo = chosen(left, right)
    shown = np.take_along_axis(pictures, photo.clip(0)[None], axis=0)[0]
    assert (shown < 0.6).sum() == (pictures[0] < 0.6).sum()


def test_what_one_photo_alone_sees_is_its_own() -> None:
    seen = SEEN.copy()
    seen[15:] = False
    photo = cut([LEFT, RIGHT], [PLAIN, dot(14, 0.1)], [SEEN, seen])[..., 1]
    assert (photo[15:-1, 1:-1] == 0).all()


def test_of_photos_that_are_equally_good_the_first_one_is_taken() -> None:
    assert (cut([LEFT] * 3, [PLAIN] * 3, [SEEN] * 3)[SEEN] == 0).all()


def test_no_cells_at_all() -> None:
    nothing = np.zeros_like(SEEN)
    assert (cut([LEFT, RIGHT], [PLAIN, PLAIN], [nothing, nothing]) == -1).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_cheapest_choice_of_all_is_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    keep, take = rng.random((2, 9), np.float32)
    edges = np.array([pair for pair in product(range(9), repeat=2) if pair[0] < pair[1]]).T
    parting = np.asarray(
        rng.random(edges.shape[1], np.float32) * (rng.random(edges.shape[1]) < 0.4), np.float32
    )

    def cost(takes: NDArray[np.bool_]) -> float:
        alone = np.where(takes, take, keep).sum()
        return float(alone + parting[~takes[edges[0]] & takes[edges[1]]].sum())

    least = min(cost(np.array(takes)) for takes in product((False, True), repeat=9))
    assert cost(_cheaper(keep, take, edges, parting)) == pytest.approx(least, abs=0.02)
