import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worker.local import samples

NAMES = sorted(samples.SAMPLES)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_a_photo_of_a_shop_s_size(name: str) -> None:
    assert samples.path(name).stat().st_size <= 150_000
    with Image.open(samples.path(name)) as photo:
        photo.load()
        assert 600 <= max(photo.size) <= 1000


@pytest.mark.parametrize("name", NAMES)
def test_the_product_is_wholly_in_the_frame(name: str) -> None:
    """Along the frame there is background only, which changes gently; the middle holds something else."""
    with Image.open(samples.path(name)) as photo:
        picture = np.asarray(photo.convert("RGBA").resize((200, 200)), dtype=float)
    cover = picture[..., 3:] / 255
    picture = picture[..., :3] * cover + 255 * (1 - cover)
    for line in (picture[2], picture[-3], picture[:, 2], picture[:, -3]):
        assert np.abs(np.diff(line, axis=0)).max() < 10
    assert np.abs(picture[60:140, 60:140].mean(axis=(0, 1)) - picture[:, :4].mean(axis=(0, 1))).max() > 25


def test_one_sample_has_real_transparency() -> None:
    with Image.open(samples.path("vase.png")) as photo:
        alpha = np.asarray(photo.convert("RGBA"))[..., 3]
    assert alpha[0, 0] == 0
    assert alpha[alpha.shape[0] // 2, alpha.shape[1] // 2] == 255
    assert ((alpha > 20) & (alpha < 235)).any()  # soft edges, no cut with scissors


def test_every_picture_in_the_folder_is_listed_with_its_origin() -> None:
    folder = Path(samples.__file__).parent
    assert {file.name for file in folder.iterdir() if file.suffix in {".jpg", ".png"}} == set(samples.SAMPLES)
    assert all(text.endswith("render made by us") for text in samples.SAMPLES.values())


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError):
        samples.path("../__init__.py")


def test_the_coffee_is_a_jpeg() -> None:
    with Image.open(io.BytesIO(samples.coffee_jpeg())) as photo:
        assert (photo.format, photo.size) == ("JPEG", (600, 400))
