import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from worker.engines.presets import PRESETS
from worker.engines.relief import Relief
from worker.engines.surface import AZIMUTHS, PosedView, Role, SourceView, View
from worker.local import samples
from worker.mesh.render import Scene
from worker.pipeline.choose import score_photo
from worker.pipeline.cutout import Cutout, Cutter
from worker.pipeline.decode import decode_in_subprocess
from worker.pipeline.finish import Model, finish
from worker.pipeline.frame import frame
from worker.pipeline.photo import ScoredView
from worker.pipeline.quality import Figures, Outline, assess, rate, score
from worker.pipeline.roundness import SIGNS, Signs, chance, evenness, level_base, middle, shading
from worker.pipeline.sharpness import blur
from worker.pipeline.similarity import Similarity, compare
from worker.pipeline.single_view import boxiness, opening, rims

pytestmark = pytest.mark.integration  # seconds of computing: whole models

DATA = Path(__file__).parents[1] / "data" / "products"
SMALL = replace(PRESETS["fast"], grid=72, triangles=3000, texture=512)
REVIEW_SCORE = 50  # the default of WORKER_REVIEW_SCORE
PREVIEW = "This is a preview: what the photos do not show is invented."
ROUND = Signs(
    boxiness=0.0,
    shading=0.9,
    evenness=0.1,
    base=1.0,
    middle=0.55,
    rims=0.0,
    turned=True,
    depth=-1.2,
    width=-0.7,
)
GOOD = Figures(
    front=Similarity(0.98, 2.0, 0.8),
    size=1.0,
    blur=0.2,
    whole=True,
    certainty=1.0,
    coverage=0.8,
    agreement=None,
    left_out=0,
    preview=False,
    outline=None,
    watertight=True,
)


class Judged(NamedTuple):
    """A model, and what its report needs."""

    report: dict[str, Any]
    model: Model
    scene: Scene
    photo: ScoredView


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


def judged(cutout: Cutout, folder: Path, *, preview: bool = False) -> Judged:
    """As if an engine that does not only preview had made it, if `preview` does not say otherwise."""
    view = frame(cutout.rgba)
    folder.mkdir(exist_ok=True)
    model = finish(Relief().reconstruct([PosedView("front", view)], SMALL), SMALL, folder, extras={})
    scene, photo = Scene(model.mesh), ScoredView(view, score_photo(cutout, view), cutout.warnings)
    return Judged(assess(model, scene, {"front": photo}, preview=preview), model, scene, photo)


def cut_out(image: Image.Image) -> Cutout:
    return Cutout(np.asarray(image), 1.0, ())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return judged(cut_out(product()), tmp_path_factory.mktemp("good"))


def test_a_good_photo_makes_a_good_score_and_only_what_it_does_not_show_is_said(good: Judged) -> None:
    report, model, *_ = good
    assert report["score"] > 80
    assert report["score"] == pytest.approx(100 * math.prod(report["parts"].values()), abs=0.5)
    assert report["silhouette_iou"] > 0.97
    assert report["delta_e"] < 3
    assert 0.2 < report["coverage"] < 0.5
    assert (report["cutout_certainty"], report["views_agreement"]) == (1, None)
    unseen = f"No photo shows {1 - report['coverage']:.0%} of the surface"
    assert [sentence.split(".")[0] for sentence in report["warnings"]] == [unseen]
    assert (report["triangles"], report["watertight"]) == (len(model.mesh.faces), True)
    assert 0.2 < report["texture_use"] < 1
    assert json.loads(json.dumps(report)) == report


def test_a_preview_is_never_without_a_warning_and_scores_lower(good: Judged) -> None:
    preview = assess(good.model, good.scene, {"front": good.photo}, preview=True)
    assert PREVIEW in preview["warnings"]
    assert preview["score"] < good.report["score"]


def test_a_preview_is_believed_more_with_a_photo_from_the_side_and_not_with_one_from_behind(
    good: Judged,
) -> None:
    front = good.model.source_views[0]
    sets: list[list[Role]] = [[], ["back"], ["left"]]
    alone, behind, beside = (
        assess(
            replace(good.model, source_views=[front, *(replace(front, role=role) for role in roles)]),
            good.scene,
            {"front": good.photo},
            preview=True,
        )["score"]
        for roles in sets
    )
    assert alone == behind < beside


def test_an_unsure_cut_out_lowers_the_score_and_is_said_once(good: Judged) -> None:
    said = "The cut-out is unsure: it is not clear whether 40% of it belongs to the product."
    unsure = ScoredView(good.photo.view, good.photo.score._replace(certainty=0.0), (said,))
    report = assess(good.model, good.scene, {"front": unsure, "back": unsure}, preview=False)
    assert report["cutout_certainty"] == 0
    assert report["warnings"].count(said) == 1
    assert report["score"] < REVIEW_SCORE < good.report["score"]


def test_photos_that_do_not_agree_lower_the_score(good: Judged) -> None:
    front = good.model.source_views[0]
    behind = replace(front.camera, azimuth=180.0)
    back = SourceView(role="back", view=good.scene.render_unlit(behind, 512), camera=behind)
    views = {"front": {"overlap": 0.98, "used": 0.4}, "back": {"overlap": 0.98, "used": 0.4}}
    report = {**good.model.report, "views": views, "coverage": 0.8}
    model = replace(good.model, source_views=[front, back], report=report)
    both: dict[Role, ScoredView] = {"front": good.photo, "back": good.photo}
    fitting = assess(model, good.scene, both, preview=False)
    assert fitting["views_agreement"] > 0.95
    assert fitting["score"] > 95
    assert fitting["warnings"] == []

    said = "The photos do not agree: the model does not look like each of them."
    other_colours = replace(back, view=np.ascontiguousarray(other(back.view, "other colours")))
    not_laid = {**report, "views": {**views, "back": {"overlap": 0.6, "used": 0.0}}}
    for wrong in (
        replace(model, source_views=[front, other_colours]),
        replace(model, source_views=[front], report=not_laid),
    ):
        assessed = assess(wrong, good.scene, both, preview=False)
        assert assessed["views_agreement"] < 0.4
        assert said in assessed["warnings"]
        assert assessed["score"] < 65


def test_more_photos_that_fit_raise_the_score_and_those_left_out_lower_it(good: Judged) -> None:
    """The photos beside the front are less detailed and less surely cut out than it, as real ones are."""
    front = good.model.source_views[0]
    less = ScoredView(good.photo.view, good.photo.score._replace(certainty=0.96))
    sets: list[tuple[Role, ...]] = [("front",), ("front", "back"), ("front", "left", "back")]
    sets.append(("front", "left", "back", "right"))
    scores = []
    for roles, coverage in zip(sets, (0.35, 0.63, 0.65, 0.7), strict=True):
        cameras = {role: replace(front.camera, azimuth=AZIMUTHS[role]) for role in roles}
        seen = {role: good.scene.render_unlit(camera, 512) for role, camera in cameras.items()}
        sharper = {role: sharpened(view) if role != "front" else front.view for role, view in seen.items()}
        views = {role: {"overlap": 0.98, "used": 0.3 if role in {"front", "back"} else 0.1} for role in roles}
        model = replace(
            good.model,
            source_views=[SourceView(role=role, view=sharper[role], camera=cameras[role]) for role in roles],
            report={**good.model.report, "views": views, "coverage": coverage},
        )
        photos = {role: good.photo if role == "front" else less for role in roles}
        report = assess(model, good.scene, photos, preview=True)
        scores.append(report["score"])
        assert assess(model, good.scene, photos, preview=True, left_out=1)["score"] < report["score"]
    assert report["detail"] < 0.9
    assert scores == sorted(scores)


def sharpened(view: View) -> View:
    """As a photo that has finer structure than the model."""
    image = Image.fromarray(view)
    sharp = image.filter(ImageFilter.UnsharpMask(3, 150, 0))
    sharp.putalpha(image.getchannel("A"))
    return np.asarray(sharp)


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
    good: Judged, what: str, most: float, warning: str
) -> None:
    report, model, scene, photo = good
    if what == "blurred texture":
        texture = np.asarray(Image.fromarray(model.mesh.texture).filter(ImageFilter.GaussianBlur(14)))
        soft = replace(model, mesh=replace(model.mesh, texture=texture))
        assessed = assess(soft, Scene(soft.mesh), {"front": photo}, preview=False)
    else:
        front = replace(
            model.source_views[0], view=np.ascontiguousarray(other(model.source_views[0].view, what))
        )
        assessed = assess(replace(model, source_views=[front]), scene, {"front": photo}, preview=False)
    assert assessed["score"] < most
    assert assessed["score"] < report["score"]
    # Where the outlines have little in common, finishing itself says so.
    if assessed["silhouette_iou"] > 0.75:
        assert any(warning in sentence for sentence in assessed["warnings"]), assessed


def test_a_bad_photo_is_named_and_lowers_the_score(good: Judged, tmp_path: Path) -> None:
    cases = {
        "touches the photo's edge": product(shift=-0.3),
        "blurred": blurred(product(), 9),
        "Small photo": product(side=240),
    }
    for number, (sentence, image) in enumerate(cases.items()):
        report = judged(cut_out(image), tmp_path / str(number)).report
        assert any(sentence in warning for warning in report["warnings"]), (sentence, report)
        assert report["score"] < good.report["score"], sentence
    assert report["photo_px"] == pytest.approx(189, abs=3)  # of the last one
    assert any(f"the product is {report['photo_px']} px long" in warning for warning in report["warnings"])


def test_what_is_wrong_with_the_mesh_is_said(good: Judged) -> None:
    report, model, scene, photo = good
    thin = replace(
        model,
        mesh=replace(
            model.mesh,
            positions=model.mesh.positions * np.array([1, 1, 0.1], np.float32),
            watertight=False,
        ),
        report={**model.report, "components_dropped": 12, "warnings": ["The dimensions make no sense."]}
        | {"coverage": 0.7},
    )
    assessed = assess(thin, scene, {"front": photo}, preview=False)
    assert assessed["warnings"] == [
        "The dimensions make no sense.",
        "The model is very flat.",
        "12 loose pieces were removed.",
    ]
    assert assessed["score"] < report["score"]
    assert assessed["components_dropped"] == 12


def of(**changed: Any) -> float:
    return score(rate(GOOD._replace(**changed)))


def doubted(**signs: Any) -> float:
    even: dict[str, Any] = {name: sign.even for name, sign in SIGNS.items()}
    return of(preview=True, outline=Outline(Signs(**(even | signs)), 0.0))


def test_the_score_rises_with_each_of_its_parts_and_lies_between_0_and_100() -> None:
    assert of() == 100
    assert of(front=Similarity(0, 100, 0), blur=1.0, size=0.0, whole=False, certainty=0.0, coverage=0.0) == 0
    steps = np.linspace(0, 1, 21)
    front = GOOD.front
    rising = [
        [of(front=front._replace(overlap=v)) for v in steps],
        [of(front=front._replace(difference=50 * (1 - v))) for v in steps],
        [of(front=front._replace(detail=v)) for v in steps],
        [of(size=v) for v in steps],
        [of(blur=1 - v) for v in steps],
        [of(certainty=v) for v in steps],
        [of(coverage=v) for v in steps],
        [of(agreement=v) for v in steps],
        [of(left_out=n) for n in (3, 2, 1, 0)],
        [doubted(boxiness=2 - 2 * v) for v in steps],
        [doubted(shading=v) for v in steps],
        [doubted(evenness=1 - v) for v in steps],
        [doubted(base=v) for v in steps],
        [doubted(middle=v) for v in steps],
        [doubted(rims=1 - v) for v in steps],
        [doubted(turned=turned) for turned in (False, True)],
        [doubted(depth=-v) for v in steps],
        [doubted(width=1 - 2 * v) for v in steps],
        [of(preview=True, outline=Outline(ROUND, 1 - v)) for v in steps],
        [of(preview=True, outline=Outline(ROUND, 0.0)), of(preview=True), of()],
        [of(whole=whole) for whole in (False, True)],
        [of(watertight=closed) for closed in (False, True)],
    ]
    for values in rising:
        assert (np.diff(values) >= 0).all()
        assert values[0] < values[-1]


def test_every_part_that_lowers_the_score_much_is_said() -> None:
    cases: list[dict[str, Any]] = [
        {"front": GOOD.front._replace(overlap=0.8)},
        {"front": GOOD.front._replace(difference=15.0)},
        {"front": GOOD.front._replace(detail=0.2)},
        {"size": 0.2},
        {"blur": 0.9},
        {"coverage": 0.1},
        {"agreement": 0.3},
        {"preview": True, "outline": Outline(ROUND._replace(boxiness=2.0, shading=0.2), 0.0)},
        {"preview": True, "outline": Outline(ROUND, 0.5)},
        {"whole": False},
    ]
    for changed in cases:
        assert of(**changed) < 85, changed
        assert [part.warning for part in rate(GOOD._replace(**changed)) if part.bad], changed
    assert not [part.warning for part in rate(GOOD) if part.bad]


def test_blur_that_is_not_said_costs_nothing_and_an_unsure_cut_out_always_reaches_review() -> None:
    assert of(blur=0.6) == 100
    assert of(certainty=0.0) < REVIEW_SCORE
    preview: dict[str, Any] = {"preview": True, "outline": Outline(ROUND, 0.0)}
    assert (
        of(**preview, certainty=0.25) < REVIEW_SCORE < of(**preview)
    )  # 0.25 where the photo shows several products


def test_blur_is_seen_at_every_strength_and_shading_is_none() -> None:
    seen = [blur(frame(np.asarray(blurred(product(), pixels)))) for pixels in (0.01, 2, 4, 8)]
    assert seen == sorted(seen)
    assert seen[0] < 0.3
    assert seen[-1] > 0.75
    plain = np.zeros((512, 512, 4), np.uint8)
    plain[100:400, 100:400] = 255
    plain[100:400, 100:400, :3] = np.linspace(60, 200, 300).astype(np.uint8)[:, None, None]
    assert blur(plain) == 0


def stool(softness: float) -> Image.Image:
    """Plain wood: its only edges inside are the rounded ones of the seat, and where the legs begin."""
    wood = np.array([236, 196, 150], np.float32)
    light = np.ones((512, 512), np.float32)
    light[200:240] = np.linspace(1, 0.82, 40)[:, None]  # the seat falls away
    light[240:256] = np.linspace(0.82, 0.55, 16)[:, None]  # its rounded front edge
    alpha = np.zeros((512, 512), np.uint8)
    alpha[150:256, 60:452] = 255
    for left in (80, 392):
        alpha[256:470, left : left + 40] = 255
        light[256:470, left : left + 40] = 0.6 + 0.4 * np.sin(np.linspace(0.2, 2.6, 40))[None, :]
    photo = Image.fromarray(np.clip(wood * light[..., None], 0, 255).astype(np.uint8))
    image = photo.filter(ImageFilter.GaussianBlur(softness)) if softness else photo
    image.putalpha(Image.fromarray(alpha))
    return image


def test_sharp_plain_wood_is_not_blurred() -> None:
    """Its few edges are soft in a sharp photo too. A chair of ours had the warning; a blurred label still has it."""
    chair = np.asarray(Image.open(DATA / "chair-thin.png").convert("RGB"))
    away = np.abs(chair.astype(int) - chair[0, 0]).max(axis=2)
    alpha = np.where(away > 40, 255, 0).astype(np.uint8)  # its shadow goes with the background
    for sharp in (np.asarray(stool(0)), np.dstack([chair, alpha])):
        assert not said_blurred(sharp)
    assert said_blurred(np.asarray(blurred(product(), 4)))


def said_blurred(rgba: NDArray[np.uint8]) -> bool:
    parts = rate(GOOD._replace(blur=blur(frame(rgba))))
    return any(part.bad and part.warning == "The photo is blurred." for part in parts)


def crate(angle: float = 0.0) -> Image.Image:
    """A wooden crate seen at a corner and a little from above."""
    image = Image.new("RGBA", (800, 800), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    top, near = (400, 130), (400, 700)
    left, right, middle = (120, 230), (680, 230), (400, 360)
    faces = {
        (left, middle, near, (120, 540)): (150, 100, 60, 255),
        (middle, right, (680, 540), near): (115, 75, 45, 255),
        (top, right, middle, left): (190, 140, 90, 255),
    }
    for (a, b, c, d), colour in faces.items():
        draw.polygon((a, b, c, d), fill=colour)
        for part in (0.25, 0.5, 0.75):
            ends = [(p[0] + part * (q[0] - p[0]), p[1] + part * (q[1] - p[1])) for p, q in ((a, d), (b, c))]
            draw.line(ends, fill=(60, 40, 25, 255), width=6)
    return image.rotate(angle, Image.Resampling.BICUBIC)


def label(*, lit: bool) -> Image.Image:
    """A can with a label; or, without light and shade, a book of the same outline that is seen straight on."""
    across = np.linspace(-1, 1, 360, dtype=np.float32)
    light = (
        np.clip(0.8 * np.sqrt(1 - across**2) - 0.4 * across, 0.25, 1) if lit else np.full_like(across, 0.8)
    )
    paint = np.full((560, 360, 3), (200, 190, 180), np.float32)
    paint[90:470] = (190, 50, 60)
    paint[200:340, 110:250] = (240, 230, 200)
    image = Image.new("RGBA", (800, 800), (0, 0, 0, 0))
    image.paste(Image.fromarray((paint * light[:, None]).astype(np.uint8)), (220, 120))
    return image


def pear() -> Image.Image:
    """A round thing with a bright side and a spot."""
    y, x = np.mgrid[:800, :800].astype(np.float32)
    inside = ((x - 400) ** 2 + (y - 500) ** 2 < 220**2) | ((x - 400) ** 2 + (y - 270) ** 2 < 130**2)
    alpha = Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).filter(ImageFilter.GaussianBlur(12))
    light = 1 - ((x - 330) ** 2 + (y - 430) ** 2) / 500**2
    photo = Image.fromarray((np.clip(light, 0.2, 1)[..., None] * (200, 210, 90)).astype(np.uint8))
    ImageDraw.Draw(photo).ellipse((430, 520, 500, 580), fill=(150, 90, 60))
    photo.putalpha(alpha.point(lambda a: 255 if a > 127 else 0))
    return photo


def test_boxes_are_told_from_round_things_whatever_their_size_and_place() -> None:
    def of_image(image: Image.Image) -> float:
        return boxiness(frame(np.asarray(image)))

    assert of_image(crate()) > 1.2
    assert of_image(crate(angle=15)) > 1.2
    assert of_image(crate().resize((400, 400), Image.Resampling.LANCZOS)) > 1.2
    assert of_image(pear()) < 0.3
    assert of_image(pear().rotate(70)) < 0.3
    assert boxiness(np.zeros((512, 512, 4), np.uint8)) == 0


def ball(*, lit: bool) -> tuple[View, NDArray[np.float32]]:
    """A ball with a stripe of another colour, or the flat disc of the same outline; and the normals of the ball."""
    y, x = (np.mgrid[:512, :512].astype(np.float32) - 255.5) / 200
    inside = x * x + y * y < 1
    z = np.sqrt(np.maximum(1 - x * x - y * y, 0))
    light = 0.45 + 0.5 * np.clip(0.6 * z - 0.5 * x - 0.6 * y, 0, 1) if lit else np.full_like(x, 0.7)
    paint = np.where((np.abs(y) < 0.3)[..., None], (210, 60, 50), (230, 220, 210))
    noise = np.random.default_rng(1).normal(0, 3, (512, 512, 1))
    photo = np.clip(light[..., None] * paint + noise, 0, 255) * inside[..., None]
    normals = np.stack([x, -y, z], axis=2) * inside[..., None]
    return np.dstack([photo, 255 * inside]).astype(np.uint8), normals[::4, ::4].astype(np.float32)


def test_light_tells_a_round_thing_from_a_flat_one_whatever_is_printed_on_it() -> None:
    assert shading(*ball(lit=True)) > 0.8
    assert shading(*ball(lit=False)) < 0.1
    view, normals = ball(lit=True)
    assert shading(np.zeros_like(view), normals) == shading(view, np.zeros_like(normals)) == 0
    assert evenness(view) < 0.5 < evenness(ball(lit=False)[0])
    assert evenness(np.zeros_like(view)) == 0


def test_a_base_is_level_if_the_product_stands_on_it_and_is_seen_straight_on() -> None:
    solid = np.zeros((200, 200), bool)
    assert level_base(solid) == 0
    solid[20:180, 50:150] = True
    assert level_base(solid) == 1
    corner = np.asarray(crate())[..., 3] > 127
    assert level_base(corner) < 0.3


def test_the_middle_of_what_stands_lies_low_and_of_what_is_seen_from_above_half_way() -> None:
    y, x = np.mgrid[:200, :200]
    assert middle(np.abs(x - 100) < y / 2) == pytest.approx(2 / 3, abs=0.01)  # a cone
    assert middle((x - 100) ** 2 + (y - 90) ** 2 < 70**2) == pytest.approx(0.5, abs=0.01)
    assert middle(np.zeros((200, 200), bool)) == 0.5


def plate(edge: float) -> View:
    """A plate from above, whose rim begins at `edge` of its radius; at 0 it has none."""
    y, x = (np.mgrid[:512, :512].astype(np.float32) - 255.5) / 200
    radius = np.hypot(x, y / 0.7)
    light = np.where(radius < edge, 150, 220 - 20 * x)
    return np.dstack([light, light, light, 255 * (radius < 1)]).astype(np.uint8)


def test_an_edge_along_the_outline_is_a_rim_and_one_across_it_is_none() -> None:
    assert rims(plate(0.0)) == 0
    assert 2 < rims(plate(0.7)) < rims(plate(0.85)) < 4
    striped = ball(lit=True)[0]
    assert rims(striped) < 0.5  # its two edges are as long as the rim
    assert rims(np.zeros_like(striped)) == 0


def test_what_speaks_most_against_a_preview_is_said() -> None:
    worst: dict[str, Any] = {
        "boxiness": 2.0,
        "shading": 0.0,
        "evenness": 1.0,
        "base": 0.0,
        "middle": 0.3,
        "rims": 2.0,
        "depth": 0.0,
        "width": 1.0,
    }
    said = {chance(ROUND._replace(**{name: value}))[1] for name, value in worst.items()}
    assert said == {sign.warning for sign in SIGNS.values()} - {""}
    even: dict[str, Any] = {name: sign.even for name, sign in SIGNS.items()}
    assert chance(Signs(**even))[0] == 0.5


def test_openings_are_measured_by_their_part_of_the_outline() -> None:
    ring = Image.new("RGBA", (512, 512), (0, 0, 0, 0))
    ImageDraw.Draw(ring).ellipse((40, 40, 472, 472), outline=(200, 170, 60, 255), width=40)
    assert opening(np.asarray(ring)) == pytest.approx((176 / 216) ** 2, abs=0.01)
    assert opening(np.asarray(ring.crop((0, 0, 512, 256)))) == 0  # it ends at the photo's edge
    assert opening(frame(np.asarray(pear()))) == 0


# Our verdicts on the preview from one photo, seen at up to 35 degrees to each side: could a shop show it?
VERDICTS = {
    samples.path("vase.png"): True,
    samples.path("duck.jpg"): True,
    DATA / "chair-thin.png": False,  # flat, its legs in one plane
    DATA / "ring-gold.png": False,  # the stone is a bulge of the ring, and its hole is half closed
}


def test_the_score_of_a_preview_agrees_with_our_judgement(u2netp: Path, tmp_path: Path) -> None:
    cutter = Cutter("u2netp", u2netp)
    cutouts = {path.stem: (cutter.cut(decode_in_subprocess(path)), yes) for path, yes in VERDICTS.items()}
    drawn = {"crate": (crate(), False), "book": (label(lit=False), False), "can": (label(lit=True), True)}
    cutouts |= {name: (cut_out(image), yes) for name, (image, yes) in drawn.items()}
    scores = {
        name: (judged(cutout, tmp_path / name, preview=True).report["score"], yes)
        for name, (cutout, yes) in cutouts.items()
    }
    assert all((score >= REVIEW_SCORE) == yes for score, yes in scores.values()), scores


def test_pictures_without_anything_in_common_are_compared_all_the_same() -> None:
    none = np.zeros((64, 64, 4), np.uint8)
    half = none.copy()
    half[:32] = 255
    assert compare(none, none) == Similarity(0, 100, 0)
    assert compare(half, half[::-1]) == Similarity(0, 100, 0)
    assert compare(half, half) == Similarity(1, 0, 1)
