import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from worker.core.errors import JobError
from worker.engines.presets import PRESETS, Preset
from worker.engines.relief import Relief
from worker.engines.surface import AZIMUTHS, PosedView, Role, SourceView, Surface, View
from worker.mesh.camera import Camera
from worker.mesh.isosurface import isosurface
from worker.pipeline.depth import LIMITED
from worker.pipeline.finish import finish
from worker.pipeline.scale import LONGEST_SIDE

pytestmark = pytest.mark.integration  # seconds of computing: whole models

FAST = PRESETS["fast"]
SMALL = Preset(name="small", grid=64, triangles=2000, texture=256)


def photo() -> View:
    """A green robot with a hole, an aerial on its left, thin legs, and a red ball beside it: one of everything."""
    image = Image.new("RGBA", (512, 512), 0)
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((120, 120, 330, 360), 40, (40, 160, 60))
    draw.ellipse((190, 190, 260, 260), 0)
    draw.line((140, 130, 80, 45), (20, 20, 20), width=4)
    for x in (160, 280):
        draw.rectangle((x, 350, x + 8, 470), (60, 60, 60))
    draw.ellipse((380, 300, 470, 390), (200, 40, 40))
    return np.asarray(image)


def ball(color: tuple[float, float, float] = (0.8, 0.2, 0.1)) -> Surface:
    mesh = trimesh.creation.icosphere(4, 2.0)
    return Surface(
        vertices=np.asarray(mesh.vertices, np.float32),
        faces=np.asarray(mesh.faces, np.int32),
        color=lambda points: np.tile(np.array(color, np.float32), (len(points), 1)),
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, Any]]:
    folder = tmp_path_factory.mktemp("finished")
    report = finish(
        Relief().reconstruct([PosedView("front", photo())], FAST),
        FAST,
        folder,
        extras={"engine": "relief"},
    ).report
    return folder / "model.glb", report


def read(path: Path) -> Any:
    return trimesh.load_mesh(path, process=False)


def from_the_front(mesh: Any, view: View) -> NDArray[np.bool_]:
    """The GLB's silhouette, laid over the photo by its bounding box."""
    rows, columns = np.nonzero(view[..., 3] > 127)
    points = np.asarray(mesh.vertices)[:, :2] * [1, -1]
    points = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    points = points * [np.ptp(columns) + 1, np.ptp(rows) + 1] + [columns.min() - 0.5, rows.min() - 0.5]
    image = Image.new("1", (512, 512))
    draw = ImageDraw.Draw(image)
    for triangle in points[mesh.faces]:
        draw.polygon([tuple(corner) for corner in triangle], fill=1)
    return np.asarray(image)


def test_the_report_tells_the_truth_about_the_file(done: tuple[Path, Mapping[str, Any]]) -> None:
    path, report = done
    mesh = read(path)
    data = path.read_bytes()
    assert report["triangles"] == len(mesh.faces) <= FAST.triangles
    assert report["vertices"] == len(mesh.vertices)
    assert mesh.visual.material.baseColorTexture.size == (report["texture_px"],) * 2 == (1024, 1024)
    assert report["glb_bytes"] == len(data) < 1024 * 1024
    assert report["glb_sha256"] == hashlib.sha256(data).hexdigest()
    np.testing.assert_allclose(report["size_m"], np.ptp(mesh.vertices, axis=0), atol=1e-4)
    assert report["scale_source"] == "default"
    assert report["components_dropped"] == 0
    assert set(report["seconds"]) == {"clean", "simplify", "unwrap", "bake", "project", "write", "verify"}
    assert json.loads(json.dumps(report)) == report


def test_the_file_is_watertight_for_a_reader_that_goes_by_positions(
    done: tuple[Path, Mapping[str, Any]],
) -> None:
    path, report = done
    mesh = read(path)
    assert report["watertight"] is True
    assert mesh.visual.material.doubleSided is False
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    assert mesh.body_count == 2


def test_the_model_stands_on_the_origin(done: tuple[Path, Mapping[str, Any]]) -> None:
    low, high = read(done[0]).bounds
    assert low[1] == 0
    assert low[0] + high[0] == pytest.approx(0, abs=1e-6)
    assert low[2] + high[2] == pytest.approx(0, abs=1e-6)
    assert (high - low).max() == pytest.approx(LONGEST_SIDE, rel=1e-5)


def test_the_front_of_the_file_is_the_silhouette_of_the_photo(done: tuple[Path, Mapping[str, Any]]) -> None:
    seen, wanted = from_the_front(read(done[0]), photo()), photo()[..., 3] > 127
    assert (seen & wanted).sum() / (seen | wanted).sum() > 0.95
    assert not seen[225, 225], "the hole is filled"
    for row, column in ((88, 110), (420, 164), (420, 284), (345, 425)):
        assert seen[row - 3 : row + 4, column - 3 : column + 4].any(), "a thin part or the ball is gone"


def test_the_front_of_the_file_has_the_colours_of_the_photo(done: tuple[Path, Mapping[str, Any]]) -> None:
    mesh = read(done[0])
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"), float)
    u, v = mesh.visual.uv.T
    colors = texture[np.clip(((1 - v) * 1024).astype(int), 0, 1023), np.clip((u * 1024).astype(int), 0, 1023)]
    facing = mesh.vertex_normals[:, 2] > 0.8
    right = facing & (mesh.vertices[:, 0] > 0.08)
    middle = facing & (np.abs(mesh.vertices[:, 0] + 0.03) < 0.04) & (np.abs(mesh.vertices[:, 1] - 0.2) < 0.04)
    assert right.sum() > 20
    assert middle.sum() > 20
    np.testing.assert_allclose(np.median(colors[right], axis=0), (200, 40, 40), atol=12)
    np.testing.assert_allclose(np.median(colors[middle], axis=0), (40, 160, 60), atol=12)


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    hashes = set()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        surface = Relief().reconstruct([PosedView("front", photo())], SMALL)
        hashes.add(finish(surface, SMALL, tmp_path / name, extras={"job": 1}).report["glb_sha256"])
    assert len(hashes) == 1


def test_crumbs_are_dropped_and_counted(tmp_path: Path) -> None:
    whole = ball()
    crumb = trimesh.creation.icosphere(1, 0.05)
    crumb.apply_translation([3, 0, 0])
    surface = replace(
        whole,
        vertices=np.concatenate([whole.vertices, crumb.vertices]).astype(np.float32),
        faces=np.concatenate([whole.faces, crumb.faces + len(whole.vertices)]).astype(np.int32),
    )
    report = finish(surface, SMALL, tmp_path, extras={}).report
    assert report["components_dropped"] == 1
    np.testing.assert_allclose(report["size_m"], [LONGEST_SIDE] * 3, rtol=0.01)
    assert report["watertight"]


def test_a_hole_is_closed(tmp_path: Path) -> None:
    whole = ball()
    report = finish(replace(whole, faces=whole.faces[:-200]), SMALL, tmp_path, extras={}).report
    assert report["watertight"] is True
    assert read(tmp_path / "model.glb").visual.material.doubleSided is False


def test_what_cannot_be_closed_is_drawn_from_both_sides_and_told_of(tmp_path: Path) -> None:
    whole = ball()
    wing = len(whole.vertices)
    fin = np.array([[whole.faces[0, 0], whole.faces[0, 1], wing]], np.int32)
    surface = replace(
        whole,
        vertices=np.concatenate([whole.vertices, [[9, 9, 9]]]).astype(np.float32),
        faces=np.concatenate([whole.faces, fin]),
    )
    report = finish(surface, replace(SMALL, triangles=9000), tmp_path, extras={}).report
    assert report["watertight"] is False
    assert report["warnings"] == ["The mesh is not closed."]
    assert read(tmp_path / "model.glb").visual.material.doubleSided is True


def test_the_extras_are_in_the_file_and_no_name_is(done: tuple[Path, Mapping[str, Any]]) -> None:
    data = done[0].read_bytes()
    document = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert document["asset"]["extras"] == {
        "engine": "relief",
        "scale_source": "default",
    }
    assert document["meshes"][0]["name"] == "model"


@pytest.mark.parametrize(
    "garbage", ["no faces", "no vertices", "one triangle", "not a number", "infinite", "one point"]
)
def test_garbage_is_no_surface(tmp_path: Path, garbage: str) -> None:
    whole = ball()
    vertices, faces = whole.vertices.copy(), whole.faces
    if garbage == "no faces":
        faces = faces[:0]
    elif garbage == "no vertices":
        vertices, faces = vertices[:0], faces[:0]
    elif garbage == "one triangle":
        faces = faces[:1]
    elif garbage == "not a number":
        vertices[7] = np.nan
    elif garbage == "infinite":
        vertices[7, 1] = np.inf
    else:
        vertices[:] = 1.5
    with pytest.raises(JobError) as error:
        finish(replace(whole, vertices=vertices, faces=faces), SMALL, tmp_path, extras={})
    assert error.value.code == "no_surface"
    assert not list(tmp_path.iterdir())


def solid(distance: Callable[[Any, Any, Any], Any], n: int = 48) -> tuple[Any, Any]:
    """Where a distance is negative in [-1, 1]³."""
    grid = np.linspace(-1, 1, n, dtype=np.float32)
    vertices, faces = isosurface(
        np.asarray(-distance(*np.meshgrid(grid, grid, grid, indexing="ij")), np.float32)
    )
    return (vertices * (2 / (n - 1)) - 1).astype(np.float32), faces


def test_every_axis_is_where_it_belongs_and_nothing_is_mirrored(tmp_path: Path) -> None:
    """Arms of three lengths, each red, green or blue; the front photo is yellow on its left, cyan on its right."""

    def arms(x: Any, y: Any, z: Any) -> Any:
        thin = 0.12
        to_right = np.maximum.reduce([np.abs(x - 0.4) - 0.5, np.abs(y) - thin, np.abs(z) - thin])
        upwards = np.maximum.reduce([np.abs(y - 0.3) - 0.4, np.abs(x) - thin, np.abs(z) - thin])
        to_front = np.maximum.reduce([np.abs(z - 0.2) - 0.3, np.abs(x) - thin, np.abs(y) - thin])
        return np.minimum.reduce([to_right, upwards, to_front])

    def color(points: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.eye(3)[np.argmax(points, axis=1)], np.float32)

    vertices, faces = solid(arms)
    camera = Camera(side=2.2, distance=4.0)
    flat, _ = camera.project(vertices)
    view = np.zeros((512, 512, 4), np.uint8)
    image = Image.fromarray(view)
    draw = ImageDraw.Draw(image)
    for triangle in flat[faces] * 512:
        draw.polygon([tuple(corner) for corner in triangle.tolist()], fill=(0, 255, 255, 255))
    view = np.array(image)
    view[:, : int(flat[np.abs(vertices[:, 0]) < 0.05].mean(axis=0)[0] * 512), 0] = 255
    view[:, : int(flat[np.abs(vertices[:, 0]) < 0.05].mean(axis=0)[0] * 512), 2] = 0

    plain = Surface(vertices=vertices, faces=faces, color=color)
    finish(plain, replace(SMALL, texture=512), tmp_path, extras={})
    mesh = read(tmp_path / "model.glb")
    width, height, depth = np.ptp(mesh.vertices, axis=0)
    assert width == pytest.approx(LONGEST_SIDE)
    assert height / width == pytest.approx(0.82 / 1.02, abs=0.05)
    assert depth / width == pytest.approx(0.62 / 1.02, abs=0.05)
    ends = [np.argmax(mesh.vertices[:, axis]) for axis in range(3)]
    assert np.argmax(colors_of(mesh)[ends], axis=1).tolist() == [0, 1, 2], (
        "red right, green up, blue to the front"
    )

    model = finish(
        replace(plain, source_views=[SourceView(role="front", view=view, camera=camera)]),
        replace(SMALL, texture=512),
        tmp_path,
        extras={},
    )
    assert model.report["photo_overlap"] > 0.95
    mesh = read(tmp_path / "model.glb")
    x = mesh.vertices[:, 0] - mesh.bounds[0, 0]
    facing = mesh.vertex_normals[:, 2] > 0.9
    # The long arm points to the viewer's right: cyan. To the left of the middle there is a stub: yellow.
    right, left = facing & (x > 0.5 * x.max()), facing & (x < 0.06 * x.max())
    for where, wanted in ((right, (0, 255, 255)), (left, (255, 255, 0))):
        assert where.any()
        np.testing.assert_allclose(np.median(colors_of(mesh)[where], axis=0), wanted, atol=30)
    behind = mesh.vertex_normals[:, 2] < -0.9
    assert np.median(colors_of(mesh)[behind & (x > 0.5 * x.max())], axis=0)[0] > 200, "the photo went through"
    assert model.source_views
    seen, _ = model.source_views[0].camera.project(model.mesh.positions)
    np.testing.assert_allclose(seen.min(axis=0), flat.min(axis=0), atol=0.01)
    np.testing.assert_allclose(seen.max(axis=0), flat.max(axis=0), atol=0.01)


def colors_of(mesh: Any) -> NDArray[np.float64]:
    """Of the texture, at the vertices drawn a little into their faces: at the very cut a texel may be another's."""
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"), float)
    size = len(texture)
    middle = np.zeros((len(mesh.vertices), 2))
    middle[mesh.faces.ravel()] = mesh.visual.uv[mesh.faces].mean(axis=1).repeat(3, axis=0)
    u, v = (0.7 * mesh.visual.uv + 0.3 * middle).T
    row, column = (np.clip((axis * size).astype(int), 0, size - 1) for axis in (1 - v, u))
    return np.asarray(texture[row, column])


def gray(points: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.full_like(points, 0.5)


def forty_balls(x: Any, y: Any, z: Any) -> Any:
    """Of one size, on a lattice."""
    return np.where(
        z > 0.5, 1, np.hypot(np.hypot((3 * x % 1) - 0.5, (3 * y % 1) - 0.5), (3 * z % 1) - 0.5) - 0.3
    )


def needle(x: Any, y: Any, z: Any) -> Any:
    return np.maximum(np.hypot(x, z) - 0.025, np.abs(y) - 0.95)


def beyond(x: Any, y: Any, z: Any) -> Any:
    """Fills the volume to its faces, but for a ball."""
    return 0.5 - np.sqrt(x * x + y * y + z * z)


@pytest.mark.parametrize(
    ("shape", "n"), [(forty_balls, 48), (needle, 90), (beyond, 32)], ids=["balls", "needle", "beyond"]
)
def test_odd_shapes_become_sound_files(tmp_path: Path, shape: Any, n: int) -> None:
    vertices, faces = solid(shape, n)
    report = finish(Surface(vertices=vertices, faces=faces, color=gray), SMALL, tmp_path, extras={}).report
    mesh = read(tmp_path / "model.glb")
    assert report["watertight"]
    assert 0 < report["triangles"] <= SMALL.triangles
    assert np.isfinite(mesh.vertices).all()
    assert np.ptp(mesh.vertices, axis=0).max() == pytest.approx(LONGEST_SIDE)
    if shape is forty_balls:
        assert report["components_dropped"] == 0


def test_noise_becomes_a_sound_file(tmp_path: Path) -> None:
    noise = isosurface(np.random.default_rng(0).standard_normal((28, 28, 28)).astype(np.float32))
    surface = Surface(vertices=noise[0], faces=noise[1], color=gray)
    report = finish(surface, SMALL, tmp_path, extras={}).report
    assert 0 < report["triangles"] <= SMALL.triangles
    assert report["components_dropped"] > 0


def test_colours_that_are_not_numbers_cost_a_warning(tmp_path: Path) -> None:
    surface = replace(ball(), color=lambda points: np.full_like(points, np.nan))
    report = finish(surface, SMALL, tmp_path, extras={}).report
    assert report["warnings"] == [
        "The engine knows no colour for some of the surface: its surroundings' were taken."
    ]
    assert np.unique(np.asarray(read(tmp_path / "model.glb").visual.material.baseColorTexture)).tolist() == [
        128
    ]


def test_a_photo_of_something_else_is_not_laid_over_the_model(tmp_path: Path) -> None:
    view = np.zeros((512, 512, 4), np.uint8)
    view[100:400, 250:262] = (0, 0, 255, 255)
    surface = replace(ball(), source_views=[SourceView(role="front", view=view, camera=Camera(side=5))])
    report = finish(surface, SMALL, tmp_path, extras={}).report
    assert report["photo_used"] == 0
    assert report["warnings"] == ["The model's outline is not the photo's: the photo was not laid over it."]


def disc(color: tuple[int, int, int]) -> View:
    """A photo of a ball."""
    image = Image.new("RGBA", (512, 512), 0)
    ImageDraw.Draw(image).ellipse((38, 38, 473, 473), (*color, 255))
    return np.asarray(image)


def test_each_side_shows_its_own_photo_and_in_place_of_one_that_does_not_fit_what_is_likely(
    tmp_path: Path,
) -> None:
    bar = np.zeros((512, 512, 4), np.uint8)
    bar[100:400, 240:272] = (0, 0, 255, 255)
    views: dict[Role, View] = {"front": disc((200, 40, 40)), "left": disc((40, 200, 40)), "right": bar}
    surface = replace(
        ball(),
        source_views=[
            SourceView(role=role, view=view, camera=Camera(side=4.7, azimuth=AZIMUTHS[role]))
            for role, view in views.items()
        ],
        mirrored_views={"right": disc((40, 40, 200))},
        view_from_above=(disc((200, 200, 40)), Camera(side=4.7, elevation=90)),
    )
    model = finish(surface, SMALL, tmp_path, extras={})
    report = model.report
    assert report["warnings"] == [
        "The model's outline is not that of the photo from the right: the photo was not laid over it."
    ]
    assert [source.role for source in model.source_views] == ["front", "left"]
    assert list(report["views"]) == ["front", "left", "right"]
    assert report["views"]["right"]["used"] == 0
    assert report["views"]["right"]["overlap"] < 0.5
    # Where they do not agree, along their seam, one of them gets the place.
    assert report["views"]["front"]["used"] == pytest.approx(report["views"]["left"]["used"], abs=0.1)
    assert 0.5 < report["coverage"] < 0.75, "both halves overlap"
    assert report["photo_used"] < report["coverage"], "what photos saw at a low angle is inferred on the top"
    mesh = read(tmp_path / "model.glb")
    for axis, sign, wanted in (
        (2, 1, (200, 40, 40)),
        (0, 1, (40, 200, 40)),
        (0, -1, (40, 40, 200)),
        (1, 1, (200, 200, 40)),
    ):
        facing = mesh.vertex_normals[:, axis] * sign > 0.9
        np.testing.assert_allclose(np.median(colors_of(mesh)[facing], axis=0), wanted, atol=12)


def test_one_photo_covers_the_half_that_it_saw(tmp_path: Path) -> None:
    source = SourceView(role="front", view=disc((200, 40, 40)), camera=Camera(side=4.7))
    report = finish(replace(ball(), source_views=[source]), SMALL, tmp_path, extras={}).report
    # Of a sphere, a camera far away sees (1 - c) / 2 of the area at cosines above c; FACING's middle is 0.35.
    assert report["coverage"] == pytest.approx((1 - 0.35) / 2, abs=0.02)
    assert report["views"] == {"front": {"overlap": report["photo_overlap"], "used": report["photo_used"]}}


def test_the_depth_follows_the_dimensions_as_far_as_the_engine_allows(tmp_path: Path) -> None:
    dimensions = {"width": 10, "depth": 25, "unit": "cm", "fit": True}
    free = finish(
        replace(ball(), depth_factors=(0.01, 100)), SMALL, tmp_path, extras={}, dimensions=dimensions
    )
    assert free.report["size_m"] == pytest.approx([0.1, 0.1, 0.25], rel=0.02)
    assert np.ptp(free.mesh.positions, axis=0)[2] == pytest.approx(0.25, rel=1e-5), "exactly"
    assert free.report["depth_factor"] == pytest.approx(2.5, rel=0.02)
    assert free.report["watertight"]
    assert free.report["warnings"] == []

    bound = finish(ball(), SMALL, tmp_path, extras={}, dimensions=dimensions)
    assert bound.report["depth_factor"] == 1.5
    assert bound.report["size_m"] == pytest.approx([0.1, 0.1, 0.15], rel=0.02)
    assert bound.report["warnings"] == [LIMITED], "one sentence about the depth"

    as_it_is = finish(ball(), SMALL, tmp_path, extras={}, dimensions={**dimensions, "fit": False})
    assert as_it_is.report["depth_factor"] == 1


def test_dimensions_give_the_size_and_the_file_says_so(tmp_path: Path) -> None:
    model = finish(ball(), SMALL, tmp_path, extras={}, dimensions={"height": 9, "unit": "in"})
    np.testing.assert_allclose(np.ptp(read(tmp_path / "model.glb").vertices, axis=0), 9 * 0.0254, rtol=0.01)
    assert model.report["scale_source"] == "dimensions"
    data = (tmp_path / "model.glb").read_bytes()
    assert b'"scale_source":"dimensions"' in data


def test_a_texture_that_is_too_large_for_the_file_is_compressed_further(tmp_path: Path) -> None:
    def noise(points: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.random.default_rng(0).random(points.shape, np.float32)

    surface = replace(ball(), color=noise)
    large = finish(surface, SMALL, tmp_path, extras={}).report["glb_bytes"]
    small = finish(surface, replace(SMALL, file_bytes=large - 1), tmp_path, extras={}).report["glb_bytes"]
    assert small < large
