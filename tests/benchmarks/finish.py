"""`worker bench finish`: what each step from the surface to the file costs here, at every preset, for the fitted scene."""

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from worker import tsr
from worker.engines.presets import PRESETS
from worker.engines.triposr import surface_of
from worker.pipeline.finish import finish
from worker.tsr.field import Decoder, Field

SHOWN = ("triangles", "watertight", "glb_bytes")


def run(scene: Path) -> dict[str, dict[str, Any]]:
    """Seconds by step, their sum, the processor's seconds, and what came out, by preset; what `--json` prints.

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
