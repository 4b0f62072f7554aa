import numpy as np
import pytest
import trimesh
from PIL import Image

from worker.engines import Surface
from worker.pipeline.finish import finish
from worker.pipeline.preview import poster
from worker.presets import Preset

ORANGE, BLUE = np.array([[0.9, 0.5, 0.1], [0.1, 0.2, 0.9]], np.float32)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Image.Image:
    """A box, tall and wide, whose front is orange, whose sides are blue."""
    mesh = trimesh.creation.box((1, 2, 0.5)).subdivide_to_size(0.2)
    surface = Surface(
        vertices=np.asarray(mesh.vertices, np.float32),
        faces=np.asarray(mesh.faces, np.int32),
        color=lambda points: np.where(points[:, 2:] > 0.249, ORANGE, BLUE),
    )
    folder = tmp_path_factory.mktemp("poster")
    finish(surface, Preset(name="small", grid=64, triangles=3000, texture=256), folder, extras={})
    poster(folder / "model.glb", folder / "poster.png")
    return Image.open(folder / "poster.png")


def test_the_poster_is_a_transparent_png_of_512_pixels(picture: Image.Image) -> None:
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGBA", (512, 512))
    alpha = np.asarray(picture)[..., 3]
    assert alpha[0].max() == alpha[-1].max() == alpha[:, 0].max() == alpha[:, -1].max() == 0
    rows, columns = np.nonzero(alpha)
    assert np.ptp(rows) > 420, "the product fills the picture"
    assert rows.min() + rows.max() == pytest.approx(511, abs=4)
    assert columns.min() + columns.max() == pytest.approx(511, abs=4)


def test_the_poster_shows_the_front_and_a_little_of_the_side(picture: Image.Image) -> None:
    image = np.asarray(picture).astype(int)
    solid = image[..., 3] == 255
    front = solid & (image[..., 0] > image[..., 2] + 60)
    side = solid & (image[..., 2] > image[..., 0] + 60)
    assert front.sum() > 2 * side.sum() > 0
    # The camera stands to the product's +x and above: the front is left of the side, the top is seen.
    assert np.nonzero(front)[1].mean() < np.nonzero(side)[1].mean()
    column = int(np.nonzero(front)[1].mean())
    assert side[np.nonzero(solid[:, column])[0][0] + 2, column]
    assert image[front][:, 0].mean() > 190, "well lit"
