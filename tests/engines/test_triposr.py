"""The engine with a small checkpoint in the official layout: random weights, the real code."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from worker import engines
from worker.core.errors import JobError
from worker.engines import DeviceLost, EngineUnavailable
from worker.engines.presets import Preset
from worker.engines.surface import PosedView
from worker.engines.triposr import CAMERA, TripoSR, surface_of
from worker.mesh.clean import drop_floaters, is_watertight
from worker.mesh.project import depth_buffer
from worker.pipeline.frame import frame
from worker.tsr import Config, Field
from worker.tsr.field import Decoder

TINY = Path(__file__).parent.parent / "data" / "tsr-tiny"
FITTED = TINY.parent / "tsr-fitted"
SMALL = Preset(name="small", grid=48, triangles=2_000, texture=256)


@pytest.fixture(scope="module")
def engine() -> TripoSR:
    return TripoSR(TINY, "cpu")


@pytest.fixture
def view() -> NDArray[np.uint8]:
    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 4), np.uint8)
    picture[..., 3] = 0
    picture[60:450, 120:400, 3] = 255
    return picture


def test_a_view_becomes_a_closed_surface_with_colours(engine: TripoSR, view: NDArray[np.uint8]) -> None:
    surface = engine.reconstruct([PosedView("front", view)], SMALL)
    assert is_watertight(surface.faces)
    colors = surface.color(surface.vertices)
    assert colors.shape == surface.vertices.shape
    assert 0 <= colors.min() <= colors.max() <= 1
    assert surface.report["queries"] > 0


def test_it_says_what_it_is(engine: TripoSR) -> None:
    assert (engine.name, engine.details["device"], engine.details["precision"]) == (
        "triposr",
        "cpu",
        "float32",
    )
    assert len(engine.details["weights_sha256"]) == 64


def test_bfloat16_is_offered_and_not_the_default(view: NDArray[np.uint8]) -> None:
    engine = TripoSR(TINY, "cpu", "bfloat16")
    assert engine.details["precision"] == "bfloat16"
    assert len(engine.reconstruct([PosedView("front", view)], SMALL).faces)


def test_two_runs_are_the_same(engine: TripoSR, view: NDArray[np.uint8]) -> None:
    first, second = (
        engine.reconstruct([PosedView("front", view)], SMALL),
        engine.reconstruct([PosedView("front", view)], SMALL),
    )
    assert np.array_equal(first.vertices, second.vertices)
    assert np.array_equal(first.faces, second.faces)


def test_the_world_is_turned_and_not_mirrored(engine: TripoSR, view: NDArray[np.uint8]) -> None:
    """The camera's +x is glTF's +z, its right +y is +x, its up +z is +y."""
    surface = engine.reconstruct([PosedView("front", view)], SMALL)
    world = surface.vertices[:, [2, 0, 1]]
    field = engine.model.field(engine.model.encode([_composite_on_grey(view)])[0])
    density = field.density(np.ascontiguousarray(world)).numpy()
    # Vertices lie near where the density crosses its level; turned or mirrored wrongly they would not.
    off = np.median(np.abs(np.log(density / field.level)))
    for wrong in (world * [1, -1, 1], world * [1, 1, -1], world * [-1, 1, 1], world[:, [1, 0, 2]]):
        there = field.density(np.ascontiguousarray(wrong, np.float32)).numpy()
        assert np.median(np.abs(np.log(there / field.level))) > 5 * off


@pytest.fixture(scope="module")
def field() -> Field:
    decoder = Decoder(Config())
    decoder.load_state_dict(load_file(FITTED / "decoder.safetensors"))
    return Field(torch.from_numpy(np.load(FITTED / "scene_code.npy").astype(np.float32)), decoder, Config())


def test_a_photo_from_the_side_corrects_the_depth_that_the_network_guessed(
    field: Field, engine: TripoSR, view: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fitted scene stands in for the network's answer, with a depth that is a third too large."""
    true = surface_of(field, 64)
    vertices, faces, _ = drop_floaters(true.vertices, true.faces)
    side = np.zeros((512, 512, 4), np.uint8)
    side[depth_buffer(vertices, faces, replace(CAMERA, azimuth=90), 512) > -np.inf] = 255

    class Guess:
        radius, level, device = field.radius, field.level, field.device

        def density(self, points: NDArray[np.float32]) -> torch.Tensor:
            return field.density(points * np.array([0.75, 1, 1], np.float32))

        def color(self, points: NDArray[np.float32]) -> torch.Tensor:
            return field.color(points * np.array([0.75, 1, 1], np.float32))

    monkeypatch.setattr(engine.model, "field", lambda _code: Guess())
    views = [PosedView("front", view), PosedView("left", frame(side))]
    depths = {}
    for what in ("texture", "shape"):
        monkeypatch.setattr(engine, "views", what)
        surface = engine.reconstruct(views, SMALL)
        made, _, _ = drop_floaters(surface.vertices, surface.faces)
        depths[what] = float(np.ptp(made[:, 2]) / np.ptp(vertices[:, 2]))
        assert [source.role for source in surface.source_views] == ["front", "left"]
        colors = surface.color(surface.vertices)
        assert np.isfinite(colors).all()
    assert depths["texture"] > 1.25
    assert depths["shape"] == pytest.approx(1, abs=0.06)
    assert surface.report["depth_scale"][0] < 0.85
    assert is_watertight(surface.faces)


def test_one_photo_gives_the_same_with_either_setting(
    engine: TripoSR, view: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = engine.reconstruct([PosedView("front", view)], SMALL)
    monkeypatch.setattr(engine, "views", "shape")
    same = engine.reconstruct([PosedView("front", view)], SMALL)
    assert np.array_equal(plain.vertices, same.vertices)
    assert np.array_equal(plain.color(plain.vertices), same.color(same.vertices))


def _composite_on_grey(view: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from worker.tsr import composite_on_grey

    return composite_on_grey(view)


def test_nothing_in_the_field_is_no_surface(
    engine: TripoSR, view: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.tsr.field.Field.density", lambda _self, points: torch.zeros(len(points)))
    with pytest.raises(JobError, match="no_surface"):
        engine.reconstruct([PosedView("front", view)], SMALL)


def test_any_other_error_of_the_device_is_the_end_of_the_process(
    engine: TripoSR, view: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_code: torch.Tensor, _chunk: int | None = None) -> object:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine.model, "field", broken)
    with pytest.raises(DeviceLost):
        engine.reconstruct([PosedView("front", view)], SMALL)


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="worker weights fetch triposr"):
        engines.load("triposr", tmp_path)
    folder = tmp_path / "triposr"
    shutil.copytree(TINY, folder)
    (folder / "model.safetensors").write_bytes((TINY / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(EngineUnavailable, match=r"model\.safetensors") as error:
        engines.load("triposr", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test wants to be missing")
def test_a_device_that_is_not_there_is_not_replaced() -> None:
    with pytest.raises(EngineUnavailable, match="WORKER_DEVICE"):
        TripoSR(TINY, "cuda")
