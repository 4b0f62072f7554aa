import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import skimage
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from worker.core.errors import JobError
from worker.pipeline.backdrop import lost_outline
from worker.pipeline.cutout import Cutter, without_fringe
from worker.pipeline.decode import decode_in_subprocess
from worker.pipeline.frame import frame
from worker.pipeline.holes import close_holes, open_holes
from worker.pipeline.hues import add_colored
from worker.pipeline.light_parts import add_light_parts
from worker.pipeline.people import shows_face
from worker.weights import WeightsMissing

DATA = Path(__file__).parents[1] / "data" / "products"


@pytest.fixture(scope="module")
def cutter(u2netp: Path) -> Cutter:
    return Cutter("u2netp", u2netp)


def refusal(cutter: Cutter, image: Image.Image) -> str:
    with pytest.raises(JobError) as caught:
        cutter.cut(image)
    return caught.value.code


def iou(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return float((found & true).sum() / (found | true).sum())


@cache
def mug(size: int = 450) -> tuple[Image.Image, NDArray[np.bool_]]:
    """A blue mug with a handle on a light backdrop with a soft shadow: photo and true silhouette."""
    big = size * 2
    unit = big / 100

    def draw(image: Image.Image, *, body: str | int, hole: str | int) -> None:
        pen = ImageDraw.Draw(image)
        pen.ellipse([unit * c for c in (58, 36, 84, 66)], fill=body)  # handle
        pen.ellipse([unit * c for c in (64, 42, 78, 60)], fill=hole)
        pen.rectangle([unit * c for c in (26, 27, 68, 74)], fill=body)
        pen.ellipse([unit * c for c in (26, 66, 68, 82)], fill=body)
        pen.ellipse([unit * c for c in (26, 20, 68, 34)], fill=body)

    backdrop = np.linspace(246, 214, big)[:, None, None].repeat(big, 1).repeat(3, 2).astype(np.uint8)
    photo = Image.fromarray(backdrop)
    shadow = Image.new("L", photo.size, 0)
    ImageDraw.Draw(shadow).ellipse([unit * c for c in (24, 74, 84, 86)], fill=110)
    photo.paste("#707070", mask=shadow.filter(ImageFilter.GaussianBlur(unit * 2)))
    silhouette = Image.new("L", photo.size, 0)
    draw(silhouette, body=255, hole=0)

    colors = np.zeros((big, big, 3))
    light = np.cos((np.linspace(0, 100, big) - 40) / 32)[None, :, None].clip(0.25)
    colors[:] = light * (40, 90, 190)
    product = Image.fromarray(colors.clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(product).ellipse([unit * c for c in (28, 21.5, 66, 32.5)], fill="#16305f")
    photo.paste(product, mask=silhouette)
    small = (size, size)
    return photo.resize(small, Image.Resampling.LANCZOS), np.asarray(silhouette.resize(small)) > 127


def test_a_product_is_cut_out_of_its_backdrop(cutter: Cutter) -> None:
    photo, true = mug()
    rgba = cutter.cut(photo).rgba
    assert rgba.shape == (450, 450, 4)
    assert rgba.dtype == np.uint8
    assert iou(rgba[..., 3] > 127, true) > 0.95
    assert rgba[230, 320, 3] < 64  # one looks through the handle
    assert not rgba[rgba[..., 3] == 0].any()


def test_the_rim_has_the_colors_of_the_product_not_of_the_backdrop(cutter: Cutter) -> None:
    photo, _ = mug()
    rgba = cutter.cut(photo).rgba
    rim = (rgba[..., 3] > 20) & (rgba[..., 3] < 230)
    assert rim.sum() > 300
    bluish = rgba[rim][:, 2].astype(int) - rgba[rim][:, 0]
    assert (bluish > 15).mean() > 0.95  # the backdrop is gray: zero


def test_a_place_inside_of_the_product_keeps_its_colour_though_its_alpha_is_unsure() -> None:
    rgb, alpha = np.zeros((400, 400, 3), np.uint8), np.zeros((400, 400), np.float32)
    rgb[100:300, 100:300], alpha[100:300, 100:300] = (60, 120, 200), 1
    rgb[180:220, 180:220], alpha[180:220, 180:220] = (220, 60, 40), 0.8
    rgb[100:300, 298:300], alpha[100:300, 298:300] = 255, 0.6  # the backdrop shines through
    cleaned = without_fringe(rgb, alpha)
    assert (cleaned[200, 200] == (220, 60, 40)).all()
    assert (cleaned[200, 299] == (60, 120, 200)).all()


def test_a_product_that_is_small_in_its_photo_is_looked_at_closer(cutter: Cutter) -> None:
    photo, true = mug()
    scene = Image.fromarray(np.pad(np.asarray(photo), ((600, 150), (400, 350), (0, 0)), mode="edge"))
    silhouette = np.pad(true, ((600, 150), (400, 350)))
    assert iou(cutter.cut(scene).rgba[..., 3] > 127, silhouette) > 0.94


def test_the_cup_of_a_real_photo_is_found(cutter: Cutter) -> None:
    photo = decode_in_subprocess(Path(skimage.__file__).parent / "data" / "coffee.png")
    true = Image.new("L", photo.size)
    pen = ImageDraw.Draw(true)
    # Saucer, cup and spoon, measured on the photo.
    pen.ellipse((77, 66, 479, 390), fill=255)
    pen.ellipse((173, 18, 406, 208), fill=255)
    pen.polygon([(398, 74), (420, 67), (424, 80), (412, 112)], fill=255)
    alpha = cutter.cut(photo).rgba[..., 3]
    assert iou(alpha > 127, np.asarray(true) > 127) > 0.95
    assert not alpha[:, :60].any()
    assert not alpha[:, 500:].any()


def test_a_person_is_no_product(cutter: Cutter) -> None:
    photos = Path(skimage.__file__).parent / "data"
    found = cutter.cut(decode_in_subprocess(photos / "astronaut.png"))
    assert found.certainty < 0.5
    assert "person" in found.warnings[-1]
    # The same colours and the same pattern without a face.
    upside_down = Image.fromarray(found.rgba[::-1])
    assert "person" not in " ".join(cutter.cut(upside_down).warnings)


def test_glaze_in_one_hue_beer_and_a_faint_relief_are_no_faces() -> None:
    face = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").crop((150, 0, 300, 190))
    light, blue, red = face.convert("YCbCr").split()
    glaze = (light, blue.point(lambda _: 112), red.point(lambda _: 140))
    beer = (light, blue.point(lambda level: level - 20), red)
    relief = (light.point(lambda level: round(160 + (level - 160) * 0.1)), blue, red)
    shown = [
        shows_face(np.asarray(Image.merge("YCbCr", channels).convert("RGB").convert("RGBA")))
        for channels in ((light, blue, red), glaze, beer, relief)
    ]
    assert shown == [True, False, False, False]


def test_an_outline_inside_of_the_ground_is_a_guess() -> None:
    photo = np.full((300, 300, 3), 250, np.uint8)
    photo[60:240, 100:200] = (60, 90, 160)
    right = np.zeros((300, 300), bool)
    right[60:240, 100:200] = True
    wide = right.copy()
    wide[60:150, 60:100] = True  # where nothing is
    assert lost_outline(photo, right) == 0
    assert 0.15 < lost_outline(photo, wide) < 0.5


def test_the_same_photo_gives_the_same_cutout(cutter: Cutter) -> None:
    photo, _ = mug()
    assert (cutter.cut(photo).rgba == cutter.cut(photo).rgba).all()


@pytest.mark.parametrize("color", ["white", "black", "#808080", "#c83228"])
def test_a_photo_of_nothing_has_no_object(cutter: Cutter, color: str) -> None:
    assert refusal(cutter, Image.new("RGB", (800, 600), color)) == "no_object"


def test_a_bare_backdrop_has_no_object(cutter: Cutter) -> None:
    ramp = np.linspace(250, 205, 600)[:, None, None].repeat(800, 1).repeat(3, 2).astype(np.uint8)
    assert refusal(cutter, Image.fromarray(ramp)) == "no_object"


def transparent(*boxes: tuple[int, int, int, int], alpha: int = 255) -> Image.Image:
    image = Image.new("RGBA", (400, 300), (255, 0, 255, 0))
    for box in boxes:
        image.paste((0, 120, 200, alpha), box)
    return image


def test_transparency_is_trusted_without_any_model(u2netp: Path) -> None:
    code = """
import json, sys
from pathlib import Path
from PIL import Image
from worker.pipeline.backdrop import lost_outline
from worker.pipeline.cutout import Cutter
image = Image.new("RGBA", (400, 300), (255, 0, 255, 0))
image.paste((0, 120, 200, 255), (100, 50, 300, 250))
rgba = Cutter("u2netp", Path(sys.argv[1])).cut(image).rgba
loaded = [name for name in ("rembg", "onnxruntime", "numba", "torch") if name in sys.modules]
print(json.dumps([int((rgba[..., 3] == 255).sum()), loaded]))
"""
    run = subprocess.run(
        [sys.executable, "-c", code, u2netp], check=True, capture_output=True, text=True, timeout=60
    )
    assert json.loads(run.stdout) == [200 * 200, []]


def test_trusted_transparency_keeps_colors_and_alpha_as_they_are(cutter: Cutter) -> None:
    image = transparent((100, 50, 300, 250))
    image.paste((0, 120, 200, 120), (100, 50, 103, 250))  # a soft rim
    found = cutter.cut(image)
    assert tuple(found.rgba[150, 101]) == (0, 120, 200, 120)
    assert tuple(found.rgba[60, 110]) == (0, 120, 200, 255)
    assert tuple(found.rgba[10, 10]) == (0, 0, 0, 0)
    assert (found.certainty, found.warnings) == (1, ())


def test_specks_go_parts_and_holes_stay(cutter: Cutter) -> None:
    image = transparent((100, 50, 250, 250), (300, 50, 340, 150), (10, 10, 16, 16), (380, 280, 383, 284))
    image.paste((0, 0, 0, 0), (150, 100, 200, 150))
    alpha = cutter.cut(image).rgba[..., 3]
    assert alpha[100, 320] == 255  # a second part
    assert alpha[125, 175] == 0  # a hole
    assert not alpha[:20, :20].any()
    assert not alpha[275:, 375:].any()


@pytest.mark.parametrize(("level", "blur"), [(200, 0), (200, 8), (242, 3), (242, 8), (250, 8), (255, 6)])
def test_a_drop_shadow_goes_with_the_background(cutter: Cutter, level: int, blur: float) -> None:
    image = transparent((100, 50, 300, 220))
    image.paste((0, 0, 0, 255), (100, 100, 300, 120))  # the product's own black
    shadow = Image.new("L", image.size)
    ImageDraw.Draw(shadow).ellipse((90, 200, 320, 280), fill=level)
    below = Image.new("RGBA", image.size)
    below.putalpha(shadow.filter(ImageFilter.GaussianBlur(blur)))
    found = cutter.cut(Image.alpha_composite(below, image))
    assert not found.rgba[222:, :, 3].any()
    assert (found.rgba[55:215, 105:295, 3] == 255).all()
    assert found.certainty == 1


def test_black_feet_stay_in_a_black_contact_shadow(cutter: Cutter) -> None:
    image = transparent((100, 50, 300, 220))
    feet = [(120, 220, 150, 250), (250, 220, 280, 250)]
    for foot in feet:
        image.paste((0, 0, 0, 255), foot)
    shadow = Image.new("L", image.size)
    ImageDraw.Draw(shadow).ellipse((90, 225, 310, 275), fill=242)
    below = Image.new("RGBA", image.size)
    below.putalpha(shadow.filter(ImageFilter.GaussianBlur(6)))
    alpha = cutter.cut(Image.alpha_composite(below, image)).rgba[..., 3]
    for left, top, right, bottom in feet:
        assert (alpha[top:bottom, left:right] == 255).all()
        alpha[top:bottom, left:right] = 0
    assert not alpha[220:].any()


def test_a_shadow_that_fills_an_opening_goes_too(cutter: Cutter) -> None:
    image = transparent((100, 40, 300, 240))
    image.paste((0, 0, 0, 0), (130, 120, 270, 160))
    shadow = ImageChops.offset(image.getchannel("A").point(lambda level: level // 2), 20)
    below = Image.new("RGBA", image.size)
    below.putalpha(shadow.filter(ImageFilter.GaussianBlur(25)))
    found = cutter.cut(Image.alpha_composite(below, image))
    assert not found.rgba[125:155, 135:265, 3].any()
    assert found.certainty == 1


@pytest.mark.parametrize("color", [(200, 230, 220), (30, 34, 40)])
@pytest.mark.parametrize("cap", [[(170, 30, 230, 60)], []])
def test_a_translucent_body_becomes_opaque_as_on_a_white_page(
    cutter: Cutter, cap: list[tuple[int, int, int, int]], color: tuple[int, int, int]
) -> None:
    image = transparent(*cap)
    grain = np.random.default_rng(1).integers(-12, 13, (200, 140, 1))
    body = (np.array(color) + grain).clip(0, 255).astype(np.uint8)
    image.paste(Image.fromarray(np.dstack([body, np.full((200, 140), 100, np.uint8)])), (130, 60))
    found = cutter.cut(image)
    assert (found.rgba[65:255, 135:265, 3] == 255).all()
    expected = np.array(color) * 100 / 255 + 155
    assert np.abs(found.rgba[100:200, 150:250, :3].mean(axis=(0, 1)) - expected).max() < 2
    assert found.certainty < 0.8
    assert "translucent" in found.warnings[0]


def test_sunglasses_keep_their_lenses(cutter: Cutter) -> None:
    image = transparent((50, 100, 350, 200))
    for left in (60, 220):
        image.paste((0, 0, 0, 190), (left, 110, left + 120, 190))
    assert (cutter.cut(image).rgba[105:195, 55:345, 3] == 255).all()


def scene(size: int = 450) -> Image.Image:
    """The mug as a photo whose colours are kept under its transparency."""
    return mug(size)[0].convert("RGBA")


@pytest.mark.parametrize(
    "form", ["circle", "square", "round corners", "bars", "vignette", "octagon", "heart"]
)
def test_a_photo_in_a_transparent_frame_is_a_photo(cutter: Cutter, form: str) -> None:
    image, (_, true) = scene(), mug()
    frame = Image.new("L", image.size)
    draw = ImageDraw.Draw(frame)
    match form:
        case "circle":
            draw.ellipse((0, 0, 449, 449), fill=255)
        case "square":
            draw.rectangle((40, 40, 409, 409), fill=255)
        case "round corners":
            draw.rounded_rectangle((20, 20, 429, 429), 90, fill=255)
        case "bars":
            draw.rectangle((0, 60, 449, 389), fill=255)
        case "vignette":
            draw.ellipse((20, 20, 429, 429), fill=255)
            frame = frame.filter(ImageFilter.GaussianBlur(9))
        case "octagon":
            draw.regular_polygon((225, 225, 224), 8, fill=255)
        case "heart":
            around = ((90, 160), (130, 110))
            image = Image.fromarray(np.pad(np.asarray(image), (*around, (0, 0)), mode="edge"))
            true = np.pad(true, around)
            frame = Image.new("L", image.size)
            draw = ImageDraw.Draw(frame)
            draw.polygon([(345, 130), (34, 270), (345, 690), (656, 270)], fill=255)
            for left in (4, 336):
                draw.ellipse((left, 10, left + 350, 360), fill=255)
    image.putalpha(frame)
    found = cutter.cut(image)
    assert iou(found.rgba[..., 3] > 127, true) > 0.9
    assert found.certainty <= 0.7
    assert "frame" in found.warnings[-1]


@pytest.mark.parametrize("picture", ["circle_crop", "glass_solid_cap"])
def test_a_burger_in_a_round_frame_and_one_of_glass_are_found(cutter: Cutter, picture: str) -> None:
    found = cutter.cut(decode_in_subprocess(DATA / f"{picture}.png"))
    solid = found.rgba[..., 3] > 127
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    # The plate is 354 pixels wide in the middle of 800, and the bun stands 160 pixels above its base, its leaf 194.
    assert 330 < np.ptp(columns) < 370
    assert 155 < np.ptp(rows) < 200
    assert found.certainty < 0.7


def test_a_ball_a_plate_and_a_book_are_no_frames(cutter: Cutter) -> None:
    y, x = np.mgrid[-1:1:400j, -1:1:400j]
    r = np.hypot(x, y)
    ball = np.dstack([(1.1 - np.hypot(x + 0.4, y + 0.4) * 0.6) * tint for tint in (200, 60, 50)])
    plate = np.where(r < 0.55, 200, np.where(r < 0.6, 170, 235 - 20 * r))[..., None].repeat(3, 2)
    plate[(np.hypot(x * 2, y) < 0.35)] = (120, 60, 20)
    book = np.random.default_rng(2).integers(0, 255, (8, 8, 3)).repeat(50, 0).repeat(50, 1).astype(float)
    for colors, mask in ((ball, r < 0.98), (plate, r < 0.98), (book, (abs(x) < 0.7) & (abs(y) < 0.9))):
        rgba = np.dstack([colors.clip(0, 255), mask * 255]).astype(np.uint8)
        found = cutter.cut(Image.fromarray(rgba))
        assert ((found.rgba[..., 3] > 127) == mask).all()
        assert found.certainty == 1


def test_a_ball_with_a_star_a_button_and_a_badge_with_letters_are_no_frames(cutter: Cutter) -> None:
    y, x = np.mgrid[-1:1:400j, -1:1:400j]
    r = np.hypot(x, y)
    height = np.sqrt(np.clip(1 - (r / 0.96) ** 2, 0, 1))
    ball = (
        np.array((220, 60, 50)) * (0.35 + 0.65 * (0.8 * height - 0.35 * x - 0.45 * y).clip(0, 1))[..., None]
    )
    button = np.where((r > 0.86)[..., None], (40, 50, 120), (90, 120, 230)) * (1 - 0.05 * y)[..., None]
    badge = np.full((400, 400, 3), (20, 120, 90))
    turns = np.arange(10) * np.pi / 5
    star = [
        (200 + k * np.sin(turn), 200 - k * np.cos(turn)) for k, turn in zip([90, 40] * 5, turns, strict=True)
    ]
    for colors in (ball, button, badge):
        rgba = np.dstack([colors.clip(0, 255), (r < 0.96) * 255]).astype(np.uint8)
        image = Image.fromarray(rgba)
        if colors is badge:
            ImageDraw.Draw(image).text(
                (200, 200), "ECO", (255, 255, 255, 255), ImageFont.load_default(110), "mm"
            )
        else:
            ImageDraw.Draw(image).polygon(star, fill=(250, 220, 60, 255))
        found = cutter.cut(image)
        assert ((found.rgba[..., 3] > 127) == (r < 0.96)).all()
        assert found.certainty == 1


def test_a_photo_that_is_faded_everywhere_is_as_sure_as_another(cutter: Cutter) -> None:
    image = transparent((100, 50, 300, 250), alpha=200)
    ImageDraw.Draw(image).ellipse((150, 80, 250, 200), fill=(240, 240, 240, 200))
    found = cutter.cut(image)
    assert (found.rgba[50:250, 100:300, 3] == 255).all()
    assert tuple(found.rgba[60, 110, :3]) == (55, 149, 212)
    assert (found.certainty, found.warnings) == (1, ())


def test_a_reflection_goes_with_the_background(cutter: Cutter) -> None:
    rgba = np.zeros((400, 300, 4), np.uint8)
    grain = np.random.default_rng(5).integers((20, 60, 90), (60, 120, 200), (160, 160, 3))
    rgba[60:220, 70:230] = np.dstack([grain, np.full((160, 160), 255)])
    rgba[220:320, 70:230] = np.dstack([grain[:59:-1], np.linspace(100, 0, 100)[:, None].repeat(160, 1)])
    alpha = cutter.cut(Image.fromarray(rgba)).rgba[..., 3]
    assert (alpha[60:220, 70:230] == 255).all()
    assert not alpha[228:].any()


def test_inverted_transparency_is_turned_round(cutter: Cutter) -> None:
    photo, true = mug()
    rgba = np.dstack([np.asarray(photo), np.where(true, 0, 255).astype(np.uint8)])
    rgba[~true, :3] = 255
    found = cutter.cut(Image.fromarray(rgba))
    assert iou(found.rgba[..., 3] > 127, true) > 0.99
    assert "inverted" in found.warnings[0]
    # A line around the photo is no ground.
    rgba[..., 3] = np.pad(np.zeros((448, 448), np.uint8), 1, constant_values=255)
    assert iou(cutter.cut(Image.fromarray(rgba)).rgba[..., 3] > 127, true) > 0.9
    rgba[..., 3] = np.where(true, 0, 255)
    # A hole in an ordinary photo, whose ground is not plain.
    rgba[..., :3] = np.asarray(photo)
    found = cutter.cut(Image.fromarray(rgba))
    assert iou(found.rgba[..., 3] > 127, true) > 0.9
    assert "hole" in found.warnings[-1]
    # Nothing is left under the hole.
    rgba[true] = 0
    rgba[~true, :3] = 255
    assert refusal(cutter, Image.fromarray(rgba)) == "no_object"


def test_a_picture_frame_that_fills_the_photo_keeps_its_opening(cutter: Cutter) -> None:
    wood = np.random.default_rng(3).integers(60, 160, (400, 400, 3)).astype(np.uint8)
    rgba = np.dstack([wood, np.full((400, 400), 255, np.uint8)])
    rgba[80:320, 80:320] = 0
    assert ((cutter.cut(Image.fromarray(rgba)).rgba[..., 3] == 255) == (rgba[..., 3] == 255)).all()


def test_a_light_mark_that_the_background_model_leaves_out_belongs_to_the_product() -> None:
    photo = Image.new("RGB", (400, 400), (240, 190, 150))
    draw = ImageDraw.Draw(photo)
    draw.rectangle((80, 80, 320, 320), "teal")
    marks = {"tooth": (110, 110, 130, 170), "opening": (200, 200, 260, 260)}
    draw.rectangle(marks["tooth"], (245, 230, 225))
    draw.rectangle(marks["opening"], (200, 158, 125))  # the ground, in shade
    alpha = np.zeros((400, 400), np.float32)
    alpha[80:321, 80:321] = 1
    for left, top, right, bottom in marks.values():
        alpha[top : bottom + 1, left : right + 1] = 0.1
    alpha[150:171, 110:131] = 0.7  # nor is it half of a tooth
    closed = close_holes(np.asarray(photo), alpha)
    assert closed[112:169, 112:129].min() == 1
    assert np.array_equal(closed[190:], alpha[190:])
    assert np.array_equal(closed[:79], alpha[:79])


def test_a_board_that_the_background_model_leaves_out_belongs_to_the_product_but_no_shadow_and_no_reflection() -> (
    None
):
    photo, seen = Image.new("RGB", (200, 200), (240, 238, 234)), Image.new("L", (200, 200))
    draw, mask = ImageDraw.Draw(photo), ImageDraw.Draw(seen)
    draw.rectangle([60, 112, 139, 150], fill=(120, 119, 117))  # a shadow has the ground's hue
    draw.rectangle(
        [60, 100, 139, 111], fill=(214, 170, 112)
    )  # the board, in the shade where the body stands on it
    draw.rectangle([60, 100, 139, 102], fill=(60, 52, 45))
    for shape, color in (
        ([60, 20, 139, 99], (240, 190, 40)),
        ([40, 90, 59, 160], (210, 50, 40)),
        ([140, 90, 159, 160], (210, 50, 40)),
    ):
        draw.rectangle(shape, fill=color)
        mask.rectangle(shape, fill=255)
    for left in (40, 140):
        draw.rectangle([left, 161, left + 19, 180], fill=(225, 150, 140))  # a wheel's reflection
    alpha = np.array(seen, np.float32) / np.float32(255)
    alpha[30:60, 80:120] = 0.7  # the model doubts a place whose colour leaves no doubt
    found = add_colored(np.asarray(photo), alpha)

    assert found[101:110, 62:138].min() > 0.99  # the board, and its shade
    assert found[114:, 64:136].max() < 0.01  # no shadow
    assert found[163:].max() == 0  # no reflection
    assert found[32:58, 82:118].min() > 0.99
    grey = np.asarray(photo.convert("L").convert("RGB"))
    assert (add_colored(grey, alpha) == alpha).all()  # what is as grey as the ground may be a shadow


def test_a_light_part_with_a_sharp_border_belongs_to_the_product_and_no_shadow_or_reflection_does() -> None:
    photo = Image.new("RGB", (500, 500), (250, 250, 250))
    shadow = Image.new("L", photo.size)
    ImageDraw.Draw(shadow).ellipse((90, 240, 330, 350), fill=90)
    photo.paste("black", mask=shadow.filter(ImageFilter.GaussianBlur(14)))
    draw = ImageDraw.Draw(photo)
    body, pump, reflection = (180, 180, 320, 440), (235, 100, 265, 178), (180, 441, 320, 480)
    draw.rectangle(body, (110, 170, 130))
    draw.rectangle(pump, (228, 228, 226))
    draw.rectangle((244, 120, 252, 160), (250, 250, 250))  # a highlight as light as the ground
    draw.rectangle(reflection, (215, 228, 220))
    alpha = np.zeros((500, 500), np.float32)
    alpha[180:441, 180:321] = 1
    found = add_light_parts(np.asarray(photo), alpha) > 0.5
    assert found[102:178, 237:264].all()
    found[98:181, 226:274] = False
    assert not (found & (alpha == 0)).any()


@pytest.mark.parametrize("picture", ["ring-gold.png", "ring-teal.jpg", "mug-print.png", "chair-thin.png"])
def test_one_looks_through_the_holes_of_a_product(cutter: Cutter, picture: str) -> None:
    holes = {
        "ring-teal.jpg": [(350, 350), (250, 300), (450, 400)],
        "ring-gold.png": [(500, 470), (300, 400), (650, 600)],
        "mug-print.png": [(470, 650), (560, 640)],
        "chair-thin.png": [(180, 550), (250, 540), (355, 530)],
    }
    alpha = cutter.cut(decode_in_subprocess(DATA / picture)).rgba[..., 3]
    assert [alpha[y, x] for y, x in holes[picture]] == [0] * len(holes[picture])


def test_a_label_in_the_color_of_the_ground_is_no_hole(cutter: Cutter) -> None:
    photo = Image.new("RGB", (600, 600), "white")
    pen = ImageDraw.Draw(photo)
    pen.rounded_rectangle((180, 60, 420, 560), 40, fill=(60, 90, 160))
    pen.rectangle((220, 250, 380, 420), fill="white")
    assert (cutter.cut(photo).rgba[260:410, 230:370, 3] > 200).all()


def test_a_handle_is_open_on_a_white_ground_and_a_white_label_is_no_hole() -> None:
    photo, alpha = Image.new("RGB", (500, 500), "white"), Image.new("L", (500, 500))
    for image, body, opening in ((photo, "#dcdce0", "white"), (alpha, 255, 255)):
        draw = ImageDraw.Draw(image)
        draw.rectangle((120, 140, 320, 400), fill=body)
        draw.ellipse((270, 200, 420, 340), fill=body)
        draw.ellipse((300, 225, 395, 315), fill=opening)
        draw.rectangle((120, 140, 320, 400), fill=body)
        draw.rectangle((170, 200, 270, 330), fill=opening)
    opened = open_holes(np.asarray(photo), np.asarray(alpha).astype(np.float32) / np.float32(255))
    assert opened[240:300, 335:380].max() < 0.01
    assert opened[200:331, 170:271].min() == 1


@pytest.mark.parametrize(
    "image", [transparent(), transparent((0, 0, 400, 300), alpha=100), transparent((5, 5, 8, 8))]
)
def test_transparency_with_nothing_in_it_is_no_object(cutter: Cutter, image: Image.Image) -> None:
    assert refusal(cutter, image) == "no_object"


def test_transparency_that_is_decoration_is_not_trusted(cutter: Cutter) -> None:
    photo, true = mug()
    corners = Image.new("L", photo.size, 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 449, 449), 55, fill=255)
    veil = Image.new("L", photo.size, 250)
    for alpha in (corners, veil, Image.new("L", photo.size, 255)):
        image = photo.copy()
        image.putalpha(alpha)
        assert iou(cutter.cut(image).rgba[..., 3] > 127, true) > 0.9


def test_the_whole_way_ends_in_a_view(cutter: Cutter) -> None:
    photo, true = mug()
    view = frame(cutter.cut(photo).rgba)
    expected = frame(np.dstack([np.asarray(photo), true.astype(np.uint8) * 255]))
    assert iou(view[..., 3] > 127, expected[..., 3] > 127) > 0.93


def test_missing_weights_are_told_before_any_photo(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="worker weights fetch u2netp"):
        Cutter("u2netp", tmp_path)


def test_another_folder_in_the_environment_is_not_looked_at(
    u2netp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    monkeypatch.setenv("REMBG_HOME", str(tmp_path))
    Cutter("u2netp", u2netp).cut(mug()[0])
    assert not list(tmp_path.iterdir())
    assert os.environ["U2NET_HOME"] == str(tmp_path)
