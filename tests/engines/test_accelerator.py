"""What a GPU does that a CPU does not: simulated, since these tests run where there is none.

`gpu` makes torch say that there is one, while its tensors stay on the CPU.
"""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import until
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from worker import tsr
from worker.core.errors import JobError
from worker.engines import DeviceBusy, DeviceLost, EngineUnavailable
from worker.engines.accelerator import Accelerator
from worker.engines.gate import Gate
from worker.engines.presets import Preset
from worker.engines.surface import PosedView, Surface
from worker.engines.triposr import TripoSR

TINY = Path(__file__).parents[1] / "data" / "tsr-tiny"
SMALL = Preset(name="small", grid=48, triangles=2_000, texture=256)
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"
CUBLAS = "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"
MEGABYTE = 1 << 20


class Gpu:
    """Counts what torch would do on a GPU. `peak` is its memory's in MiB; `cost_s` what a synchronisation waits for."""

    def __init__(self) -> None:
        self.peak = 0
        self.clock = 0.0
        self.cost_s = 0.0
        self.released = 0

    def synchronize(self) -> None:
        self.clock += self.cost_s

    def release(self) -> None:
        self.released += 1

    def reset(self) -> None:
        self.peak = 0


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    load = tsr.load
    monkeypatch.setattr(tsr, "load", lambda folder, _device, dtype: load(folder, "cpu", dtype))
    for name, instead in {
        "is_available": lambda: True,
        "get_device_name": lambda: "NVIDIA Pretence",
        "synchronize": gpu.synchronize,
        "empty_cache": gpu.release,
        "reset_peak_memory_stats": gpu.reset,
        "max_memory_allocated": lambda: gpu.peak * MEGABYTE,
    }.items():
        monkeypatch.setattr(torch.cuda, name, instead)
    return gpu


@pytest.fixture
def view() -> NDArray[np.uint8]:
    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 4), np.uint8)
    picture[..., 3] = 0
    picture[60:450, 120:400, 3] = 255
    return picture


def reconstruct(engine: TripoSR, view: NDArray[np.uint8]) -> Surface:
    return engine.reconstruct([PosedView("front", view)], SMALL)


def raising(text: str, error: type[Exception] = RuntimeError) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error(text)

    return fail


def test_a_lane_with_a_gpu_does_not_compute_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch sees no CUDA: the driver is too old for it, say, or it is the build for CPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(
        EngineUnavailable, match=r"GPU 3.*driver of version 580.*capability 7\.5.*WORKER_DEVICE=cpu"
    ):
        TripoSR(TINY, "cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(EngineUnavailable, match=r"GPU 3.*built for CPUs only"):
        TripoSR(TINY, "cuda")


def test_convolutions_compute_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated: cuDNN rounds what goes into a convolution to ten bits of mantissa if torch lets it, as it does by default."""

    def as_cudnn(convolution: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def rounded(x: torch.Tensor) -> torch.Tensor:
            bits = x.contiguous().view(torch.int32)
            return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)

        def compute(x: torch.Tensor, weight: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            if torch.backends.cudnn.allow_tf32:
                x, weight = rounded(x), rounded(weight)
            return convolution(x, weight, *rest, **named)

        return compute

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's own default
    for module, name in (
        (torch.nn.functional, "conv2d"),
        (torch.nn.functional, "conv_transpose2d"),
    ):
        monkeypatch.setattr(module, name, as_cudnn(getattr(module, name)))
    with np.load(TINY / "golden.npz") as golden:
        image, wanted = golden["image"], golden["scene_code"]

    code = TripoSR(TINY, "cpu").model.encode([image])[0].numpy()

    assert np.abs(code - wanted).max() < 6e-5  # 5.7e-3 with the ten bits


def test_a_scene_code_that_overflows_in_half_precision_is_computed_in_float32(
    tmp_path: Path, view: NDArray[np.uint8]
) -> None:
    engine = TripoSR(overflowing(tmp_path), "cpu", "float16")
    exact = reconstruct(TripoSR(tmp_path, "cpu", "float32"), view)

    surface = reconstruct(engine, view)

    assert not engine.model.encode([tsr.composite_on_grey(view)]).isfinite().all(), (
        "the next photo is in half again"
    )
    assert surface.report["encoded_again_in"] == "float32"
    assert "encoded_again_in" not in exact.report
    # The matrices were rounded to half precision when they were loaded.
    assert len(surface.faces) == pytest.approx(len(exact.faces), rel=0.05)


def overflowing(folder: Path) -> Path:
    """A checkpoint with values of some 1e6 between two matrices."""
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    layer = "image_tokenizer.model.encoder.layer.0."
    tensors[f"{layer}intermediate.dense.weight"] *= 2e4
    tensors[f"{layer}output.dense.weight"] /= 2e4
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_scene_code_that_is_never_finite_is_our_fault_and_not_the_photo_s(
    view: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TripoSR(TINY, "cpu")
    codes = engine.model.scene_codes

    def one_row_is_nan(tokens: torch.Tensor) -> torch.Tensor:
        code = codes(tokens)
        code[0, 1, 2, 3] = torch.nan
        return code

    monkeypatch.setattr(engine.model, "scene_codes", one_row_is_nan)
    with pytest.raises(JobError) as error:
        reconstruct(engine, view)
    assert error.value.code == "internal_error"


@pytest.mark.parametrize("text", [NO_KERNEL, CUBLAS])
def test_a_gpu_whose_first_kernel_fails_is_found_before_a_job_is_claimed(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    assert gpu.peak == 0
    monkeypatch.setattr(tsr.TripoSR, "image_tokens", raising(text))
    with pytest.raises(EngineUnavailable, match=r"NVIDIA Pretence cannot compute.*capability") as error:
        TripoSR(TINY)
    assert not isinstance(error.value, DeviceBusy)


def test_a_gpu_that_is_full_at_the_start_may_be_free_later(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsr, "load", raising("CUDA out of memory", torch.OutOfMemoryError))
    with pytest.raises(DeviceBusy, match="NVIDIA Pretence has no memory"):
        TripoSR(TINY)
    assert gpu.released


@pytest.mark.parametrize(
    "text", [CUBLAS, "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", "CUDA error: device-side assert"]
)
def test_whatever_a_gpu_raises_ends_the_process(
    gpu: Gpu, view: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    engine = TripoSR(TINY)
    monkeypatch.setattr(engine.model, "image_tokens", raising(text))
    # What follows such an error fails too, and must not hide it.
    monkeypatch.setattr(torch.cuda, "empty_cache", raising(text))
    with pytest.raises(DeviceLost, match=text[:20]):
        reconstruct(engine, view)
    assert gpu.peak == 0


def test_memory_that_is_short_halves_the_points_at_a_time_also_for_the_texture(
    gpu: Gpu, view: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device with memory for 20,000 points."""
    monkeypatch.setattr(tsr.field, "CPU_CHUNK", 1 << 18)
    engine = TripoSR(TINY, precision="float32")
    plenty = reconstruct(engine, view)
    points = np.repeat(plenty.vertices, 50, axis=0)[:100_000]
    colors = plenty.color(points)
    asked: list[int] = []
    sample: Any = getattr(tsr.Field, "_sample")  # noqa: B009 - private to its module

    def with_little_memory(field: tsr.Field, points: torch.Tensor) -> torch.Tensor:
        asked.append(len(points))
        if len(points) > 20_000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        found: torch.Tensor = sample(field, points)
        return found

    monkeypatch.setattr(tsr.Field, "_sample", with_little_memory)
    released = gpu.released
    np.testing.assert_allclose(plenty.color(points), colors, atol=1e-5)
    assert asked[:4] == [100_000, 50_000, 25_000, 12_500]
    assert gpu.released > released

    surface = reconstruct(engine, view)
    assert np.array_equal(surface.vertices, plenty.vertices)
    asked.clear()
    np.testing.assert_allclose(surface.color(points), colors, atol=1e-5)
    assert max(asked) <= 20_000, "its extraction has learnt it"


def test_too_little_memory_lets_fewer_lanes_compute_at_once_before_it_costs_a_job(
    gpu: Gpu, view: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate.create(5)
    engine = TripoSR(TINY, gate=gate)
    tokens, places = engine.model.image_tokens, []

    def memory_for_one_lane(images: Any) -> torch.Tensor:
        places.append(gate.places)
        if gate.places > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tokens(images)

    monkeypatch.setattr(engine.model, "image_tokens", memory_for_one_lane)
    assert len(reconstruct(engine, view).faces)
    assert places == [5, 2, 1]
    reconstruct(engine, view)
    assert places == [5, 2, 1, 1], "it stays so"

    monkeypatch.setattr(engine.model, "image_tokens", raising("CUBLAS_STATUS_ALLOC_FAILED"))
    with pytest.raises(JobError) as error:
        reconstruct(engine, view)
    assert (error.value.code, error.value.retryable) == ("out_of_memory", True)
    assert gpu.released
    gate.close()


def test_times_wait_for_the_gpu_and_memory_is_a_job_s_own(
    gpu: Gpu, view: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TripoSR(TINY)
    monkeypatch.setattr("worker.engines.triposr.time.perf_counter", lambda: gpu.clock)
    gpu.peak, gpu.cost_s = (
        9_000,
        7.0,
    )  # of another job, and of an encoding that is under way when `encode` returns
    surface = reconstruct(engine, view)
    assert surface.report["encode_s"] == 7.0
    assert surface.report["peak_vram_mb"] == 0
    gpu.peak = 700
    surface.color(surface.vertices[:10])
    assert surface.report["peak_vram_mb"] == 700, "the texture counts too"


def test_the_field_needs_no_float64_of_its_device() -> None:
    """A Mac's GPU has none."""

    class WithoutFloat64(TorchFunctionMode):
        def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
            return result

    model = tsr.load(TINY)
    with np.load(TINY / "golden.npz") as golden, WithoutFloat64():
        field = model.field(torch.from_numpy(golden["scene_code"]))
        assert np.abs(field.color(golden["points"]).numpy() - golden["color"]).max() < 1e-5


def test_an_error_of_our_own_is_no_error_of_the_device() -> None:
    accelerator = Accelerator("cpu")
    with pytest.raises(RuntimeError, match="ours"):
        accelerator.run(raising("ours"))
    with pytest.raises(JobError, match="out_of_memory"):
        accelerator.run(lambda: torch.empty(10**15))


@pytest.fixture
def lanes() -> Iterator[Callable[[Gate], tuple[int, Connection]]]:
    """Start a process that enters a gate, says so, and leaves it when it is told to."""
    started = []

    def enter(gate: Gate, pipe: Connection) -> None:
        with gate.enter() as places:
            pipe.send(places)
            pipe.recv()
        pipe.send("left")

    def start(gate: Gate) -> tuple[int, Connection]:
        ours, theirs = multiprocessing.Pipe()
        pid = os.fork()
        if pid == 0:
            try:
                enter(gate, theirs)
            finally:
                os._exit(0)
        started.append(pid)
        return pid, ours

    yield start
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        os.waitpid(pid, 0)


@pytest.mark.integration  # it starts processes
def test_as_many_processes_enter_a_gate_as_it_has_places(
    lanes: Callable[[Gate], tuple[int, Connection]],
) -> None:
    gate = Gate.create(3)
    (first, inside), (_, beside) = lanes(gate), lanes(gate)
    assert {inside.recv(), beside.recv()} == {3}
    assert gate.lower(3)
    assert gate.places == 1
    assert gate.lower(3), "somebody has lowered it since"
    assert gate.places == 1
    assert not gate.lower(1)

    _, waiting = lanes(gate)
    assert not waiting.poll(0.3), "one place, and two are inside"
    beside.send("leave")
    assert beside.recv() == "left"
    # The place that is left is the first one's or the other's.
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    until(lambda: waiting.poll(0.1), what="the place of a process that was killed")
    assert waiting.recv() == 1
    gate.close()


def test_a_gate_does_not_trust_its_file() -> None:
    gate = Gate.create(4)
    for nonsense in (b"\0", b"\xff"):
        os.pwrite(gate.fd, nonsense, 0)
        assert 1 <= gate.places <= 4
    os.ftruncate(gate.fd, 0)
    assert gate.places == 1
    began = time.monotonic()
    with gate.enter() as places:
        assert places == 1
    assert time.monotonic() - began < 60
    gate.close()
