"""What every engine of `ENGINES` must do. A new engine needs a line there and, if it has weights, small ones in WEIGHTS."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from worker import engines, weights
from worker.core.errors import JobError
from worker.core.settings import ConfigError, Device, Settings
from worker.engines import ENGINES, EngineUnavailable
from worker.engines.presets import Preset
from worker.engines.surface import Engine, PosedView, Surface, View
from worker.mesh.clean import is_watertight

DATA = Path(__file__).parents[1] / "data"
PRESET = Preset(name="small", grid=48, triangles=2_000, texture=256)
EMPTY = np.zeros((512, 512, 4), np.uint8)

# Engine → what makes weights that it can load, small ones of the real layout, in a folder of all weights.
WEIGHTS: dict[str, Callable[[Path], object]] = {
    "triposr": lambda folder: shutil.copytree(DATA / "tsr-tiny", folder / "triposr"),
}
WITH_WEIGHTS = [name for name, spec in ENGINES.items() if spec.weights]


@pytest.fixture(scope="module", params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(name)
    if name in WITH_WEIGHTS:
        WEIGHTS[name](made)
    return made


@pytest.fixture(scope="module")
def engine(name: str, folder: Path) -> Engine:
    return engines.load(name, folder, "cpu")


@pytest.fixture(scope="module")
def view() -> View:
    """A mug seen from the front: nothing in it is the same turned or mirrored."""
    image = Image.new("RGBA", (512, 512), 0)
    draw = ImageDraw.Draw(image)
    draw.ellipse((280, 160, 440, 340), (30, 30, 220))
    draw.ellipse((320, 200, 400, 300), 0)
    draw.rectangle((80, 70, 360, 440), (220, 30, 30))
    draw.rectangle((80, 70, 360, 120), (30, 200, 30))
    return np.asarray(image)


@pytest.fixture(scope="module")
def surface(engine: Engine, view: View) -> Surface:
    return engine.reconstruct([PosedView("front", view)], PRESET)


def test_it_says_what_it_is(engine: Engine, name: str) -> None:
    assert engine.name == name
    assert engine.version
    facts = {"engine": engine.name, "engine_version": engine.version, **engine.details}
    assert json.loads(json.dumps(facts)) == facts
    assert "device" in facts


def test_the_surface_is_a_finite_mesh_of_the_agreed_types(surface: Surface) -> None:
    vertices, faces = surface.vertices, surface.faces
    assert (vertices.dtype.name, faces.dtype.name) == ("float32", "int32")
    assert vertices.ndim == faces.ndim == 2
    assert vertices.shape[1] == faces.shape[1] == 3
    assert np.isfinite(vertices).all()
    assert np.ptp(vertices, axis=0).min() > 0
    assert 0 <= faces.min() <= faces.max() < len(vertices)
    json.dumps(dict(surface.report))


def test_the_surface_is_closed_or_says_that_it_is_not(surface: Surface) -> None:
    assert is_watertight(surface.faces) or surface.report["watertight"] is False


def test_faces_are_counter_clockwise_seen_from_outside(surface: Surface) -> None:
    a, b, c = surface.vertices[surface.faces].astype(np.float64).transpose(1, 0, 2)
    assert (
        a * np.cross(b, c)
    ).sum() > 0  # six times the volume; negative if the surface is inside out or mirrored


def test_any_number_of_points_has_colours(surface: Surface) -> None:
    low, high = surface.vertices.min(axis=0), surface.vertices.max(axis=0)
    spread = np.random.default_rng(0).uniform(low * 1.1, high * 1.1, (1000, 3)).astype(np.float32)
    for points in (surface.vertices, spread, spread[:1], spread[:0]):
        colors = surface.color(points)
        assert colors.shape == points.shape
        assert colors.dtype == np.float32
        assert ((colors >= 0) & (colors <= 1)).all()


def test_the_source_view_is_a_photo_and_a_camera_in_front_of_all(surface: Surface, view: View) -> None:
    if not surface.source_views:
        pytest.skip("the engine knows no camera that sees the surface as the photo does")
    source = surface.source_views[0]
    assert np.array_equal(source.view, view)
    assert source.camera.side > 0
    assert surface.vertices[:, 2].max() < source.camera.center[2] + source.camera.distance


# Random weights see nothing in a photo: the axes of an engine with weights are for its own tests.
@pytest.mark.parametrize("name", [name for name in ENGINES if name not in WITH_WEIGHTS], indirect=True)
def test_the_photo_shows_in_gltf_s_axes(surface: Surface, view: View) -> None:
    """The photo's right is +x, its top +y, and the side that it shows +z."""
    if not surface.source_views:
        pytest.skip("the engine knows no camera that sees the surface as the photo does")
    source = surface.source_views[0]
    near = surface.vertices[surface.vertices[:, 2] > surface.vertices[:, 2].max() / 2]
    places, _ = source.camera.project(near)
    column, row = (places * 512).astype(int).clip(0, 511).T
    shown = view[row, column]
    inside = shown[:, 3] == 255
    assert inside.mean() > 0.95
    off = np.abs(surface.color(near) * 255 - shown[:, :3])[inside].max(axis=1)
    assert (off < 30).mean() > 0.9


def test_the_same_photo_gives_the_same_surface(engine: Engine, surface: Surface, view: View) -> None:
    again = engine.reconstruct([PosedView("front", view.copy())], PRESET)
    assert np.array_equal(again.vertices, surface.vertices)
    assert np.array_equal(again.faces, surface.faces)
    points = surface.vertices[::7]
    assert np.array_equal(again.color(points), surface.color(points))


def test_a_front_without_a_product_is_no_surface(engine: Engine) -> None:
    with pytest.raises(JobError) as error:
        engine.reconstruct([PosedView("front", EMPTY)], PRESET)
    assert error.value.code == "no_surface"


@pytest.mark.parametrize("device", [device for device in get_args(Device) if device != "auto"])
def test_a_device_is_used_or_refused_but_never_replaced(name: str, folder: Path, device: Device) -> None:
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if here[device] and device in ENGINES[name].devices:
        found = engines.load(name, folder, device).details["device"]
        assert found == (torch.cuda.get_device_name() if device == "cuda" else device)
    else:
        with pytest.raises(EngineUnavailable, match=f"{device}.*WORKER_DEVICE|WORKER_DEVICE is {device}"):
            engines.load(name, folder, device)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_missing_weights_say_how_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=f"worker weights fetch {ENGINES[name].weights[0]}") as error:
        engines.load(name, tmp_path)
    assert "\n" not in str(error.value)


def test_the_table_fits_what_is_around_it(tmp_path: Path) -> None:
    assert set(WEIGHTS) == set(WITH_WEIGHTS)
    assert Settings.model_fields["engine"].default in ENGINES
    for spec in ENGINES.values():
        assert spec.ram_gb > 0
        assert "cpu" in spec.devices or spec.vram_gb > 0
        assert all(weights.path(tmp_path, needed) for needed in spec.weights)
    assert not ENGINES[engines.WITHOUT_WEIGHTS].weights


def test_an_engine_that_is_not_in_the_table_is_a_setting_s_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"WORKER_ENGINE.*'no-such-engine'.*{', '.join(ENGINES)}"):
        engines.load("no-such-engine", tmp_path)
