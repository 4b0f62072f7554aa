import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from worker.engines.presets import PRESETS
from worker.engines.relief import Relief
from worker.engines.surface import PosedView, View
from worker.mesh.render import Scene
from worker.pipeline.choose import PhotoScore, score_photo
from worker.pipeline.cutout import Cutout
from worker.pipeline.finish import Model, finish
from worker.pipeline.frame import frame
from worker.pipeline.quality import PhotoQuality, Similarity, assess, blur, compare, score

pytestmark = pytest.mark.integration  # seconds of computing: whole models

SIMILAR = Similarity(0.98, 2.0, 0.8)
SMALL = replace(PRESETS["fast"], grid=72, triangles=3000, texture=512)
PLAIN_PHOTO = PhotoQuality(1.0, 0.3, whole=True)


def product(side: int = 800, shift: float = 0.0) -> Image.Image:
    """A jug with a label, its handle on the right: nothing about it is symmetric. On transparency."""
    image = Image.new("RGBA", (800, 800), (120, 130, 140, 0))
    draw = ImageDraw.Draw(image)
    x = int(shift * 800)
    draw.ellipse((430 + x, 250, 700 + x, 560), outline=(150, 60, 40, 255), width=50)
    draw.rounded_rectangle((160 + x, 90, 520 + x, 720), 80, fill=(200, 80, 50, 255))
    draw.rectangle((210 + x, 300, 430 + x, 520), fill=(235, 225, 200, 255))
    for n, width in enumerate((180, 120, 160, 90)):
        draw.rectangle((225 + x, 325 + 45 * n, 225 + width + x, 343 + 45 * n), fill=(40, 50, 90, 255))
    return image.resize((side, side), Image.Resampling.LANCZOS)


def blurred(image: Image.Image, pixels: float) -> Image.Image:
    """As a photo out of focus, cut out well: the colours run, the outline stays."""
    solid = image.copy()
    solid.paste((200, 80, 50, 255), mask=Image.eval(image.getchannel("A"), lambda a: 255 - a))
    soft = solid.filter(ImageFilter.GaussianBlur(pixels))
    soft.putalpha(image.getchannel("A"))
    return soft


def judged(image: Image.Image, folder: Path) -> tuple[dict[str, Any], Model, Scene, PhotoScore]:
    rgba = np.asarray(image)
    view = frame(rgba)
    folder.mkdir(exist_ok=True)
    model = finish(Relief().reconstruct([PosedView("front", view)], SMALL), SMALL, folder, extras={})
    scene, worth = Scene(model.mesh), score_photo(Cutout(rgba, 1.0, ()), view)
    assert model.source_views
    return assess(model, model.source_views[0], scene, worth), model, scene, worth


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Model, Scene, PhotoScore]:
    return judged(product(), tmp_path_factory.mktemp("good"))


def test_a_good_photo_makes_a_good_score_and_no_warning(
    good: tuple[dict[str, Any], Model, Scene, PhotoScore],
) -> None:
    report, model, _, _ = good
    assert report["score"] > 90
    assert report["silhouette_iou"] > 0.97
    assert report["delta_e"] < 3
    assert report["warnings"] == []
    assert (report["triangles"], report["watertight"]) == (len(model.mesh.faces), True)
    assert 0.2 < report["texture_use"] < 1
    assert json.loads(json.dumps(report)) == report


def other(view: View, what: str) -> NDArray[np.uint8]:
    if what == "mirrored":
        return view[:, ::-1]
    if what == "other colours":
        return view[..., [2, 0, 1, 3]]
    if what == "other product":
        wrong = np.zeros_like(view)
        wrong[100:180, 60:450] = (90, 90, 90, 255)
        return wrong
    image = Image.fromarray(view)
    return np.asarray(blurred(image, 9))


@pytest.mark.parametrize(
    ("what", "most", "warning"),
    [
        ("mirrored", 30, "outline"),
        ("other colours", 40, "colours"),
        ("other product", 5, "outline"),
        ("blurred texture", 55, "details"),
    ],
)
def test_a_model_that_does_not_look_like_its_photo_scores_low(
    good: tuple[dict[str, Any], Model, Scene, PhotoScore], what: str, most: float, warning: str
) -> None:
    report, model, scene, worth = good
    assert model.source_views
    if what == "blurred texture":
        texture = np.asarray(Image.fromarray(model.mesh.texture).filter(ImageFilter.GaussianBlur(14)))
        soft = replace(model, mesh=replace(model.mesh, texture=texture))
        assessed = assess(soft, model.source_views[0], Scene(soft.mesh), worth)
    else:
        front = replace(
            model.source_views[0], view=np.ascontiguousarray(other(model.source_views[0].view, what))
        )
        assessed = assess(model, front, scene, worth)
    assert assessed["score"] < most
    assert assessed["score"] < report["score"]
    # Where the outlines have little in common, finishing itself says so.
    if assessed["silhouette_iou"] > 0.75:
        assert any(warning in sentence for sentence in assessed["warnings"]), assessed


def test_a_bad_photo_is_named_and_lowers_the_score(
    good: tuple[dict[str, Any], Model, Scene, PhotoScore], tmp_path: Path
) -> None:
    cases = {
        "touches the photo's edge": product(shift=-0.3),
        "blurred": blurred(product(), 9),
        "Small photo": product(side=240),
    }
    for number, (sentence, image) in enumerate(cases.items()):
        report, *_ = judged(image, tmp_path / str(number))
        assert any(sentence in warning for warning in report["warnings"]), (sentence, report)
        assert report["score"] < good[0]["score"], sentence
    assert report["photo_px"] == pytest.approx(189, abs=3)  # of the last one
    assert f"the product is {report['photo_px']} px long" in report["warnings"][0]


def test_what_is_wrong_with_the_mesh_is_said(good: tuple[dict[str, Any], Model, Scene, PhotoScore]) -> None:
    report, model, scene, worth = good
    assert model.source_views
    thin = replace(
        model,
        mesh=replace(
            model.mesh,
            positions=model.mesh.positions * np.array([1, 1, 0.1], np.float32),
            watertight=False,
        ),
        report={**model.report, "components_dropped": 12, "warnings": ["The dimensions make no sense."]},
    )
    assessed = assess(thin, model.source_views[0], scene, worth)
    assert assessed["warnings"] == [
        "The dimensions make no sense.",
        "The model is very flat.",
        "12 loose pieces were removed.",
    ]
    assert assessed["score"] < report["score"]
    assert assessed["components_dropped"] == 12


def test_the_score_rises_with_each_of_its_parts_and_lies_between_0_and_100() -> None:
    worst = score(Similarity(0, 100, 0), PhotoQuality(0, 1, whole=False), watertight=False)
    best = score(Similarity(1, 0, 1), PhotoQuality(1, 0, whole=True), watertight=True)
    assert (worst, best) == (0, 100)
    steps = np.linspace(0, 1, 21)
    rising = [
        [score(SIMILAR._replace(overlap=v), PLAIN_PHOTO, watertight=True) for v in steps],
        [score(SIMILAR._replace(difference=50 * (1 - v)), PLAIN_PHOTO, watertight=True) for v in steps],
        [score(SIMILAR._replace(detail=v), PLAIN_PHOTO, watertight=True) for v in steps],
        [score(SIMILAR, PLAIN_PHOTO._replace(side=v), watertight=True) for v in steps],
        [score(SIMILAR, PLAIN_PHOTO._replace(blur=1 - v), watertight=True) for v in steps],
        [score(SIMILAR, PLAIN_PHOTO._replace(whole=whole), watertight=True) for whole in (False, True)],
        [score(SIMILAR, PLAIN_PHOTO, watertight=closed) for closed in (False, True)],
    ]
    for values in rising:
        assert (np.diff(values) >= 0).all()
        assert values[0] < values[-1]


def test_blur_is_seen_at_every_strength_and_shading_is_none() -> None:
    seen = [blur(frame(np.asarray(blurred(product(), pixels)))) for pixels in (0.01, 2, 4, 8)]
    assert seen == sorted(seen)
    assert seen[0] < 0.5
    assert seen[-1] > 0.75
    plain = np.zeros((512, 512, 4), np.uint8)
    plain[100:400, 100:400] = 255
    plain[100:400, 100:400, :3] = np.linspace(60, 200, 300).astype(np.uint8)[:, None, None]
    assert blur(plain) == 0


def test_pictures_without_anything_in_common_are_compared_all_the_same() -> None:
    none = np.zeros((64, 64, 4), np.uint8)
    half = none.copy()
    half[:32] = 255
    assert compare(none, none) == Similarity(0, 100, 0)
    assert compare(half, half[::-1]) == Similarity(0, 100, 0)
    assert compare(half, half) == Similarity(1, 0, 1)
