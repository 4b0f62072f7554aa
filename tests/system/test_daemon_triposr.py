"""The daemon with the engine of production and a small checkpoint in the official layout."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import trimesh
from conftest import StartDaemon, until
from safetensors.torch import load_file, save_file
from sqlalchemy.engine import Engine

from worker.jobs import queue

TINY = Path(__file__).parents[1] / "data" / "tsr-tiny"


@pytest.fixture
def weights(tmp_path: Path, u2netp: Path) -> Path:
    """A weights folder with the tiny checkpoint in TripoSR's place."""
    folder = tmp_path / "weights"
    shutil.copytree(TINY, folder / "triposr")
    # Its field is noise, whose surface has 600,000 triangles; weaker scene codes make it a shape of 40,000.
    tensors = load_file(folder / "triposr" / "model.safetensors")
    tensors["post_processor.upsample.weight"] *= 0.3
    save_file(tensors, folder / "triposr" / "model.safetensors")
    shutil.copytree(u2netp / "models" / "u2netp", folder / "models" / "u2netp")
    return folder


def test_rows_become_models_in_one_child_that_does_not_grow(
    start_daemon: StartDaemon, engine: Engine, photos: Callable[[str, bytes], str], mug: bytes, weights: Path
) -> None:
    daemon = start_daemon(real_models=True, WORKER_ENGINE="triposr", WORKER_WEIGHTS_DIR=str(weights))
    url = photos("mug.png", mug)
    peaks = []
    for n in range(3):
        job = queue.enqueue(
            engine, shop="a", product_id=str(n), image_urls=[url], quality="fast", refresh=True
        )
        until(lambda job=job: queue.get_jobs(engine, [job])[0]["completed_at"], 120)  # type: ignore[misc]
        row = queue.get_jobs(engine, [job])[0]
        assert row["status"] == "completed", row["error_message"]
        child = daemon.events("child_ready")[0]["pid"]
        # The peak: how much of its memory the allocator gives back after a job differs from job to job.
        peaks.append(int(Path(f"/proc/{child}/status").read_text().split("VmHWM:")[1].split()[0]))
    assert len(daemon.events("child_ready")) == 1
    assert peaks[2] < 1.05 * peaks[1], "the first jobs warm up, the next must not add to it"

    report = row["report"]
    assert (report["engine"], report["device"], report["precision"], report["preset"]) == (
        "triposr",
        "cpu",
        "float32",
        "fast",
    )
    assert len(report["weights_sha256"]) == 64
    assert report["surface"]["queries"] > 0
    assert report["peak_rss_mb"] > 0
    assert {"download", "cutout", "generate", "finish", "poster", "upload"} <= set(report["seconds"])
    until((daemon.files / "a" / "2.glb").exists)
    model = trimesh.load(daemon.files / "a" / "2.glb", force="mesh")
    assert isinstance(model, trimesh.Trimesh)
    model.merge_vertices(merge_tex=True, merge_norm=True)
    assert model.is_watertight == report["model"]["watertight"]


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.ckpt").unlink()


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run!",)


def pickled_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"decoder": Code()}, folder / "model.ckpt")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (no_weights, "neither model.safetensors nor model.ckpt"),
        (pickled_code, "model.ckpt"),
    ],
)
def test_weights_that_cannot_be_used_end_the_start_with_one_line(
    start_daemon: StartDaemon, weights: Path, damage: Callable[[Path], None], says: str
) -> None:
    """`tests/tsr/test_checkpoint.py` has every damage."""
    damage(weights / "triposr")
    daemon = start_daemon(
        ready=False, real_models=True, WORKER_ENGINE="triposr", WORKER_WEIGHTS_DIR=str(weights)
    )
    assert daemon.process.wait(60) == 78
    log = daemon.log.read_text()
    assert "Traceback" not in log
    assert "run!" not in log
    assert log.splitlines()[-1].startswith("error: ")
    assert says in log.splitlines()[-1]
