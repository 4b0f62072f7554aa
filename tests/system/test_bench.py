"""`worker bench` on this host: a photo that becomes a model, and one that does not."""

import json
import os
import subprocess
import sys
from pathlib import Path


def bench(*arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "worker", "bench", "--quality", "fast", *arguments],
        env=os.environ | {"WORKER_BACKGROUND_MODEL": "u2netp", "WORKER_ENGINE": "relief"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_photos_go_through_this_hosts_own_engine(tmp_path: Path, u2netp: Path, mug: bytes) -> None:
    (tmp_path / "my mug.png").write_bytes(mug)
    (tmp_path / "note.jpg").write_bytes(b"no photo")
    done = bench(
        tmp_path / "my mug.png",
        tmp_path / "note.jpg",
        "--json",
        "--lanes=2",
        WORKER_WEIGHTS_DIR=str(u2netp),
        WORKER_TURNTABLE="false",
        CUDA_VISIBLE_DEVICES="",
        DATABASE_URL="postgresql://u:p@127.0.0.1:1/the-host-s-own",
        TMPDIR=str(tmp_path),
    )
    assert done.returncode == 1, done.stderr  # not all jobs were completed
    found = json.loads(done.stdout)
    assert (found["engine"], found["quality"], found["lanes"]) == ("relief", "fast", ["cpu.0", "cpu.1"])
    assert (found["jobs"], found["completed"], found["errors"]) == (2, 1, {"photo_not_an_image": 1})
    assert list(found["steps"]) == ["download", "cutout", "generate", "finish", "poster", "quality", "upload"]
    finish = found["steps"]["finish"]
    assert finish["wall_s"] > 0
    assert finish["cpu_s"] > 0
    steps = found["steps"].values()
    assert sum(step["wall_s"] for step in steps) <= found["job"]["wall_s"] + 0.01
    assert sum(step["cpu_s"] or 0 for step in steps) <= found["job"]["cpu_s"] + 0.01
    assert found["peak_memory_mb"] > 100
    assert abs(found["jobs_per_hour"] - 3600 / found["elapsed_s"]) < 0.01 * found["jobs_per_hour"]
    assert {path.name for path in tmp_path.iterdir()} == {"my mug.png", "note.jpg"}  # nothing is left


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    done = bench(WORKER_WEIGHTS_DIR=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (os.EX_CONFIG, "", 1)
    assert "worker weights fetch u2netp" in done.stderr
