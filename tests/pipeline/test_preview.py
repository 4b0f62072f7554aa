from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from PIL import Image

from worker.engines.presets import Preset
from worker.engines.surface import Surface
from worker.mesh.render import Scene
from worker.mesh.textured import TexturedMesh
from worker.pipeline import preview
from worker.pipeline.finish import finish
from worker.pipeline.preview import FRAMES, poster, turntable

pytestmark = pytest.mark.integration  # seconds of computing

ORANGE, BLUE = np.array([[0.9, 0.5, 0.1], [0.1, 0.2, 0.9]], np.float32)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Image.Image, Image.Image]]:
    """Poster and turntable of a box, tall and wide, whose front is orange, whose sides are blue."""
    mesh = trimesh.creation.box((1, 2, 0.5)).subdivide_to_size(0.2)
    surface = Surface(
        vertices=np.asarray(mesh.vertices, np.float32),
        faces=np.asarray(mesh.faces, np.int32),
        color=lambda points: np.where(points[:, 2:] > 0.249, ORANGE, BLUE),
    )
    folder = tmp_path_factory.mktemp("preview")
    model = finish(surface, Preset(name="small", grid=64, triangles=3000, texture=256), folder, extras={})
    scene = Scene(model.mesh)
    poster(scene, folder / "poster.png")
    turntable(scene, folder / "turntable.webp")
    with Image.open(folder / "poster.png") as still, Image.open(folder / "turntable.webp") as animation:
        yield still, animation


def parts(picture: Image.Image) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """What is solid, what of it orange, what blue."""
    image = np.asarray(picture.convert("RGBA")).astype(int)
    solid = image[..., 3] == 255
    return (
        solid,
        solid & (image[..., 0] > image[..., 2] + 60),
        solid & (image[..., 2] > image[..., 0] + 60),
    )


def test_the_poster_is_a_transparent_png_of_512_pixels(drawn: tuple[Image.Image, Image.Image]) -> None:
    picture, _ = drawn
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGBA", (512, 512))
    alpha = np.asarray(picture)[..., 3]
    assert alpha[0].max() == alpha[-1].max() == alpha[:, 0].max() == alpha[:, -1].max() == 0
    rows, columns = np.nonzero(alpha == 255)
    assert np.ptp(rows) > 410, "the product fills the picture"
    assert columns.min() + columns.max() == pytest.approx(511, abs=12)


def test_the_poster_shows_the_front_and_a_little_of_the_side(drawn: tuple[Image.Image, Image.Image]) -> None:
    solid, front, side = parts(drawn[0])
    assert front.sum() > 2 * side.sum() > 0
    # The camera stands to the product's +x and above: the front is left of the side, the top is seen.
    assert np.nonzero(front)[1].mean() < np.nonzero(side)[1].mean()
    column = int(np.nonzero(front)[1].mean())
    assert side[np.nonzero(solid[:, column])[0][0] + 2, column]
    assert np.asarray(drawn[0])[front][:, 0].mean() > 190, "well lit"


def test_the_turntable_goes_once_round_for_ever(drawn: tuple[Image.Image, Image.Image]) -> None:
    _, animation = drawn
    assert (animation.format, animation.size, getattr(animation, "n_frames", 0)) == (
        "WEBP",
        (384, 384),
        FRAMES,
    )
    assert animation.info["loop"] == 0
    orange = []
    for n in range(FRAMES):
        animation.seek(n)
        frame = animation.convert("RGBA")
        assert np.asarray(frame)[0, :, 3].max() == 0, "transparent"
        solid, front, _ = parts(frame)
        assert np.nonzero(solid)[0].max() == pytest.approx(350, abs=25), "it stands still"
        orange.append(int(front.sum()))
    # The front comes and goes: seen at the beginning and the end, not from behind; nothing jumps.
    assert orange[0] > 20_000
    assert orange[-1] > 20_000
    assert max(orange[8:15]) < 500
    assert max(abs(np.diff([*orange, orange[0]]))) < 0.35 * max(orange)


def test_a_turntable_is_below_its_limit_whatever_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise, which no compression makes small. A few frames show it, with their part of the limit."""
    monkeypatch.setattr(preview, "FRAMES", 4)
    limit = preview.MOST_BYTES * 4 // FRAMES
    monkeypatch.setattr(preview, "MOST_BYTES", limit)
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    ball = trimesh.creation.uv_sphere(1.0, count=(24, 24))
    normals = np.asarray(ball.vertices, np.float32)
    uv = ((normals[:, :2] + 1) / 2).astype(np.float32)
    standing = normals + np.array([0, 1, 0], np.float32)
    mesh = TexturedMesh(
        positions=standing,
        normals=normals,
        uv=uv,
        faces=np.asarray(ball.faces, np.int32),
        texture=noise,
        watertight=True,
    )
    turntable(Scene(mesh), tmp_path / "noise.webp")
    assert 0 < (tmp_path / "noise.webp").stat().st_size < limit
    with Image.open(tmp_path / "noise.webp") as animation:
        assert getattr(animation, "n_frames", 0) == 4
        assert animation.width < preview.TRIES[0][0], "the first try was small enough: this shows nothing"
