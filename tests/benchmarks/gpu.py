"""All that must be known of a GPU, in less than ten minutes: `python tests/benchmarks/gpu.py [--json]`.

The reference's numbers by precision, the encoding, the surface against the CPU's, memory, jobs an hour with 1, 4 and 16 lanes,
and what becomes of the worker when the GPU's memory is taken, when a kernel fails, and when a process is killed in one. Each
part runs in a process of its own and says if what it found is right. The network has the official size and random weights,
but for the two ends: its scene is the fitted one (tests/fitted_checkpoint.py).

No network is needed beyond this machine. The jobs need `u2netp` in WORKER_WEIGHTS_DIR. `--device cpu --small` goes through the
same code with a small network where there is no GPU: its figures mean nothing, and its faults are planted.
"""

import sys
from pathlib import Path

# Not this folder, which Python puts first: its `queue` would hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import fitted_checkpoint
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from worker import tsr, weights
from worker.compute.lanes import Host
from worker.core import settings
from worker.core.errors import JobError
from worker.engines import DeviceLost
from worker.engines.gate import Gate
from worker.engines.presets import PRESETS, Preset
from worker.engines.surface import PosedView, Surface
from worker.engines.triposr import TripoSR, surface_of

Json = dict[str, Any]
T = TypeVar("T")

DATA = Path(__file__).parents[1] / "data"
PRECISIONS = ("float32", "float16", "bfloat16")
BACKGROUND = "u2netp"
# What a precision may be off by in the golden scene code, whose values are of the order of 5; float32's is a few times its noise.
TOLERANCE = {"float32": 6e-5, "float16": 5e-2, "bfloat16": 4e-1}
VERTEX_TOLERANCE = 0.05  # voxels, between GPU and CPU
LEFT_MB = 300  # of the GPU's memory, when another process takes it


@dataclass(frozen=True)
class Chosen:
    """What the command line asks for."""

    device: Any  # "cuda" or "cpu"
    small: bool
    weights: Path  # a weights folder with the fitted checkpoint


def goldens(chosen: Chosen) -> Json:
    """Compare the tiny checkpoint's numbers with the reference's, and the large network's precisions with float32 on the CPU."""
    found: Json = {"tiny": {}, "fitted, of official size": {}}
    with np.load(DATA / "tsr-tiny" / "golden.npz") as golden:
        for precision in PRECISIONS:
            model = tsr.load(DATA / "tsr-tiny", chosen.device, getattr(torch, precision))
            code = model.encode([golden["image"]])[0]
            field = model.field(code)
            row = {
                "scene_code": _off(code, golden["scene_code"]),
                "raw_density": _off(field.raw_density(golden["points"]), golden["density"][:, 0]),
                "color": _off(field.color(golden["points"]), golden["color"]),
                "allowed": TOLERANCE[precision],
            }
            found["tiny"][precision] = row
    photo = np.random.default_rng(0).random((512, 512, 3), np.float32)
    folder = chosen.weights / "triposr"
    exact = tsr.load(folder).encode([photo])[0]
    for precision in PRECISIONS:
        code = tsr.load(folder, chosen.device, getattr(torch, precision)).encode([photo])[0].cpu()
        found["fitted, of official size"][precision] = float((code - exact).norm() / exact.norm())
    found["ok"] = all(row["scene_code"] <= row["allowed"] for row in found["tiny"].values())
    return found


def encode(chosen: Chosen) -> Json:
    """Measure the encoding of one photo by precision: load, first, median; and the memory it takes."""
    found: Json = {}
    photo = np.random.default_rng(0).random((512, 512, 3), np.float32)
    for precision in PRECISIONS[:1] if chosen.small else PRECISIONS:
        began = time.perf_counter()
        model = tsr.load(chosen.weights / "triposr", chosen.device, getattr(torch, precision))
        load_s = _since(began, chosen)
        _reset_peak(chosen)
        began = time.perf_counter()
        model.encode([photo])
        first_s = _since(began, chosen)
        times = []
        for _ in range(1 if chosen.small else 20):
            began = time.perf_counter()
            model.encode([photo])
            times.append(_since(began, chosen))
        found[precision] = {
            "load_s": load_s,
            "first_s": first_s,
            "s": statistics.median(times),
            "peak_mb": _peak_mb(chosen),
        }
        del model
        _empty(chosen)
    return found | {"ok": True}


def extraction(chosen: Chosen) -> Json:
    """Extract the fitted scene at three resolutions on the device and on the CPU, and colour as many points as a texture has."""
    code = torch.from_numpy(np.load(DATA / "tsr-fitted" / "scene_code.npy").astype(np.float32))
    on_cpu, on_device = (tsr.load(chosen.weights / "triposr", device) for device in ("cpu", chosen.device))
    found: Json = {}
    for grid in (48, 64, 96) if chosen.small else (128, 256, 384):
        theirs, cpu_s = _timed(lambda: surface_of(on_cpu.field(code), grid), chosen)  # noqa: B023 - called at once
        _timed(lambda: surface_of(on_device.field(code), grid), chosen)  # noqa: B023 - the first one compiles and allocates
        _reset_peak(chosen)
        ours, device_s = _timed(lambda: surface_of(on_device.field(code), grid), chosen)  # noqa: B023
        same = np.array_equal(ours.faces, theirs.faces)
        voxel = 2 * on_cpu.config.radius / (grid - 1)
        row: Json = {
            "cpu_s": cpu_s,
            "s": device_s,
            "same_faces": same,
            # Of meshes that differ there is no vertex to compare with.
            "max_vertex_diff_voxels": float(np.abs(ours.vertices - theirs.vertices).max() / voxel)
            if same
            else None,
            "faces": [len(ours.faces), len(theirs.faces)],
            "peak_mb": _peak_mb(chosen),
        }
        some = theirs.vertices[:20_000]
        row["max_color_diff"] = float(np.abs(ours.color(some) - theirs.color(some)).max())
        points = np.resize(theirs.vertices, (20_000 if chosen.small else 600_000, 3))
        _, row["texture_s"] = _timed(lambda: ours.color(points), chosen)  # noqa: B023 - called at once
        found[str(grid)] = row
    found["ok"] = all(
        row["same_faces"]
        and row["max_vertex_diff_voxels"] < VERTEX_TOLERANCE
        and row["max_color_diff"] < 1e-3
        for row in found.values()
    )
    return found


def memory(chosen: Chosen) -> Json:
    """Measure what one lane takes of the device at 'quality', with CUDA's own context, and what `ENGINES` allows for it."""
    from worker.engines import ENGINES

    before = _free_mb(chosen)
    engine = TripoSR(chosen.weights / "triposr", chosen.device)
    loaded = _free_mb(chosen)
    surface, seconds = _timed(lambda: _job(engine, _preset(chosen)), chosen)
    surface.color(np.resize(surface.vertices, (20_000 if chosen.small else 600_000, 3)))
    after = _free_mb(chosen)
    allowed = ENGINES["triposr"].vram_gb * 1000
    found: Json = {
        "allowed_mb": allowed,
        "context_and_weights_mb": before - loaded,
        "between_jobs_mb": before - after,
        "peak_of_tensors_mb": surface.report.get("peak_vram_mb"),
        "generate_s": seconds,
        "report": dict(surface.report),
    }
    if chosen.device == "cuda":
        weights_mb = torch.cuda.memory_allocated() / 2**20
        context_mb = found["context_and_weights_mb"] - weights_mb
        found["peak_mb"] = context_mb + found["peak_of_tensors_mb"]
    return found | {"ok": found.get("peak_mb", 0) <= allowed}


def lanes(chosen: Chosen) -> Json:
    """Measure jobs an hour with 1, 4 and 16 lanes, through real daemons; and the most memory of the GPU that was in use."""
    from worker.local import bench

    os.environ |= {
        "WORKER_ENGINE": "triposr",
        "WORKER_DEVICE": chosen.device,
        "WORKER_WEIGHTS_DIR": str(chosen.weights),
        "WORKER_BACKGROUND_MODEL": BACKGROUND,
    }
    found: Json = {"cores": Host.measure().cores}
    for count in (1, 2) if chosen.small else (1, 4, 16):
        with _watching_memory() as most:
            measured = bench.run(
                [],
                jobs=2 if chosen.small else 3 * max(count, 2),
                quality="fast" if chosen.small else "balanced",
                lanes=[count],
            )
        found[str(count)] = measured | {"gpu_memory_used_mb": most()}
    ran = [row for row in found.values() if isinstance(row, dict)]
    return found | {"ok": all(row["completed"] == row["jobs"] for row in ran)}


def memory_taken(chosen: Chosen) -> Json:
    """Have another process take the device's memory between two jobs: the job fails as out_of_memory, the next one is done."""
    gate = Gate.create(4)
    engine = TripoSR(chosen.weights / "triposr", chosen.device, gate=gate)
    plenty = _job(engine, _preset(chosen))
    with _hog(chosen, engine):
        began = time.perf_counter()
        try:
            _job(engine, _preset(chosen))
            said = "completed"  # the memory that was left was enough, or fewer points at a time were
        except JobError as error:
            said = error.code
        took_s = time.perf_counter() - began
    again = _job(engine, _preset(chosen))
    same = np.array_equal(again.faces, plenty.faces)
    found = {"said": said, "took_s": took_s, "places": gate.places, "the next job is the same": same}
    return found | {"ok": said in {"out_of_memory", "completed"} and same}


def device_assert(chosen: Chosen) -> Json:
    """Have a kernel fail: the engine must say that the device is lost, and a new process must be able to work."""
    engine = TripoSR(chosen.weights / "triposr", chosen.device)
    try:
        engine.accelerator.run(lambda: _fail_in_a_kernel(chosen))
        said = "nothing"
    except DeviceLost as error:
        said = f"DeviceLost: {str(error)[:100]}"
    except Exception as error:  # noqa: BLE001 - it is what the section reports
        said = f"{type(error).__name__}: {str(error)[:100]}"
    _, after_s = _timed_process("works", chosen)
    return {"said": said, "a new process works after_s": after_s, "ok": said.startswith("DeviceLost")}


def killed(chosen: Chosen) -> Json:
    """Kill a process while a kernel of its runs: its memory must come back, and a new process must be able to work."""
    before = _free_mb(chosen)
    with _started("spin", chosen) as process:
        time.sleep(0.5)
        held = _free_mb(chosen)
        process.send_signal(signal.SIGKILL)
        began = time.perf_counter()
        process.wait()
        while before - _free_mb(chosen) > 200 and time.perf_counter() - began < 30:
            time.sleep(0.1)
        back_s = time.perf_counter() - began
    _, works_s = _timed_process("works", chosen)
    missing = before - _free_mb(chosen)
    return {
        "held_mb": before - held,
        "missing_mb": missing,
        "back_s": back_s,
        "a new process works after_s": works_s,
        "ok": missing <= 200 or chosen.device == "cpu",
    }


PARTS: Mapping[str, Callable[[Chosen], Json]] = {
    part.__name__: part
    for part in (goldens, encode, extraction, memory, lanes, memory_taken, device_assert, killed)
}
LIMIT_S = {"lanes": 420}
OTHER_LIMIT_S = 120


# What a part starts beside itself.


def hog(chosen: Chosen) -> None:
    """Take all but LEFT_MB of the device's memory; say so; keep it until standard input ends."""
    taken = []
    if chosen.device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        while free > LEFT_MB << 20:
            size = max(1 << 20, min(1 << 28, free - (LEFT_MB << 20)))
            try:
                taken.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError:
                break
            free, _ = torch.cuda.mem_get_info()
    print("ready", flush=True)
    sys.stdin.read()


def spin(chosen: Chosen) -> None:
    """Compute until somebody kills this process."""
    a = torch.rand(2048 if chosen.device == "cpu" else 16384, 2048, device=chosen.device)
    print("ready", flush=True)
    while True:
        a @ a.T


def free(_: Chosen) -> None:
    """Say how much of the GPU's memory is free, less than what CUDA needs for this process."""
    print(torch.cuda.mem_get_info()[0] >> 20)


def works(chosen: Chosen) -> None:
    """Load the network and encode a photo."""
    TripoSR(chosen.weights / "triposr", chosen.device).warm_up()
    print("ready", flush=True)


BESIDE: Mapping[str, Callable[[Chosen], None]] = {each.__name__: each for each in (hog, spin, free, works)}


def _command(name: str, chosen: Chosen) -> list[str]:
    small = ["--small"] if chosen.small else []
    return [
        sys.executable,
        __file__,
        "--part",
        name,
        "--device",
        chosen.device,
        "--weights",
        str(chosen.weights),
        *small,
    ]


@contextmanager
def _started(name: str, chosen: Chosen) -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen(_command(name, chosen), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdin
    try:
        line = process.stdout.readline()
        if line.strip() != b"ready":
            raise RuntimeError(f"`{name}` did not start: exit status {process.wait()}")
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _timed_process(name: str, chosen: Chosen) -> tuple[None, float]:
    began = time.perf_counter()
    with _started(name, chosen):
        took = time.perf_counter() - began
    return None, took


@contextmanager
def _hog(chosen: Chosen, engine: TripoSR) -> Iterator[None]:
    """Let another process have the memory; on the CPU, let the network's first half say that there is none."""
    if chosen.device == "cuda":
        with _started("hog", chosen):
            yield
        return
    engine.model.__dict__["image_tokens"] = lambda _images: torch.empty(10**15)
    try:
        yield
    finally:
        del engine.model.__dict__["image_tokens"]


def _fail_in_a_kernel(chosen: Chosen) -> torch.Tensor:
    """Read beyond the end of a tensor, which a kernel of CUDA finds out."""
    if chosen.device == "cpu":
        raise torch.AcceleratorError("CUDA error: device-side assert triggered (planted)")
    beyond = torch.tensor([5], device=chosen.device)
    return torch.zeros(1, device=chosen.device)[beyond].cpu()


@contextmanager
def _watching_memory() -> Iterator[Callable[[], int | None]]:
    """Note how much memory of the first GPU is in use, once a second. Yields what gives the most; None without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while program and not over.wait(1):
            query = [program, "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
            answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
            if answer.isdigit():
                seen.append(int(answer))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: max(seen, default=None)
    finally:
        over.set()
        thread.join()


# Small things.


def _preset(chosen: Chosen) -> Preset:
    return Preset(name="small", grid=48, triangles=2_000, texture=256) if chosen.small else PRESETS["quality"]


def _job(engine: TripoSR, preset: Preset) -> Surface:
    view = np.random.default_rng(0).integers(0, 256, (512, 512, 4), np.uint8)
    view[..., 3] = 0
    view[60:450, 120:400, 3] = 255
    return engine.reconstruct([PosedView("front", view)], preset)


def _off(ours: torch.Tensor, golden: NDArray[Any]) -> float:
    return float(np.abs(ours.cpu().numpy() - golden).max())


def _synchronize(chosen: Chosen) -> None:
    if chosen.device == "cuda":
        torch.cuda.synchronize()


def _since(began: float, chosen: Chosen) -> float:
    _synchronize(chosen)
    return time.perf_counter() - began


def _timed(work: Callable[[], T], chosen: Chosen) -> tuple[T, float]:
    began = time.perf_counter()
    result = work()
    return result, _since(began, chosen)


def _reset_peak(chosen: Chosen) -> None:
    if chosen.device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak_mb(chosen: Chosen) -> int | None:
    return torch.cuda.max_memory_allocated() >> 20 if chosen.device == "cuda" else None


def _empty(chosen: Chosen) -> None:
    if chosen.device == "cuda":
        torch.cuda.empty_cache()


def _free_mb(chosen: Chosen) -> float:
    """Return the free memory of the GPU in MiB as another process sees it, so that this one's context counts too."""
    if chosen.device == "cpu":
        return Host.measure().memory_gb * 1000
    done = subprocess.run(_command("free", chosen), stdout=subprocess.PIPE, check=True)
    return float(done.stdout.split()[-1])


def _about(chosen: Chosen) -> Json:
    found: Json = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": chosen.device,
        "cores": Host.measure().cores,
        "memory_gb": Host.measure().memory_gb,
    }
    if chosen.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "gpu_memory_gb": properties.total_memory / 1e9,
            "capability": f"{properties.major}.{properties.minor}",
        }
    return found


def run(chosen: Chosen, only: list[str]) -> Json:
    """Run the parts one after the other, each in its own process and for a limited time. One that fails stops no other."""
    found: Json = {}
    for name in only or PARTS:
        began = time.perf_counter()
        limit_s = LIMIT_S.get(name, OTHER_LIMIT_S) * (5 if chosen.small else 1)
        try:
            done = subprocess.run(
                _command(name, chosen),
                capture_output=True,
                timeout=limit_s,
                check=False,
            )
            lines = done.stdout.decode().splitlines()
            if done.returncode or not lines:
                error = (done.stderr.decode().strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                found[name] = {"ok": False, "error": error}
            else:
                found[name] = json.loads(lines[-1])
        except subprocess.TimeoutExpired:
            found[name] = {"ok": False, "error": f"not done within {limit_s} s"}
        found[name]["part_s"] = round(time.perf_counter() - began, 1)
        print(f"{name}: {'ok' if found[name]['ok'] else 'NOT OK'}", file=sys.stderr, flush=True)
    return found


def as_table(found: Mapping[str, Any]) -> Table:
    """Return what a person reads."""
    table = Table("", "", box=None, show_header=False)
    for name, part in found.items():
        table.add_row(name, "", style="bold")
        for key, value in part.items():
            shown = json.dumps(value) if isinstance(value, dict) else str(value)
            table.add_row(f"  {key}", f"{value:.4g}" if isinstance(value, float) else shown)
    return table


def main() -> None:
    """Print the figures. Exit status 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="a small network, to try the script itself")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="some of the parts")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=[*PARTS, *BESIDE], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        _run_part(asked.part, Chosen(asked.device, asked.small, asked.weights))
        return
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            f"torch {torch.__version__} finds no CUDA; `--device cpu --small` tries the script itself"
        )
    with tempfile.TemporaryDirectory(prefix="worker-gpu-") as name:
        chosen = Chosen(asked.device, asked.small, Path(name))
        fitted_checkpoint.write(
            chosen.weights / "triposr", (1, 1) if chosen.small else fitted_checkpoint.LAYERS
        )
        here = weights.path(settings.load().weights_dir, BACKGROUND)
        if here.exists():
            there = weights.path(chosen.weights, BACKGROUND)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(here)
        found = {"about": _about(chosen) | {"ok": True}, **run(chosen, asked.only or [])}
    if asked.json:
        print(json.dumps(found, indent=2))
    else:
        Console().print(as_table(found))
    sys.exit(not all(part["ok"] for part in found.values()))


def _run_part(name: str, chosen: Chosen) -> None:
    if name in BESIDE:
        BESIDE[name](chosen)
    else:
        print(json.dumps(PARTS[name](chosen)))


if __name__ == "__main__":
    main()
