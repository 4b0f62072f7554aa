"""The whole demo, as `make demo` runs it, by a worker that is installed in a private folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image, ImageDraw
from places import private_python

pytestmark = pytest.mark.system


def overlap(model: trimesh.Trimesh, cutout: Path) -> float:
    """IoU of the model's outline from the front and the cut-out's, each filling its box: the photos are not the ones
    that the engine was made with. Drawn triangle by triangle, by none of our own code.
    """
    flat = model.vertices[:, :2] * (1, -1)
    flat = (flat - flat.min(axis=0)) / np.ptp(flat, axis=0).max() * 400
    drawn = Image.new("L", (401, 401))
    draw = ImageDraw.Draw(drawn)
    for corner in flat[model.faces]:
        draw.polygon([tuple(point) for point in corner], fill=255)
    with Image.open(cutout) as image:
        alpha = image.getchannel("A").point(lambda value: 255 * (value > 127))
    photo = alpha.crop(alpha.getbbox())
    shape = drawn.crop(drawn.getbbox())
    first, second = (np.asarray(picture.resize((400, 400))) > 127 for picture in (photo, shape))
    return float((first & second).sum() / (first | second).sum())


def test_the_demo_makes_what_it_promises(tmp_path: Path, u2netp: Path) -> None:
    results = tmp_path / "results"
    run = subprocess.run(
        [private_python(tmp_path / "privé [商店]"), "-m", "worker", "demo", "--results", results],
        env=os.environ | {"WORKER_WEIGHTS_DIR": str(u2netp)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "5 models and 1 job that failed as it should" in run.stderr
    page = (results / "index.html").read_text()
    # From several photos, which show a product in perspective, the shape is a compromise between their outlines.
    least = {"duck": 0.9, "robot": 0.9, "duck-preview": 0.95, "vase": 0.95, "coffee": 0.95}
    for product, alike in least.items():
        model = trimesh.load(results / f"{product}.glb", force="mesh")
        assert isinstance(model, trimesh.Trimesh)
        model.merge_vertices(merge_tex=True, merge_norm=True)
        assert model.is_watertight, product
        assert overlap(model, results / f"{product}.cutout.png") > alike, product
        assert (results / f"{product}.png").exists()
        assert f"{product}.glb" in page
    assert "photo_not_an_image" in page
    captions = re.findall(r"<figcaption><b>Photo \d</b> (\w+)", page)
    assert captions == ["front", "left", "back", "right", "refused", "front", "left"]
    steps = re.findall(r"</svg>(\w+) <span", page)
    assert steps[:7] == ["download", "cutout", "generate", "finish", "poster", "quality", "upload"]
    events = [
        json.loads(line) for line in (results / "daemon.log").read_text().splitlines() if line.startswith("{")
    ]
    assert len([event for event in events if event["event"] == "job_completed"]) == 5


def test_an_engine_that_is_not_there_is_no_success(tmp_path: Path, u2netp: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "worker", "demo", "--results", tmp_path, "--engine", "no-such"],
        env=os.environ | {"WORKER_WEIGHTS_DIR": str(u2netp)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "'no-such' is not one of 'triposr'" in run.stderr
