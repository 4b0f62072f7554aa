"""Measure TripoSR's parts, beside the reference's way of doing the same: `python tests/benchmarks/tsr.py [--json]`.

The network is the official one if its weights are there, else one of its size with random weights: the arithmetic is
the same, the values are not. The field is a scene fitted to a known shape. Each measurement runs in a process of its own,
so that its peak of memory is its own.
"""

import sys
from pathlib import Path

# Not this folder, which Python puts first: its `queue` would hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import json
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch's world writes it
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from skimage.measure import marching_cubes
from torch.nn.attention import SDPBackend, sdpa_kernel

from worker import tsr
from worker.core import settings
from worker.mesh.isosurface import extract
from worker.tsr.field import LEVEL, Decoder, Field

Floats = NDArray[np.float32]
Json = dict[str, Any]

CHUNK = 8192  # points at once in the reference
PLANES = ((0, 1), (0, 2), (1, 2))  # the axes along the columns and the rows of each plane
# Multiplications and additions of one photo's way through the network, times two; TripoSR's own sizes.
ENCODE_FLOP = 2.96e12
QUERY_FLOP = 2 * (8 * 64 * 64 + 64)  # of one density with the first layer applied beforehand


def run(scene: Path, weights: Path, resolutions: list[int], repeat: int) -> Json:
    """Do all measurements. `--json` prints what they give."""
    rate = _matrix_rate()
    encode = _in_process("encode", str(weights), str(repeat))
    encode["floor_s"] = ENCODE_FLOP / rate
    found: Json = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gflops": rate / 1e9,
        "encode": encode,
    }
    found["extract"] = {}
    for resolution in resolutions:
        row = _in_process("extract", str(scene), str(resolution), str(repeat))
        row["field_floor_s"] = row["queries"] * QUERY_FLOP / rate
        found["extract"][str(resolution)] = row
    return found


def _in_process(measurement: str, *arguments: str) -> Json:
    command = [sys.executable, __file__, measurement, *arguments]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def _matrix_rate(size: int = 2048, repeat: int = 8) -> float:
    """Return the best of several float32 matrix products, FLOP a second: the ceiling for all of the above."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    return 2 * size**3 / min(_seconds(lambda: a @ b) for _ in range(repeat))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@torch.no_grad()
def encode(weights: Path, repeat: int) -> Json:
    """Measure one photo → scene code, in float32 and in bfloat16, on the CPU and, if there is one, on the GPU."""
    photo = np.random.default_rng(0).random((512, 512, 3), np.float32)
    official = (weights / "config.yaml").exists()
    row: Json = {"weights": "those of WORKER_WEIGHTS_DIR" if official else "random, of the official size"}
    codes = {}
    devices = [("", "cpu", torch.float32), ("", "cpu", torch.bfloat16)]
    if torch.cuda.is_available():
        devices += [("cuda_", "cuda", torch.float16)]
    for prefix, device, dtype in devices:
        name = prefix + str(dtype).removeprefix("torch.")
        began = time.perf_counter()
        model = tsr.load(weights, device, dtype) if official else _random_model(device, dtype)
        row[f"{name}_load_s"] = time.perf_counter() - began
        row[f"{name}_first_s"] = _seconds(lambda: model.encode([photo]).cpu())  # noqa: B023 - called at once
        times, reference = [], []
        for _ in range(repeat):
            began = time.perf_counter()
            codes[name] = model.encode([photo])[0].cpu()
            times.append(time.perf_counter() - began)
            if name == "float32":
                # In turns with ours, so that a busy minute does not fall on one of them alone.
                reference.append(_seconds(lambda: _as_the_reference(model, photo)))  # noqa: B023
        row[f"{name}_s"] = statistics.median(times)
        if name == "float32":
            row["reference_s"] = statistics.median(reference)
            row["tokens_s"] = _seconds(lambda: model.image_tokens([photo]))  # noqa: B023
            row["peak_rss_mb"] = _peak_mb()
        else:
            exact = codes["float32"]
            row[f"{name}_rel_error"] = float((codes[name] - exact).norm() / exact.norm())
        if device == "cuda":
            row["peak_vram_mb"] = torch.cuda.max_memory_allocated() >> 20
    return row


def _as_the_reference(model: tsr.TripoSR, photo: Floats) -> torch.Tensor:
    """Attention in the ViT as three operations, not one, and the backbone from its beginning for every photo."""
    with sdpa_kernel(SDPBackend.MATH):
        image_tokens = model.image_tokens([photo])
    tokens = model.tokenizer()
    code: torch.Tensor = model.post_processor(
        model.backbone(tokens, model.backbone.precompute(tokens), image_tokens)
    )
    return code


def _random_model(device: str, dtype: torch.dtype) -> tsr.TripoSR:
    """Of the official size; weights that keep the activations in the range of trained ones."""
    torch.manual_seed(0)
    model = tsr.TripoSR(tsr.Config(), dtype)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            parameter.normal_(0, 0.02)
    return model.to(device).eval()


@torch.no_grad()
def extract_scene(scene: Path, resolution: int, repeat: int) -> Json:
    """Field → coloured mesh: ours first, so that its peak of memory is not the dense one's; then the reference's way."""
    code = torch.from_numpy(np.load(scene / "scene_code.npy").astype(np.float32))
    config = tsr.Config()
    decoder = Decoder(config)
    decoder.load_state_dict(load_file(scene / "decoder.safetensors"))
    times, asking = [], []
    for _ in range(repeat):
        asked = 0.0
        began = time.perf_counter()
        field = Field(code, decoder, config)

        def density(points: Floats, field: Field = field) -> Floats:
            nonlocal asked
            start = time.perf_counter()
            values: Floats = field.density(points).numpy()
            asked += time.perf_counter() - start
            return values

        ours = extract(density, resolution=resolution, radius=config.radius, level=LEVEL)
        field.color(ours.vertices)
        times.append(time.perf_counter() - began)
        asking.append(asked)
    row: Json = {
        "sparse_s": statistics.median(times),
        "field_s": statistics.median(asking),
        "queries": ours.queries,
        "dense_queries": resolution**3,
        "triangles": len(ours.faces),
        "peak_rss_mb": _peak_mb(),
    }
    began = time.perf_counter()
    vertices, faces = _dense(code, decoder, config, resolution)
    row["dense_s"] = time.perf_counter() - began
    row["ratio"] = row["dense_s"] / row["sparse_s"]
    row["same_faces"] = bool(np.array_equal(faces, ours.faces))
    voxel = 2 * config.radius / (resolution - 1)
    # Of meshes that differ there is no vertex to compare with.
    row["max_vertex_diff_voxels"] = (
        float(np.abs(vertices - ours.vertices).max() / voxel) if row["same_faces"] else None
    )
    row["dense_peak_rss_mb"] = _peak_mb()
    return row


def _dense(
    code: torch.Tensor, decoder: Decoder, config: tsr.Config, resolution: int
) -> tuple[Floats, NDArray[np.int32]]:
    """As the reference does it: all samples of the grid, planes by grid_sample, the whole decoder, then the colours."""

    def raw(points: torch.Tensor) -> torch.Tensor:
        at = torch.stack([points[:, axes] / config.radius for axes in PLANES])[:, None]  # (3, 1, n, 2)
        features = F.grid_sample(code, at, align_corners=False)[:, :, 0]  # (3, C, n)
        decoded: torch.Tensor = decoder.layers(features.permute(2, 0, 1).flatten(1))
        return decoded

    def ask(points: Floats) -> torch.Tensor:
        return torch.cat([raw(chunk) for chunk in torch.split(torch.from_numpy(points), CHUNK)])

    axis = np.linspace(-config.radius, config.radius, resolution, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    volume = (ask(grid)[:, 0] + config.density_bias).exp().reshape((resolution,) * 3).numpy()
    vertices, faces, _, _ = marching_cubes(volume, LEVEL, gradient_direction="ascent")  # type: ignore[no-untyped-call]
    world = (vertices / (resolution - 1) * 2 * config.radius - config.radius).astype(np.float32)
    ask(world)[:, 1:].sigmoid()
    return world, faces


def as_table(found: Mapping[str, Any]) -> Table:
    """Return what a person reads."""
    table = Table("", "", "beside it", box=None, header_style="dim")
    encode = found["encode"]
    table.add_row(
        "machine", f"torch {found['torch']}, {found['threads']} threads", f"{found['gflops']:.0f} GFLOP/s"
    )
    table.add_row("network", encode["weights"], f"peak {encode['peak_rss_mb']} MB")
    table.add_row("encode, float32", f"{encode['float32_s']:.2f} s", f"floor {encode['floor_s']:.2f} s")
    table.add_row("  of it image tokens", f"{encode['tokens_s']:.2f} s", "")
    for name in ("bfloat16", "cuda_float16"):
        if f"{name}_s" in encode:
            error = f"relative error {encode[f'{name}_rel_error']:.2%}"
            table.add_row(f"encode, {name.replace('_', ' ')}", f"{encode[f'{name}_s']:.2f} s", error)
    for resolution, row in found["extract"].items():
        table.add_row(
            f"extract at {resolution}",
            f"{row['sparse_s']:.2f} s, {row['queries']:,} queries, peak {row['peak_rss_mb']} MB",
            f"dense {row['dense_s']:.1f} s, {row['dense_queries']:,} queries, peak {row['dense_peak_rss_mb']} MB",
        )
        same = (
            f"same faces, vertices within {row['max_vertex_diff_voxels']:.4f} voxel"
            if row["same_faces"]
            else "NOT THE SAME FACES"
        )
        table.add_row(
            "  of it the field",
            f"{row['field_s']:.2f} s",
            f"floor {row['field_floor_s']:.2f} s; {row['ratio']:.1f} times faster; {same}",
        )
    return table


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description="Measure TripoSR's network, and its surface against a dense extraction in the same run. Takes some minutes."
    )
    parser.add_argument(
        "--scene",
        type=Path,
        default=Path(__file__).parents[1] / "data" / "tsr-fitted",
        help="a folder with scene_code.npy and decoder.safetensors",
    )
    parser.add_argument("--resolution", type=int, action="append", help="of the grid; 256 and 384 by default")
    parser.add_argument("--repeat", type=int, default=3, help="runs, of which the median counts")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args()
    if not (chosen.scene / "scene_code.npy").exists():
        parser.error(f"there is no scene in {chosen.scene}")
    weights = settings.load().weights_dir / "triposr"
    found = run(chosen.scene, weights, chosen.resolution or [256, 384], chosen.repeat)
    if chosen.json:
        print(json.dumps(found, indent=2))
    else:
        Console().print(as_table(found))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["encode", weights, repeat]:
            print(json.dumps(encode(Path(weights), int(repeat))))
        case ["extract", scene, resolution, repeat]:
            print(json.dumps(extract_scene(Path(scene), int(resolution), int(repeat))))
        case _:
            main()
