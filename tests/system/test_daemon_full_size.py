"""A checkpoint of the official size and layout, from a pickle to a published model, on the CPU of a small machine.

Its weights are random but for the two ends: the scene code that comes out is the fitted scene's and a trace of what the
backbone says of the photo. So the arithmetic is TripoSR's, all of it, and the surface is a real one; no result is.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from conftest import StartDaemon, until
from safetensors.torch import load_file
from sqlalchemy.engine import Engine
from torch import Tensor

from worker import tsr
from worker.jobs import queue

DATA = Path(__file__).parents[1] / "data"

# The official shapes; all else in the file is as in the tiny checkpoint's.
OFFICIAL = {
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


def weights() -> dict[str, Tensor]:
    """549 tensors; see above."""
    torch.manual_seed(0)
    made = {}
    for name, shape in tsr.layout(tsr.Config()).items():
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


@pytest.mark.long
def test_a_full_size_checkpoint_makes_a_model_on_two_cores(
    start_daemon: StartDaemon,
    engine: Engine,
    photos: Callable[[str, bytes], str],
    mug: bytes,
    u2netp: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "weights" / "triposr"
    folder.mkdir(parents=True)
    (tmp_path / "weights" / "models").symlink_to(u2netp / "models")
    config = yaml.safe_load((DATA / "tsr-tiny" / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | OFFICIAL))
    made = weights()
    assert len(made) == 549
    assert sum(tensor.numel() for tensor in made.values()) == 419_275_628
    torch.save(made, folder / "model.ckpt")
    del made
    tsr.convert(folder, folder)
    (folder / "model.ckpt").unlink()

    began = time.perf_counter()
    tsr.load(folder)
    print(f"loaded in {time.perf_counter() - began:.2f} s")  # noqa: T201 - run with -s to read it

    daemon = start_daemon(
        ready=False, real_models=True, WORKER_ENGINE="triposr", WORKER_WEIGHTS_DIR=str(tmp_path / "weights")
    )
    for product in ("cold", "warm"):
        job = queue.enqueue(engine, shop="a", product_id=product, image_urls=[photos("mug.png", mug)])
        until(lambda job=job: queue.get_jobs(engine, [job])[0]["completed_at"], 900)  # type: ignore[misc]
        row = queue.get_jobs(engine, [job])[0]
        assert row["status"] == "completed", row["error_message"]
        report = row["report"]
        print(product, report["seconds"], report["surface"], report["model"]["seconds"])  # noqa: T201 - run with -s to read it
    child = daemon.events("child_ready")[0]["pid"]
    status = Path(f"/proc/{child}/status").read_text()
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) >> 10
    print(f"peak {peak_mb} MB")  # noqa: T201 - run with -s to read it
    assert peak_mb < 5000
    assert report["model"]["watertight"]
