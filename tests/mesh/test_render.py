import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from worker.mesh.render import render

RED, GREEN, BLUE, YELLOW, CYAN, WHITE = (
    (220, 20, 20), (20, 220, 20), (20, 20, 220), (220, 220, 20), (20, 220, 220), (230, 230, 230),
)  # fmt: skip


def box(azimuth: float, elevation: float = 0.0, size: int = 96) -> NDArray[np.uint8]:
    """A box whose faces are +x red, -x green, +y blue, -y yellow, +z (front) cyan, -z white."""
    mesh = trimesh.creation.box((1, 1, 1))
    mesh.unmerge_vertices()
    axis = np.abs(mesh.face_normals).argmax(axis=1)
    side = 2 * axis + (np.take_along_axis(mesh.face_normals, axis[:, None], axis=1)[:, 0] < 0)
    uv = np.repeat(np.stack([(side + 0.5) / 8, np.full(12, 0.5)], axis=1), 3, axis=0)
    texture = np.zeros((8, 8, 3), np.uint8)
    texture[:, :6] = (RED, GREEN, BLUE, YELLOW, CYAN, WHITE)
    return render(
        np.asarray(mesh.vertices, np.float32),
        np.repeat(mesh.face_normals, 3, axis=0).astype(np.float32),
        uv.astype(np.float32),
        np.asarray(mesh.faces, np.int32),
        texture,
        azimuth=azimuth,
        elevation=elevation,
        size=size,
    )


@pytest.mark.parametrize(
    ("azimuth", "elevation", "seen"),
    [(0, 0, CYAN), (90, 0, RED), (-90, 0, GREEN), (180, 0, WHITE), (0, 89, BLUE), (0, -89, YELLOW)],
)
def test_the_middle_shows_the_side_that_the_camera_looks_at(
    azimuth: float, elevation: float, seen: tuple[int, int, int]
) -> None:
    middle = box(azimuth, elevation)[48, 48].astype(float)
    assert middle[3] == 255
    bright = np.array(seen) > 100
    assert middle[:3][bright].min() > 150, "too dark"
    assert (middle[:3][~bright] < 60).all()


def test_nothing_is_mirrored() -> None:
    # The camera goes to the product's +x: of front and +x side the front is then on the left. From above: the top up.
    picture = box(45, 30).astype(int)
    row = picture[60]
    cyan = np.nonzero((row[:, 2] > 150) & (row[:, 0] < 60))[0]
    red = np.nonzero((row[:, 0] > 100) & (row[:, 2] < 60))[0]
    assert cyan.max() < red.min()
    blue = np.nonzero((picture[:, 48, 2] > 150) & (picture[:, 48, 1] < 60))[0]
    assert 0 < blue.max() < 48


def test_the_background_is_transparent_and_the_mesh_fills_the_picture() -> None:
    picture = box(30, 15)
    rows, columns = np.nonzero(picture[..., 3])
    assert picture[0].max() == picture[:, 0].max() == 0
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(0.9 * 96, abs=2)
    assert rows.min() + rows.max() == pytest.approx(95, abs=2)
    assert columns.min() + columns.max() == pytest.approx(95, abs=2)
    assert len(np.unique(picture[..., 3])) > 2, "edges are smooth"
    # Half-covered pixels carry the product's colour, not a dark seam.
    edge = (picture[..., 3] > 0) & (picture[..., 3] < 255)
    assert picture[edge][:, :3].max(axis=1).min() > 90


def test_the_inside_of_an_open_mesh_is_seen_only_when_asked_for() -> None:
    sheet = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    away = np.tile(np.array([0, 0, 1], np.float32), (3, 1))
    faces, texture = np.array([[0, 1, 2]], np.int32), np.full((4, 4, 3), 200, np.uint8)
    uv = np.zeros((3, 2), np.float32)
    behind = {"azimuth": 180.0, "elevation": 0.0, "size": 32}
    assert render(sheet, away, uv, faces, texture, **behind).max() == 0  # type: ignore[arg-type]
    both = render(sheet, away, uv, faces, texture, double_sided=True, **behind)  # type: ignore[arg-type]
    assert both[..., 3].max() == 255
