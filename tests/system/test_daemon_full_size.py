"""A checkpoint of the official size, from a pickle to a published model, on the CPU of a small machine."""

import time
from collections.abc import Callable
from pathlib import Path

import fitted_checkpoint
import pytest
import torch
from conftest import StartDaemon, until
from sqlalchemy.engine import Engine

from worker import tsr
from worker.jobs import queue


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
    made = fitted_checkpoint.write(folder)
    (folder / "model.safetensors").unlink()
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
