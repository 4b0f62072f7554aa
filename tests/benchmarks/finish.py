"""Measure each step from the surface to the file, at every preset: `python tests/benchmarks/finish.py [--json]`."""

import sys
from pathlib import Path

# Not this folder, which Python puts first: its `queue` would hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from worker import tsr
from worker.engines.presets import PRESETS
from worker.engines.triposr import surface_of
from worker.pipeline.finish import finish
from worker.tsr.field import Decoder, Field

SHOWN = ("triangles", "watertight", "glb_bytes")


def run(scene: Path) -> dict[str, dict[str, Any]]:
    """Measure, by preset: the seconds of each step, their sum, the processor's seconds, and what came out. `--json` prints this.

    The processor's seconds divided by the cores are what an idle machine would at best take; beside other work the
    sum is more.
    """
    config = tsr.Config()
    decoder = Decoder(config)
    decoder.load_state_dict(load_file(scene / "decoder.safetensors"))
    field = Field(torch.from_numpy(np.load(scene / "scene_code.npy").astype(np.float32)), decoder, config)
    found = {}
    for name, preset in PRESETS.items():
        surface = surface_of(field, preset.grid)
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            report = finish(surface, preset, Path(folder), extras={}).report
            processor = time.process_time() - began
        seconds = report["seconds"]
        found[name] = {
            "seconds": seconds,
            "total_s": round(math.fsum(seconds.values()), 3),
            "cpu_s": round(processor, 3),
            "given_triangles": len(surface.faces),
            **{key: report[key] for key in SHOWN},
        }
    return found


def as_table(found: Mapping[str, Any]) -> Table:
    """Return what a person reads."""
    table = Table("seconds", *found, box=None, header_style="dim")
    for step in next(iter(found.values()))["seconds"]:
        table.add_row(step, *(f"{row['seconds'][step]:.2f}" for row in found.values()))
    table.add_row("all of it", *(f"{row['total_s']:.2f}" for row in found.values()), style="bold")
    table.add_row("of the processor", *(f"{row['cpu_s']:.2f}" for row in found.values()))
    table.add_row(
        "triangles", *(f"{row['given_triangles']:,} → {row['triangles']:,}" for row in found.values())
    )
    table.add_row("file", *(f"{row['glb_bytes'] / 1e6:.2f} MB" for row in found.values()))
    return table


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description="Measure each step from the surface to the file, at every preset."
    )
    parser.add_argument(
        "--scene",
        type=Path,
        default=Path(__file__).parents[1] / "data" / "tsr-fitted",
        help="a folder with scene_code.npy and decoder.safetensors",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args()
    if not (chosen.scene / "scene_code.npy").exists():
        parser.error(f"there is no scene in {chosen.scene}")
    found = run(chosen.scene)
    if chosen.json:
        print(json.dumps(found, indent=2))
    else:
        Console().print(as_table(found))


if __name__ == "__main__":
    main()
