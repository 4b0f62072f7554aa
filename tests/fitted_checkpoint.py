"""A checkpoint of the official size and layout whose scene is known.

Its weights are random but for the two ends: the scene code that comes out is the fitted scene's and a trace of what the
backbone says of the photo. So the arithmetic is TripoSR's, all of it, and the surface is a real one; no result is.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]  # ships no types
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker import tsr
from worker.tsr.config import read

DATA = Path(__file__).parent / "data"
LAYERS = 16, 12  # of the official backbone and ViT

# The official shapes; all else in the file is as in the tiny checkpoint's.
OFFICIAL: dict[str, Any] = {
    "cond_image_size": 512,
    "tokenizer": {"plane_size": 32, "num_channels": 1024},
    "backbone": {
        "in_channels": 1024,
        "num_attention_heads": 16,
        "attention_head_dim": 64,
        "num_layers": 16,
        "cross_attention_dim": 768,
    },
    "post_processor": {"in_channels": 1024, "out_channels": 40},
    "decoder": {"in_channels": 120, "n_neurons": 64, "n_hidden_layers": 9, "activation": "silu"},
}


def write(folder: Path, layers: tuple[int, int] = LAYERS) -> dict[str, Tensor]:
    """Write config.yaml and model.safetensors into `folder`. Return the tensors.

    `layers`: of backbone and ViT. With fewer than the official ones the network is smaller and the scene is the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks, vit_layers = layers
    config = yaml.safe_load((DATA / "tsr-tiny" / "config.yaml").read_text()) | OFFICIAL
    config["backbone"] = {**OFFICIAL["backbone"], "num_layers": blocks}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if vit_layers != LAYERS[1]:
        (folder / "dino_config.json").write_text(json.dumps({"num_hidden_layers": vit_layers}))
    tensors = _tensors(read(folder))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return tensors


def _tensors(config: tsr.Config) -> dict[str, Tensor]:
    torch.manual_seed(0)
    made = {}
    for name, shape in tsr.layout(config).items():
        if len(shape) == 1:
            made[name] = torch.full(shape, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            made[name] = torch.empty(shape).normal_(0, 0.02)
    code = torch.from_numpy(
        np.load(DATA / "tsr-fitted" / "scene_code.npy").astype(np.float32)
    )  # (3, 40, 64, 64)
    blocks = code.reshape(3, 40, 32, 2, 32, 2)
    # The first 160 channels of the learned tokens hold the code, 2 by 2 texels each, and the upsampling lays them out.
    embeddings = torch.zeros(3, 1024, 32, 32)
    embeddings[:, :160] = blocks.permute(0, 1, 3, 5, 2, 4).reshape(3, 160, 32, 32)
    made["tokenizer.embeddings"] = embeddings
    upsample = torch.zeros(1024, 40, 2, 2)
    upsample[:160] = torch.eye(160).view(160, 40, 2, 2)
    made["post_processor.upsample.weight"] = upsample
    made["post_processor.upsample.bias"] = torch.zeros(40)
    made["backbone.proj_out.weight"] *= 0.01
    return made | {
        f"decoder.{name}": tensor
        for name, tensor in load_file(DATA / "tsr-fitted" / "decoder.safetensors").items()
    }
