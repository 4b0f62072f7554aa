from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from worker.mesh.camera import Camera
from worker.mesh.mipmaps import LINEAR, MipMaps, srgb_bytes
from worker.mesh.render import Scene, Viewpoint
from worker.mesh.shading import ambient_occlusion, lighting
from worker.mesh.textured import TexturedMesh

RED, GREEN, BLUE, YELLOW, CYAN, WHITE = (
    (220, 20, 20), (20, 220, 20), (20, 20, 220), (220, 220, 20), (20, 220, 220), (230, 230, 230),
)  # fmt: skip


def scene(mesh: trimesh.Trimesh, texture: NDArray[np.uint8], uv: NDArray[np.float32] | None = None) -> Scene:
    """Stands on y = 0."""
    positions = np.asarray(mesh.vertices - [0, mesh.bounds[0, 1], 0], np.float32)
    if uv is None:
        uv = np.full((len(positions), 2), 0.5, np.float32)
    return Scene(
        TexturedMesh(
            positions=positions,
            normals=np.asarray(mesh.vertex_normals, np.float32),
            uv=uv,
            faces=np.asarray(mesh.faces, np.int32),
            texture=texture,
            watertight=True,
        )
    )


@pytest.fixture(scope="module")
def box() -> Scene:
    """A box whose faces are +x red, -x green, +y blue, -y yellow, +z (front) cyan, -z white."""
    mesh = trimesh.creation.box((1, 1, 1))
    mesh.unmerge_vertices()
    axis = np.abs(mesh.face_normals).argmax(axis=1)
    side = 2 * axis + (np.take_along_axis(mesh.face_normals, axis[:, None], axis=1)[:, 0] < 0)
    uv = np.repeat(np.stack([(side + 0.5) / 8, np.full(12, 0.5)], axis=1), 3, axis=0)
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:, :48] = np.repeat((RED, GREEN, BLUE, YELLOW, CYAN, WHITE), 8, axis=0)
    return scene(mesh, texture, uv.astype(np.float32))


def rendered(scene: Scene, azimuth: float, elevation: float = 0.0, size: int = 96) -> NDArray[np.uint8]:
    viewpoint = Viewpoint(azimuth=azimuth, elevation=elevation)
    return scene.render(viewpoint, scene.camera([viewpoint]), size, samples=2)


def test_directions_are_those_that_the_camera_sees(box: Scene) -> None:
    camera = Camera(center=(0, 0.5, 0), side=2, azimuth=45)
    seen = box.render_normals(camera, 64)
    lengths = np.linalg.norm(seen, axis=2)
    assert set(np.round(np.unique(lengths), 3)) == {0, 1}
    half = np.sqrt(0.5)
    np.testing.assert_allclose(
        seen[32, 24], (-half, 0, half), atol=1e-5
    )  # its front, to the left of the edge
    np.testing.assert_allclose(seen[32, 40], (half, 0, half), atol=1e-5)
    assert lengths[0, 0] == 0


@pytest.mark.parametrize(
    ("azimuth", "elevation", "seen"),
    [(0, 0, CYAN), (90, 0, RED), (-90, 0, GREEN), (180, 0, WHITE), (0, 89, BLUE), (0, -89, YELLOW)],
)
def test_the_middle_shows_the_side_that_the_camera_looks_at(
    box: Scene, azimuth: float, elevation: float, seen: tuple[int, int, int]
) -> None:
    middle = rendered(box, azimuth, elevation)[48, 48].astype(float)
    assert middle[3] == 255
    # What faces the camera is lit so that it looks as the texture does.
    np.testing.assert_allclose(middle[:3], seen, atol=16)


def test_nothing_is_mirrored(box: Scene) -> None:
    # The camera goes to the product's +x: of front and +x side the front is then on the left. From above: the top up.
    picture = rendered(box, 45, 30).astype(int)
    row = picture[60]
    cyan = np.nonzero((row[:, 2] > 130) & (row[:, 0] < 60))[0]
    red = np.nonzero((row[:, 0] > 100) & (row[:, 2] < 60))[0]
    assert cyan.max() < red.min()
    blue = np.nonzero((picture[:, 48, 2] > 130) & (picture[:, 48, 1] < 60))[0]
    assert 0 < blue.max() < 48


def test_the_border_is_transparent_and_the_edges_are_smooth_without_a_seam(box: Scene) -> None:
    picture = rendered(box, 30, -15)  # from below, where no floor is seen
    alpha = picture[..., 3]
    assert alpha[0].max() == alpha[-1].max() == alpha[:, 0].max() == alpha[:, -1].max() == 0
    rows, columns = np.nonzero(alpha)
    assert max(np.ptp(rows), np.ptp(columns)) > 0.8 * 96, "the mesh fills the picture"
    assert len(np.unique(alpha)) > 3, "edges are smooth"
    # Half-covered pixels carry the product's colour, neither a dark nor a light seam: straight alpha.
    edge = (alpha > 0) & (alpha < 255)
    assert picture[edge][:, :3].max(axis=1).min() > 80


def test_every_viewpoint_of_one_camera_holds_the_whole_mesh(box: Scene) -> None:
    viewpoints = [Viewpoint(azimuth=azimuth, elevation=14) for azimuth in range(0, 360, 30)]
    camera = box.camera(viewpoints)
    for viewpoint in viewpoints:
        at, _ = camera.project(box.mesh.positions @ viewpoint.rotation.T)
        assert at.min() > 0.03
        assert at.max() < 0.97


def test_a_shadow_lies_on_the_floor_and_ends_before_the_border(box: Scene) -> None:
    picture = rendered(box, 20, 14, size=128)
    alpha = picture[..., 3].astype(int)
    assert alpha[0].max() == alpha[-1].max() == alpha[:, 0].max() == alpha[:, -1].max() == 0
    shadow = (alpha > 8) & (alpha < 200) & (picture[..., :3].max(axis=2) < 40)
    assert shadow.sum() > 200
    assert np.nonzero(shadow)[0].mean() > 64, "it is below"
    from_below = rendered(box, 20, -14, size=128)
    assert not ((from_below[..., 3] > 8) & (from_below[..., :3].max(axis=2) < 40)).any()


def test_the_shadow_is_darkest_where_the_product_touches_the_floor() -> None:
    ball = trimesh.creation.icosphere(3, 0.5)
    points = np.asarray(ball.vertices + np.array([0, 0.5, 0]), np.float32)
    light, cast = ambient_occlusion(
        points, np.asarray(ball.vertex_normals, np.float32), np.asarray(ball.faces, np.int32)
    )
    assert light.min() > 0.97, "nothing of a ball shades the rest"
    line = cast.at(np.linspace(0, 0.7, 7, dtype=np.float32), np.zeros(7, np.float32))
    assert (np.diff(line) < 0.02).all()
    assert line[0] > 0.35
    assert line[-1] < 0.01


def test_corners_get_less_light_than_open_sides() -> None:
    corner: Any = trimesh.util.concatenate(
        [
            trimesh.creation.box((2, 0.2, 2)).subdivide_to_size(0.2),
            trimesh.creation.box((2, 2, 0.2)).subdivide_to_size(0.2).apply_translation([0, 0.9, -0.9]),
        ]
    )
    points, normals = np.asarray(corner.vertices, np.float32), np.asarray(corner.vertex_normals, np.float32)
    light, _ = ambient_occlusion(points, normals, np.asarray(corner.faces, np.int32))
    up = (normals[:, 1] > 0.9) & (np.abs(points[:, 0]) < 0.5)
    deep, open_ = up & (np.abs(points[:, 2] + 0.7) < 0.11), up & (points[:, 2] > 0.5)
    assert light[deep].mean() < 0.8 * light[open_].mean()


def test_the_light_comes_from_above() -> None:
    up, down, front = (lighting(np.array(v, np.float32)) for v in ((0, 1, 0), (0, -1, 0), (0, 0, 1)))
    assert down < front < up
    assert front == pytest.approx(1, abs=0.06)


def test_a_fine_pattern_seen_from_afar_is_its_mean_light_and_no_moire() -> None:
    board = np.indices((256, 256)).sum(axis=0) % 2 * 255
    texture = np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)
    mesh = trimesh.creation.box((1, 1, 0.02))
    mesh.unmerge_vertices()
    uv = np.clip(mesh.vertices[:, :2] + 0.5, 0, 1).astype(np.float32)
    picture = rendered(scene(mesh, texture, uv), 0, 0, size=48)[12:36, 12:36, :3].astype(float)
    assert np.ptp(picture) < 6
    # Half of the light is 188 in sRGB, not 128.
    assert picture.mean() == pytest.approx(188, abs=8)


def test_the_inside_of_an_open_mesh_is_seen_only_when_asked_for() -> None:
    sheet = TexturedMesh(
        positions=np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32),
        normals=np.tile(np.array([0, 0, 1], np.float32), (3, 1)),
        uv=np.zeros((3, 2), np.float32),
        faces=np.array([[0, 1, 2]], np.int32),
        texture=np.full((4, 4, 3), 200, np.uint8),
        watertight=False,
    )
    assert rendered(Scene(replace(sheet, watertight=True)), 180, 0, size=32).max() == 0
    both = rendered(Scene(sheet), 180, 0, size=32)
    assert both[..., 3].max() == 255
    assert both[both[..., 3] == 255][:, :3].min() > 150, "lit from the camera's side"


def test_srgb_and_light_are_each_others_inverse() -> None:
    steps = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(srgb_bytes(LINEAR[steps]), steps)


def test_a_texture_keeps_its_mean_light_at_every_size() -> None:
    texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    mipmaps = MipMaps(texture)
    side = (np.arange(64) + 0.5) / 64
    uv = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2).astype(np.float32)
    for level in range(4):
        mean = mipmaps.sample(uv, np.full(len(uv), level, np.int32)).mean(axis=0)
        np.testing.assert_allclose(mean, LINEAR[texture].mean(axis=(0, 1)), atol=0.02)
    np.testing.assert_allclose(
        mipmaps.sample(uv, np.zeros(len(uv), np.int32)), LINEAR[texture].reshape(-1, 3), atol=1e-6
    )
