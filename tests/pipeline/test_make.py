"""A poor model is made once more from another photo, and the better one is kept."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worker.core.errors import JobError
from worker.core.stages import Stage
from worker.engines.presets import PRESETS, Preset
from worker.engines.relief import Relief
from worker.engines.surface import PosedView, Surface, View
from worker.pipeline.choose import PhotoScore
from worker.pipeline.make import Made, Task, make, make_better
from worker.pipeline.photo import Photo, ScoredView

pytestmark = pytest.mark.integration  # seconds of computing: whole models

TINY = replace(PRESETS["fast"], grid=48, triangles=800, texture=256)


def drawn(hue: int) -> View:
    """A bottle whose neck is on the left, so that its mirror image is another thing."""
    view = np.zeros((512, 512, 4), np.uint8)
    view[200:470, 130:380] = (hue, 90, 60, 255)
    view[40:200, 150:220] = (60, 90, hue, 255)
    return view


class Engine:
    """Relief, which takes some photos for their mirror images, and of others makes nothing."""

    name = "test"
    version = "1"
    details: Mapping[str, Any] = {}

    def __init__(self, *, mirrors: Sequence[View] = (), refuses: Sequence[View] = ()) -> None:
        self.mirrors, self.refuses = mirrors, refuses

    def reconstruct(self, views: Sequence[PosedView], preset: Preset) -> Surface:
        view = views[0].view
        if any(view is other for other in self.refuses):
            raise JobError("no_surface")
        surface = Relief().reconstruct(views, preset)
        if not any(view is other for other in self.mirrors):
            return surface
        mirrored = surface.vertices * np.array([-1, 1, 1], np.float32)
        return replace(surface, vertices=mirrored, faces=surface.faces[:, ::-1].copy())


def photo(n: int, view: View, total: float) -> Photo:
    return Photo(
        f"https://a/{n}", Path(f"photo-{n}"), scored=ScoredView(view, PhotoScore(1.0, total, 1.0, 1.0))
    )


def task(engine: Engine, *photos: Photo) -> Task:
    return Task(
        engine=engine,
        preset=TINY,
        photos=photos,
        name="mug",
        made_by={},
        dimensions=None,
        review_score=101,  # every model is poor
        deadline=math.inf,
    )


GOOD, BAD = drawn(200), drawn(120)
PHOTOS = photo(0, BAD, 1.0), photo(1, GOOD, 0.9), Photo("https://a/2", Path("x"), error=JobError("no_object"))


def tried(what: Task, folder: Path, report: dict[str, Any]) -> tuple[Made, Made]:
    stages: list[Stage] = []
    first = make(what, {0: "front"}, folder, report, stages.append)
    assert stages == [Stage.SURFACE, Stage.TEXTURED]
    return first, make_better(what, first, folder, report, seconds=1)


def test_the_second_model_is_kept_if_it_is_better(tmp_path: Path) -> None:
    report: dict[str, Any] = {}
    first, kept = tried(task(Engine(mirrors=[BAD]), *PHOTOS), tmp_path, report)
    assert kept is not first
    assert kept.roles == {1: "front"}
    assert [entry["photo"] for entry in report["tried"]] == [0, 1]
    assert report["tried"][0]["score"] < report["tried"][1]["score"] == report["quality"]["score"]
    assert report["model"]["glb_bytes"] == (tmp_path / "model.glb").stat().st_size
    assert np.array_equal(np.asarray(Image.open(tmp_path / "cutout.png")), GOOD)
    assert first.quality
    assert set(report["seconds"]) == {"generate", "finish", "poster", "quality"}, "of both, added up"


def test_the_first_model_is_kept_if_the_second_is_not_better_or_cannot_be_made(tmp_path: Path) -> None:
    for n, engine in enumerate(
        (Engine(mirrors=[BAD, GOOD]), Engine(mirrors=[BAD], refuses=[GOOD])),
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        report: dict[str, Any] = {}
        first, kept = tried(task(engine, *PHOTOS), folder, report)
        assert kept is first
        assert len(report["tried"]) == 2
        assert report["quality"]["score"] == report["tried"][0]["score"]
        assert np.array_equal(np.asarray(Image.open(folder / "cutout.png")), BAD)
    assert report["tried"][1] == {"photo": 1, "error_code": "no_surface"}


def test_there_is_no_second_try_without_a_reason_a_photo_or_time(tmp_path: Path) -> None:
    poor = task(Engine(mirrors=[BAD]), *PHOTOS)
    report: dict[str, Any] = {}
    first = make(poor, {0: "front"}, tmp_path, report, lambda _: None)
    for what in (
        replace(poor, review_score=0),
        replace(poor, photos=[PHOTOS[0], photo(1, GOOD, 0.4), PHOTOS[2]]),
        replace(poor, photos=PHOTOS[:1]),
        replace(poor, deadline=time.monotonic() + 1.4),
    ):
        assert make_better(what, first, tmp_path, report, seconds=1) is first
    assert "tried" not in report
