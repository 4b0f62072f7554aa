"""What a shop publishes: the fitted scene, whose true shape is known, at every preset, judged by independent readers."""

import json
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from conftest import NPM
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import ndimage
from skimage.color import deltaE_ciede2000, rgb2lab

from worker.engines.presets import PRESETS
from worker.engines.relief import Relief
from worker.engines.surface import PosedView, SourceView, Surface
from worker.engines.triposr import CAMERA, surface_of
from worker.local import samples
from worker.mesh.rasterize import rasterize
from worker.pipeline import provenance
from worker.pipeline.decode import decode_in_subprocess
from worker.pipeline.finish import Model, finish
from worker.pipeline.frame import frame
from worker.tsr import Config, Field
from worker.tsr.field import Decoder

pytestmark = pytest.mark.integration  # seconds of computing, and a validator in Node

SCENE = Path(__file__).parent.parent / "data" / "tsr-fitted"
MEGABYTES = {"fast": 1, "balanced": 3, "quality": 5}
VALIDATE = """
const validator = require(process.argv[1] + '/node_modules/gltf-validator');
const bytes = new Uint8Array(require('fs').readFileSync(process.argv[2]));
validator.validateBytes(bytes).then(report => console.log(JSON.stringify(report.issues)));
"""

Floats = NDArray[np.floating]


@dataclass
class Finished:
    path: Path
    model: Model

    def world(self, points: Floats) -> Floats:
        """Points of the file in the scene's own units and axes."""
        return np.asarray(points / self.model.metres + self.model.base)[:, [2, 0, 1]]

    def texture(self) -> NDArray[np.float32]:
        """As it stands in the file."""
        mesh: Any = trimesh.load_mesh(self.path, process=False)
        return np.asarray(np.asarray(mesh.visual.material.baseColorTexture.convert("RGB")) / 255, np.float32)


def distance(points: Floats) -> Floats:
    """To the scene's true surface, without the ball beside it; negative inside. In its own world, z up."""
    x, y, z = points.T
    torus = np.hypot(np.hypot(x, y) - 0.42, z + 0.10) - 0.13
    away = np.abs(points - (0, 0, 0.22)) - (0.17, 0.11, 0.21)
    box = np.linalg.norm(np.maximum(away, 0), axis=1) + np.minimum(away.max(axis=1), 0) - 0.05
    rod = (
        np.linalg.norm(points - np.stack([np.clip(x, 0.22, 0.55), 0 * x, 0 * x + 0.35], axis=1), axis=1)
        - 0.02
    )
    return np.asarray(np.minimum(np.minimum(torus, box), rod))


def true_color(points: Floats) -> Floats:
    wave = 2.2 * points + 1.3 * np.roll(points, -1, axis=1) + (0.0, 2.1, 4.2)
    return np.asarray(0.5 + 0.4 * np.sin(wave))


def photo(*, printed: bool) -> NDArray[np.uint8]:
    """The true shape as TripoSR's camera sees it; on request with a print that the field knows nothing of."""
    u, v = np.meshgrid(*[(np.arange(512) + 0.5) / 512 * 2 - 1] * 2)
    slope = np.tan(np.radians(20))
    rays = np.stack([-np.ones_like(u), slope * u, -slope * v], axis=-1).reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    points = np.array([1.9, 0, 0]) + rays
    alive = np.arange(len(rays))
    for _ in range(80):
        step = distance(points[alive])
        points[alive] += rays[alive] * step[:, None]
        alive = alive[(np.abs(step) > 1e-4) & (np.abs(points[alive]).max(axis=1) < 2)]
    hit = (np.abs(distance(points)) < 1e-3) & (np.abs(points).max(axis=1) < 1)
    colors = true_color(points)
    if printed:
        stripes = np.sin(120 * points[:, 1] + 60 * points[:, 2]) > 0
        colors[stripes] = 0.25 * colors[stripes]
    view = np.concatenate([np.where(hit[:, None], colors, 1) * 255, hit[:, None] * 255], axis=1)
    return view.round().astype(np.uint8).reshape(512, 512, 4)


@pytest.fixture(scope="module")
def surfaces() -> dict[str, Surface]:
    decoder = Decoder(Config())
    decoder.load_state_dict(load_file(SCENE / "decoder.safetensors"))
    code = torch.from_numpy(np.load(SCENE / "scene_code.npy").astype(np.float32))
    field = Field(code, decoder, Config())
    front = SourceView(role="front", view=photo(printed=False), camera=CAMERA)
    coarse, dense = (replace(surface_of(field, grid), source_views=[front]) for grid in (128, 256))
    # `quality` would have 384, which takes long to extract and is simplified to the same number of triangles.
    return {"fast": coarse, "balanced": dense, "quality": dense}


@pytest.fixture(scope="module")
def models(surfaces: dict[str, Surface], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    made = {}
    for name, preset in PRESETS.items():
        folder = tmp_path_factory.mktemp(name)
        made[name] = Finished(
            folder / "model.glb", finish(surfaces[name], preset, folder, extras={"preset": name})
        )
    return made


def lookup(texture: Floats, uv: Floats) -> Floats:
    """Linearly, as a graphics card does it."""
    size = len(texture)
    place = np.clip(uv[:, ::-1].T * size - 0.5, 0, size - 1)
    return np.stack([ndimage.map_coordinates(texture[..., i], place, order=1) for i in range(3)], axis=1)


def delta_e(one: Floats, other: Floats) -> Floats:
    lab = [rgb2lab(np.clip(color, 0, 1)) for color in (one, other)]
    return np.asarray(deltaE_ciede2000(*lab))  # type: ignore[no-untyped-call]


def on_the_surface(model: Model, count: int) -> tuple[Floats, Floats]:
    """Points spread evenly over the mesh, and their texture coordinates."""
    mesh = trimesh.Trimesh(model.mesh.positions, model.mesh.faces, process=False)
    points, face = trimesh.sample.sample_surface(mesh, count, seed=0)
    weight = trimesh.triangles.points_to_barycentric(mesh.triangles[face], points)  # type: ignore[no-untyped-call]
    return points, np.einsum("ij,ijk->ik", weight, model.mesh.uv[model.mesh.faces[face]])


@pytest.mark.parametrize("name", [*PRESETS, "relief"])
def test_the_validator_finds_nothing_to_say(models: dict[str, Finished], name: str, tmp_path: Path) -> None:
    if not shutil.which("node") or not (NPM / "node_modules" / "gltf-validator").exists():
        pytest.skip(f"needs node, and: npm install --prefix {NPM} gltf-validator")
    if name == "relief":
        vase = frame(np.asarray(decode_in_subprocess(samples.path("vase.png")).convert("RGBA")))
        finish(
            Relief().reconstruct([PosedView("front", vase)], PRESETS["fast"]),
            PRESETS["fast"],
            tmp_path,
            extras=provenance.describe(Relief(), PRESETS["fast"], {"front": "0" * 64}),
        )
    path = models[name].path if name in models else tmp_path / "model.glb"
    said = subprocess.run(["node", "-e", VALIDATE, str(NPM), str(path)], check=True, stdout=subprocess.PIPE)
    issues = json.loads(said.stdout)
    counts = [issues[kind] for kind in ("numErrors", "numWarnings", "numInfos", "numHints")]
    assert counts == [0, 0, 0, 0], issues["messages"]


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_keeps_its_promises(models: dict[str, Finished], name: str) -> None:
    report, preset = models[name].model.report, PRESETS[name]
    mesh: Any = trimesh.load_mesh(models[name].path, process=False)
    assert 0.99 * preset.triangles <= len(mesh.faces) <= preset.triangles
    assert mesh.visual.material.baseColorTexture.size == (preset.texture,) * 2
    assert models[name].path.stat().st_size <= MEGABYTES[name] * 1_000_000
    assert report["components_dropped"] == 1, "the ball beside the scene is there to be dropped"
    assert report["watertight"]
    assert report["warnings"] == []
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight
    assert mesh.body_count == 2, "the ring, and the box with its rod inside it"
    low, high = mesh.bounds
    np.testing.assert_allclose([low[1], low[0] + high[0], low[2] + high[2]], 0, atol=1e-6)


def test_the_surface_is_the_true_one(models: dict[str, Finished]) -> None:
    done = models["balanced"]
    points, _ = on_the_surface(done.model, 20_000)
    extent = np.ptp(done.world(done.model.mesh.positions), axis=0).max()
    for where in (points, done.model.mesh.positions):
        off = np.abs(distance(done.world(where))) / extent
        assert off.mean() < 0.002
        assert off.max() < 0.01


def test_the_texture_has_the_true_colours(models: dict[str, Finished]) -> None:
    done = models["balanced"]
    points, uv = on_the_surface(done.model, 10_000)
    off = delta_e(lookup(done.texture(), uv), true_color(done.world(points)))
    assert off.mean() < 3
    assert np.percentile(off, 99) < 6


@pytest.mark.parametrize("name", PRESETS)
def test_no_seam_shows_in_a_smaller_texture(models: dict[str, Finished], name: str) -> None:
    """On both sides of every cut the same colour, down to a quarter of the texture's size; at an eighth almost."""
    model = models[name].model
    _, place = np.unique(model.mesh.positions, axis=0, return_inverse=True)
    start, end = model.mesh.faces.ravel(), np.roll(model.mesh.faces, -1, axis=1).ravel()
    order = np.lexsort((np.maximum(place[start], place[end]), np.minimum(place[start], place[end])))
    one, other = order[::2], order[1::2]
    assert np.array_equal(place[start[one]], place[end[other]]), "each edge has two faces"
    # A sliver without any area is not drawn; its place in the texture is a point.
    a, b, c = (model.mesh.uv[model.mesh.faces[:, i]] for i in range(3))
    drawn = np.abs(np.linalg.det(np.stack([b - a, c - a], axis=1))) > 1e-9
    cut = (start[one] != end[other]) & drawn[one // 3] & drawn[other // 3]
    assert cut.any()
    middle = [(model.mesh.uv[start[side[cut]]] + model.mesh.uv[end[side[cut]]]) / 2 for side in (one, other)]
    texture = models[name].texture()
    for level in range(4):
        off = delta_e(lookup(texture, middle[0]), lookup(texture, middle[1]))
        assert off.mean() < 1
        if level < 3:
            assert np.percentile(off, 99) < 2
            assert off.max() < 6
        texture = texture.reshape(len(texture) // 2, 2, -1, 2, 3).mean(axis=(1, 3))


def seen_from_the_front(model: Model, texture: Floats) -> Floats:
    """(512, 512, 3) what the photo's camera sees of the model, unlit; NaN beside it."""
    assert model.source_views
    flat, near = model.source_views[0].camera.project(model.mesh.positions)
    buffer = np.full(512 * 512, -np.inf, np.float32)
    uv = np.full((512 * 512, 2), np.nan)
    for batch in rasterize(flat[model.mesh.faces] * np.float32(512), 512, 512):
        nearness = np.einsum("ij,ij->i", batch.weight, near[model.mesh.faces[batch.face]])
        np.maximum.at(buffer, batch.pixel, nearness)
        front = nearness == buffer[batch.pixel]
        corners = model.mesh.uv[model.mesh.faces[batch.face[front]]]
        uv[batch.pixel[front]] = np.einsum("ij,ijk->ik", batch.weight[front], corners)
    picture = np.full((512 * 512, 3), np.nan)
    seen = np.isfinite(uv[:, 0])
    picture[seen] = lookup(texture, uv[seen])
    return picture.reshape(512, 512, 3)


def test_the_photo_is_on_the_model_as_its_camera_saw_it(
    surfaces: dict[str, Surface], models: dict[str, Finished], tmp_path: Path
) -> None:
    """A print that the field knows nothing of, in perspective, from TripoSR's own camera."""
    view = photo(printed=True)
    surface = replace(surfaces["fast"], source_views=[SourceView(role="front", view=view, camera=CAMERA)])
    model = finish(surface, PRESETS["fast"], tmp_path, extras={})
    assert model.report["photo_overlap"] > 0.97, "TripoSR's camera is where the engine says"

    def psnr(done: Finished) -> float:
        picture = seen_from_the_front(done.model, done.texture())
        mask = np.isfinite(picture[..., 0]) & (view[..., 3] > 250)
        return float(-10 * np.log10(((picture - view[..., :3] / 255)[mask] ** 2).mean()))

    with_print, without = psnr(Finished(tmp_path / "model.glb", model)), psnr(models["fast"])
    assert with_print > without + 4
