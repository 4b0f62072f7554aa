"""A poor model is made once more from another photo, and the better one is kept."""

import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from worker.core.errors import JobError
from worker.core.stages import Stage
from worker.engines.presets import PRESETS, Preset
from worker.engines.surface import PosedView, SourceView, Surface, View
from worker.mesh.camera import Camera
from worker.pipeline.address import Policy
from worker.pipeline.choose import PhotoScore
from worker.pipeline.cutout import Cutter
from worker.pipeline.make import Made, Task, make, make_better
from worker.pipeline.photo import EXCLUDED, Photo, ScoredView
from worker.pipeline.roles import NO_FRONT
from worker.pipeline.run import Request, run

pytestmark = pytest.mark.integration  # seconds of computing: whole models

TINY = replace(PRESETS["fast"], name="small", triangles=800, texture=256)


def drawn(hue: int) -> View:
    """A bucket of two colours. It has a hole to hold it by, or it would be taken for a photo in a frame and be cut out."""
    view = np.zeros((512, 512, 4), np.uint8)
    row, column = np.mgrid[0:512, 0:512]
    inside = (row >= 38) & (row < 474) & (np.abs(column - 255.5) < 145 - row / 12)
    inside &= (np.abs(row - 85) > 25) | (np.abs(column - 255.5) > 60)
    view[inside] = (hue, 90, 60, 255)
    view[inside & (row < 200)] = (60, 90, hue, 255)
    return view


def alike(view: View, other: View) -> bool:
    return bool(np.abs(view[400, 256].astype(int) - other[400, 256]).max() < 10)


class Engine:
    """Makes a box that is right for some photos, too low for others, and none for the rest."""

    name = "test"
    version = "1"
    details: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, *, low: Sequence[View] = (), refuses: Sequence[View] = ()) -> None:
        self.low, self.refuses = low, refuses

    def reconstruct(self, views: Sequence[PosedView], _preset: Preset) -> Surface:
        view = views[0].view
        if any(alike(view, other) for other in self.refuses):
            raise JobError("no_surface")
        height = 0.8 if any(alike(view, other) for other in self.low) else 1.7
        box = trimesh.creation.box((0.98, height, 0.98))
        return Surface(
            vertices=np.asarray(box.vertices, np.float32),
            faces=np.asarray(box.faces, np.int32),
            color=lambda points: np.full((len(points), 3), 0.5, np.float32),
            source_views=[SourceView(role="front", view=view, camera=Camera(side=2.0))],
        )


def photo(n: int, view: View, total: float) -> Photo:
    return Photo(
        f"https://a/{n}", Path(f"photo-{n}"), scored=ScoredView(view, PhotoScore(1.0, total, 1.0, 1.0))
    )


def task(engine: Engine, *photos: Photo) -> Task:
    return Task(
        engine=engine,
        preset=TINY,
        photos=photos,
        dimensions=None,
        review_score=101,  # every model is poor
        deadline=math.inf,
    )


def png(view: View) -> bytes:
    file = io.BytesIO()
    Image.fromarray(view).save(file, "PNG")
    return file.getvalue()


GOOD, BAD = drawn(215), drawn(240)
PHOTOS = photo(0, BAD, 1.0), photo(1, GOOD, 0.9), Photo("https://a/2", Path("x"), error=JobError("no_object"))


def tried(what: Task, folder: Path, report: dict[str, Any]) -> tuple[Made, Made]:
    stages: list[Stage] = []
    first = make(what, {0: "front"}, folder, report, stages.append)
    assert stages == [Stage.SURFACE, Stage.TEXTURED]
    return first, make_better(what, first, folder, report, seconds=1)


def test_the_second_model_is_kept_if_it_is_better(tmp_path: Path) -> None:
    report: dict[str, Any] = {}
    first, kept = tried(task(Engine(low=[BAD]), *PHOTOS), tmp_path, report)
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
        (Engine(low=[GOOD]), Engine(low=[BAD], refuses=[GOOD])),
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
    poor = task(Engine(low=[BAD]), *PHOTOS)
    report: dict[str, Any] = {}
    first = make(poor, {0: "front"}, tmp_path, report, lambda _: None)
    for what in (
        replace(poor, review_score=0),
        replace(poor, photos=[PHOTOS[0], photo(1, GOOD, 0.2), PHOTOS[2]]),
        replace(poor, photos=PHOTOS[:1]),
        replace(poor, deadline=time.monotonic() + 1.4),
    ):
        assert make_better(what, first, tmp_path, report, seconds=1) is first
    assert "tried" not in report


def test_a_job_is_tried_once_more_only_if_its_row_states_no_front(
    photos: Callable[[str, bytes], str], u2netp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "fast", TINY)
    folder = tmp_path / "job"
    folder.mkdir()
    request = Request(
        image_urls=[photos("bad.png", png(BAD)), photos("good.png", png(GOOD))],
        quality="fast",
        folder=folder,
        policy=Policy(hosts=(), http=True, loopback=True),
        review_score=101,
        turntable=False,
    )
    report: dict[str, Any] = {}
    stages: list[Stage] = []
    run(request, Engine(low=[BAD]), Cutter("u2netp", u2netp), report, stages.append)
    assert [photo["view"] for photo in report["photos"]] == [None, "front"]
    assert [entry["photo"] for entry in report["tried"]] == [0, 1]
    assert stages == sorted(set(stages))
    assert json.loads(json.dumps(report))["preset"] == "small"
    assert "preset_reason" not in report
    assert alike(np.asarray(Image.open(folder / "cutout.png")), GOOD)

    # The photos are stated as sides of a front that is missing.
    report = {}
    back = replace(request, quality="auto", views={"left": 0, "back": 1}, folder=tmp_path / "back")
    back.folder.mkdir()
    monkeypatch.setitem(PRESETS, "quality", TINY)
    monkeypatch.setitem(PRESETS, "balanced", TINY)
    run(back, Engine(low=[BAD]), Cutter("u2netp", u2netp), report, lambda _: None)
    assert [photo["view"] for photo in report["photos"]] == [None, "front"]
    assert [photo.get("reason") for photo in report["photos"]] == [NO_FRONT, None]
    assert report["preset_reason"].endswith(" This is about photo 0 of image_urls, which was tried first.")

    # The URL of what is left out leads nowhere, so nobody asked for it.
    report = {}
    without = replace(
        request,
        image_urls=[request.image_urls[0] + "/nothing", *request.image_urls],
        excluded=[0],
        views={"front": 1, "back": 0},
        folder=tmp_path / "without",
    )
    without.folder.mkdir()
    run(without, Engine(), Cutter("u2netp", u2netp), report, lambda _: None)
    assert [photo["view"] for photo in report["photos"]] == [None, "front", None]
    assert report["photos"][0] | {"url": ""} == {
        "url": "",
        "status": "spare",
        "view": None,
        "reason": EXCLUDED,
    }
    assert "The photo of the back was left out on request." in report["quality"]["warnings"]

    report = {}
    again = replace(request, views={"front": 0}, folder=tmp_path / "again")
    again.folder.mkdir()
    run(again, Engine(low=[BAD]), Cutter("u2netp", u2netp), report, lambda _: None)
    assert "tried" not in report
    assert [photo["view"] for photo in report["photos"]] == ["front", None]
