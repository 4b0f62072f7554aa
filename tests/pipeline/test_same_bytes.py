"""The same job gives the same bytes, wherever and whenever it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fitted_checkpoint
import pytest

from worker.local import samples

pytestmark = pytest.mark.integration  # two processes that each make a whole model

MAKE = """
import hashlib, json, sys
from pathlib import Path
from worker import engines
from worker.pipeline import run as pipeline
from worker.pipeline.address import Policy
from worker.pipeline.cutout import Cutter

name, models, background, folder, *photos = sys.argv[1:]
pipeline.download = lambda url, file, *_, **__: file.write_bytes(Path(url).read_bytes())
request = pipeline.Request(
    image_urls=photos, quality="fast", folder=Path(folder), policy=Policy(hosts=(), http=False, loopback=False),
    turntable=name == "triposr", usdz=name == "triposr",
)
engine = engines.load(name, Path(models), "cpu")
pipeline.run(request, engine, Cutter("u2netp", Path(background)), {}, lambda _: None)
made = [path for path in Path(folder).iterdir() if path.suffix]
print(json.dumps({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made}))
"""


def make(folder: Path, threads: int, engine: str, models: Path, background: Path) -> dict[str, str]:
    """Make a model in a process of its own. Return the hash of each file."""
    folder.mkdir()
    where = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": str(threads),
        "TZ": f"Etc/GMT+{threads}",
        "TMPDIR": str(folder),
    }
    photo = samples.path("robot.jpg")
    said = subprocess.run(
        [sys.executable, "-c", MAKE, engine, str(models), str(background), str(folder), str(photo)],
        env=os.environ | where,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    hashes: dict[str, str] = json.loads(said)
    return hashes


def test_threads_folders_times_and_the_order_of_sets_change_no_byte(tmp_path: Path, u2netp: Path) -> None:
    first, second = (make(tmp_path / f"in-{n}", n, "relief", u2netp, u2netp) for n in (1, 2))
    assert set(first) == {"model.glb", "poster.png", "cutout.png"}
    assert first == second


@pytest.mark.long
def test_neither_does_the_network_nor_the_turntable(tmp_path: Path, u2netp: Path) -> None:
    fitted_checkpoint.write(tmp_path / "triposr")
    first, second = (make(tmp_path / f"in-{n}", n, "triposr", tmp_path, u2netp) for n in (1, 2))
    assert set(first) == {"model.glb", "model.usdz", "poster.png", "cutout.png", "turntable.webp"}
    assert first == second
