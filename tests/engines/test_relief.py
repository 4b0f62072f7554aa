import functools
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw
from scipy import ndimage

from worker.core.errors import JobError
from worker.engines import load
from worker.engines.presets import PRESETS, Preset
from worker.engines.relief import Relief
from worker.engines.relief.lathe import turned
from worker.engines.relief.legs import without_far_legs
from worker.engines.relief.mirror import mirrored
from worker.engines.relief.nearer import Nearer, nearer
from worker.engines.relief.outline import Measured, even_part, halved
from worker.engines.relief.paint import paint
from worker.engines.relief.rows import colors_around
from worker.engines.relief.section import section_of
from worker.engines.relief.share import Share, share_of
from worker.engines.relief.solid import Solid, add_lost, between_pixels, inflated
from worker.engines.surface import PosedView, Role, Surface, View
from worker.engines.views import align
from worker.mesh.camera import Camera
from worker.mesh.isosurface import isosurface
from worker.mesh.project import depth_buffer
from worker.pipeline.frame import frame

pytestmark = pytest.mark.integration  # seconds of computing

FAST = PRESETS["fast"]
Drawing = Callable[[ImageDraw.ImageDraw], None]


def ring(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((40, 40, 472, 472), "teal")
    draw.ellipse((150, 150, 362, 362), 0)


def stool(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((60, 100, 452, 150), "brown")
    for x in (70, 180, 330, 438):
        draw.rectangle((x, 150, x + 4, 470), "black")


def pair(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((40, 180, 200, 400), "gold")
    draw.ellipse((300, 150, 470, 360), "silver")


def wire(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((150, 200, 360, 470), "gray")
    draw.line((255, 210, 120, 45), "black", width=2)
    draw.ellipse((110, 35, 130, 55), "red")


def flag(draw: ImageDraw.ImageDraw) -> None:
    """Red on the left, blue on the right, green on top: nothing in it is the same turned or mirrored."""
    draw.rectangle((100, 60, 180, 460), (220, 30, 30))
    draw.rectangle((181, 60, 400, 200), (30, 30, 220))
    draw.rectangle((100, 60, 400, 100), (30, 200, 30))


DRAWINGS = [ring, stool, pair, wire, flag]


def view_of(drawing: Drawing) -> View:
    image = Image.new("RGBA", (512, 512), 0)
    drawing(ImageDraw.Draw(image))
    return np.asarray(image)


def measured(views: list[PosedView]) -> list[Measured]:
    return [Measured(*outline) for outline in align(views)]


@functools.cache
def surface_of(drawing: Drawing, preset: Preset = FAST) -> Surface:
    return Relief().reconstruct([PosedView("front", view_of(drawing))], preset)


def mesh_of(surface: Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.vertices, surface.faces, process=False)


def silhouette(surface: Surface) -> NDArray[np.bool_]:
    """From the front, the square [-1, 1]² on 512 pixels."""
    image = Image.new("1", (512, 512))
    draw = ImageDraw.Draw(image)
    for triangle in (surface.vertices[surface.faces][:, :, :2] * [1, -1] + 1) * 256 - 0.5:
        draw.polygon([tuple(corner) for corner in triangle], fill=1)
    return np.asarray(image)


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_the_silhouette_from_the_front_is_that_of_the_photo(drawing: Drawing) -> None:
    view = view_of(drawing)
    seen, wanted = silhouette(surface_of(drawing)), view[..., 3] > 127
    assert (seen & wanted).sum() / (seen | wanted).sum() > (0.95 if drawing is not stool else 0.9)


@pytest.mark.parametrize(
    ("drawing", "preset"), [*((drawing, FAST) for drawing in DRAWINGS), (wire, PRESETS["balanced"])]
)
def test_the_surface_is_closed_and_faces_outwards(drawing: Drawing, preset: Preset) -> None:
    surface = surface_of(drawing, preset)
    assert surface.vertices.dtype == np.float32
    assert surface.faces.dtype == np.int32
    mesh = mesh_of(surface)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0


@pytest.mark.parametrize(
    ("drawing", "parts", "holes"), [(ring, 1, 1), (pair, 2, 0), (wire, 1, 0), (stool, 1, 0)]
)
def test_no_part_is_lost_and_no_hole_is_filled(drawing: Drawing, parts: int, holes: int) -> None:
    mesh = mesh_of(surface_of(drawing))
    assert mesh.body_count == parts
    assert mesh.euler_number == 2 * parts - 2 * holes


def test_right_is_x_up_is_y_and_the_camera_is_at_z() -> None:
    surface = surface_of(flag)
    low, high = surface.vertices.min(axis=0), surface.vertices.max(axis=0)
    np.testing.assert_allclose(low[:2], [100 / 256 - 1, 1 - 461 / 256], atol=0.02)
    np.testing.assert_allclose(high[:2], [401 / 256 - 1, 1 - 60 / 256], atol=0.02)
    # The flag flies to the right at the top; at the bottom there is only the pole on the left.
    top, bottom = (surface.vertices[surface.vertices[:, 1] * sign > 0.4] for sign in (1, -1))
    assert top[:, 0].max() > 0.5
    assert bottom[:, 0].max() < -0.25


def test_the_front_has_the_colours_of_the_photo_unmirrored() -> None:
    surface = surface_of(flag)
    front = np.array([[-0.45, -0.3, 0.2], [0.3, 0.4, 0.2], [0, 0.7, 0.2]], np.float32)
    expected = np.array([[220, 30, 30], [30, 30, 220], [30, 200, 30]]) / 255
    np.testing.assert_allclose(surface.color(front), expected, atol=0.02)


def test_the_background_and_prints_of_the_front_do_not_reach_the_back() -> None:
    image = np.zeros((512, 512, 4), np.uint8)
    image[..., :3] = (255, 0, 255)  # what the cut-out left under the transparent pixels
    image[60:450, 120:400] = (200, 200, 200, 255)
    image[200:300, 200:320, :3] = (0, 0, 0)  # a logo
    surface = Relief().reconstruct([PosedView("front", image)], FAST)
    colors = surface.color(surface.vertices)
    assert np.ptp(colors, axis=1).max() < 0.02, "all is grey: no magenta anywhere"
    back = colors[surface.vertices[:, 2] < -0.05]
    assert back.min() > 0.7
    front = colors[surface.vertices[:, 2] > 0.05]
    assert front.min() < 0.02


def test_a_row_whose_colour_goes_round_keeps_it_on_the_back() -> None:
    def pot(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((130, 60, 380, 250), "green")
        draw.rectangle((130, 250, 380, 450), "orange")
        draw.rectangle((220, 300, 290, 400), "white")  # a label

    surface = surface_of(pot)
    colors = surface.color(surface.vertices)
    x, y, z = surface.vertices.T
    behind = (z < -0.05) & (np.abs(x) < 0.2)
    for rows, name in ((y > 0.1, "green"), (y < -0.1, "orange")):
        wanted = np.array(ImageColor.getrgb(name)) / 255
        assert np.abs(colors[behind & rows] - wanted).max() < 0.05


@pytest.mark.parametrize(
    ("drawn", "known"),
    [
        ([(60, 140, "teal")], True),
        ([(60, 140, "teal"), (90, 110, "white")], True),  # a print in the middle
        ([(60, 140, "teal"), (100, 140, "red")], False),  # the ends differ
        ([(60, 140, "teal"), (70, 130, "white")], False),  # the ends are a frame
        ([(60, 140, "teal"), (64, 136, "white")], False),
        ([(60, 63, "teal")], False),
    ],
)
def test_a_row_tells_the_back_s_colour_if_its_ends_agree_and_hold(
    drawn: list[tuple[int, int, str]], known: bool
) -> None:
    photo, mask = Image.new("RGB", (200, 100)), np.zeros((100, 200), bool)
    mask[20:80, drawn[0][0] : drawn[0][1]] = True
    for left, right, name in drawn:
        ImageDraw.Draw(photo).rectangle((left, 0, right - 1, 99), name)
    colors, rows = colors_around(np.asarray(photo, np.float32) / np.float32(255), mask)
    assert rows.any() == known
    assert not rows[~mask].any()
    if known:
        assert rows[22:78].all(axis=1, where=mask[22:78]).all()
        assert np.abs(colors[rows] - np.array(ImageColor.getrgb("teal")) / 255).max() < 0.01


def test_the_colours_do_not_jump_where_the_front_meets_the_back() -> None:
    surface = surface_of(flag)
    rim = surface.vertices[np.abs(surface.vertices[:, 2]) < 0.01]
    shift = np.array([0, 0, 0.01], np.float32)
    assert np.abs(surface.color(rim + shift) - surface.color(rim - shift)).max() < 0.25


def test_a_disk_becomes_a_ball() -> None:
    def disk(draw: ImageDraw.ImageDraw) -> None:
        draw.ellipse((56, 56, 456, 456), "orange")

    surface = Relief().reconstruct([PosedView("front", view_of(disk))], FAST)
    width, height, depth = np.ptp(surface.vertices, axis=0)
    assert width == pytest.approx(height, rel=0.01)
    assert 0.75 < depth / width <= 1.01
    assert surface.vertices[:, 2].max() == pytest.approx(-surface.vertices[:, 2].min(), abs=1e-3)


@pytest.mark.parametrize("view", [np.zeros((512, 512, 4), np.uint8), np.full((512, 512, 4), 60, np.uint8)])
def test_a_photo_without_a_product_is_refused(view: View) -> None:
    with pytest.raises(JobError) as error:
        Relief().reconstruct([PosedView("front", view)], FAST)
    assert error.value.code == "no_surface"


@pytest.mark.parametrize("box", [(0, 0, 511, 511), (250, 250, 252, 252), (0, 255, 511, 256)])
def test_extreme_silhouettes_still_become_closed_surfaces(box: tuple[int, int, int, int]) -> None:
    surface = Relief().reconstruct(
        [PosedView("front", view_of(lambda draw: draw.rectangle(box, "black")))], FAST
    )
    assert mesh_of(surface).is_watertight
    assert np.isfinite(surface.color(surface.vertices)).all()


@pytest.mark.parametrize("width", [1, 3, 6, 8])
def test_a_needle_in_photos_from_the_front_and_from_the_side_becomes_a_closed_surface(width: int) -> None:
    needle = view_of(lambda draw: draw.rectangle((254, 40, 253 + width, 470), "silver"))
    surface = Relief().reconstruct([PosedView("front", needle), PosedView("left", needle)], FAST)
    assert mesh_of(surface).is_watertight


def test_a_wire_that_is_widened_to_the_border_of_its_picture_becomes_a_closed_surface() -> None:
    def bow(draw: ImageDraw.ImageDraw) -> None:
        draw.line((39, 38, 39, 472, 472, 472, 472, 38), "red", width=3)

    def board(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((38, 251, 473, 260), "red")

    # A board that lies makes the grid coarse where it is taken for the back of something upright.
    drawings: dict[Role, Drawing] = {"front": bow, "left": bow, "back": board}
    views = [PosedView(role, view_of(drawing)) for role, drawing in drawings.items()]
    assert mesh_of(Relief().reconstruct(views, FAST)).is_watertight


def test_crumbs_of_the_cut_out_are_left_away() -> None:
    def crumbs(draw: ImageDraw.ImageDraw) -> None:
        ring(draw)
        for x in range(5, 500, 40):
            draw.rectangle((x, 5, x + 3, 8), "white")

    assert mesh_of(Relief().reconstruct([PosedView("front", view_of(crumbs))], FAST)).body_count == 1


def test_the_engine_is_loaded_by_its_name_and_without_torch() -> None:
    assert isinstance(load("relief", Path()), Relief)
    code = "import sys, pathlib, worker.engines as e; e.load('relief', pathlib.Path()); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@functools.cache
def solid_of(*roles: Role) -> Surface:
    """A figure with a round head, a body, two legs, arms from its front, and a tail at its back."""
    drawings: dict[Role, Drawing] = {
        "front": figure_front,
        "left": figure_left,
        "back": figure_front,
        "right": figure_right,
    }
    return Relief().reconstruct([PosedView(role, frame(view_of(drawings[role]))) for role in roles], FAST)


def figure_front(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((196, 40, 316, 160), "gold")
    draw.rectangle((206, 150, 306, 350), "firebrick")
    draw.rectangle((150, 180, 206, 200), "gold")  # arms
    draw.rectangle((306, 180, 362, 200), "gold")
    for x in (210, 268):
        draw.rectangle((x, 350, x + 34, 470), "navy")


def figure_left(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((216, 40, 296, 160), "gold")
    draw.rectangle((226, 150, 286, 350), "seagreen")
    draw.line((286, 300, 380, 240), "black", width=14)  # the tail, to the picture's right
    draw.rectangle((232, 350, 280, 470), "navy")


def figure_right(draw: ImageDraw.ImageDraw) -> None:
    image = Image.new("RGBA", (512, 512), 0)
    figure_left(ImageDraw.Draw(image))
    draw.bitmap((0, 0), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).getchannel("A"), "purple")


SETS: list[tuple[Role, ...]] = [
    ("front", "back"),
    ("front", "left"),
    ("front", "right"),
    ("front", "left", "right"),
    ("front", "left", "back", "right"),
]


@pytest.mark.parametrize("roles", SETS)
def test_any_set_of_sides_makes_one_closed_surface(roles: tuple[Role, ...]) -> None:
    surface = solid_of(*roles)
    mesh = mesh_of(surface)
    assert mesh.is_watertight
    assert mesh.volume > 0
    assert mesh.body_count == 1
    assert [source.role for source in surface.source_views] == list(roles)


@pytest.mark.parametrize("roles", SETS)
def test_each_photo_s_camera_sees_the_outline_of_the_photo(roles: tuple[Role, ...]) -> None:
    surface = solid_of(*roles)
    for source in surface.source_views:
        seen = depth_buffer(surface.vertices, surface.faces, source.camera, 512) > -np.inf
        wanted = source.view[..., 3] > 127
        assert (seen & wanted).sum() / (seen | wanted).sum() > 0.93, source.role


def test_the_tail_is_behind_the_product_and_about_as_wide_as_it_is_high() -> None:
    surface = solid_of("front", "left")
    tail = surface.vertices[surface.vertices[:, 2] < -0.3]
    assert len(tail)
    assert np.abs(tail[:, 0]).max() < 0.08
    chest = surface.vertices[surface.vertices[:, 2] > 0.3]
    assert np.abs(chest[:, 0]).max() > 0.1


def test_two_legs_in_the_front_and_one_in_the_side_make_two_legs() -> None:
    surface = solid_of("front", "left")
    shin = surface.vertices[np.abs(surface.vertices[:, 1] + 0.7) < 0.02]
    assert len(shin)
    assert np.abs(shin[:, 0]).min() > 0.03, "daylight between the legs"
    assert np.ptp(shin[:, 2]) > 0.1


def test_posts_beside_a_candle_and_legs_under_a_slanted_seat_go_on_where_they_stand() -> None:
    """At heights where a body is beside them, they would be taken for handles, which are in its middle."""

    def lantern(draw: ImageDraw.ImageDraw) -> None:
        for top, bottom in ((60, 110), (430, 470)):
            draw.rectangle((80, top, 432, bottom), "black")
        for x in (100, 400):
            draw.rectangle((x, 110, x + 12, 430), "black")
        draw.rectangle((206, 270, 306, 430), "ivory")

    def chair(underside: int) -> Drawing:
        def draw_chair(draw: ImageDraw.ImageDraw) -> None:
            draw.polygon([(90, 80), (422, 80), (422, 360), (90, underside)], "teal")
            for x in (100, 392):
                draw.rectangle((x, 300, x + 20, 460), "brown")

        return draw_chair

    for drawings, heights, outlines in (
        ((lantern, lantern), (-0.5, -0.3, -0.1, 0.1, 0.4), (5, 5, 5, 4, 4)),
        ((chair(320), chair(360)), (-0.7, -0.5, -0.35), (4, 4, 3)),
    ):
        front, left = (view_of(drawing) for drawing in drawings)
        views = [PosedView("front", front), PosedView("left", left)]
        whole = max(mesh_of(Relief().reconstruct(views, FAST)).split(), key=lambda part: len(part.faces))
        for height, count in zip(heights, outlines, strict=True):
            level = whole.section([0, 1, 0], [0, height, 0])
            assert level is not None
            assert len(level.discrete) == count, height


def test_an_arm_beside_the_head_of_a_lamp_is_one_arm_and_its_foot_is_round() -> None:
    """Each photo shows the arm beside the head and then the stand alone: one arm, and not one for each photo."""

    def lamp(mirror: int) -> Drawing:
        def draw_lamp(draw: ImageDraw.ImageDraw) -> None:
            def x(of: int) -> int:
                return 256 + mirror * (of - 256)

            draw.polygon([(x(220), 50), (x(400), 110), (x(290), 220)], "red")
            draw.line([(x(230), 60), (x(150), 250), (x(200), 430)], "silver", 20)
            draw.ellipse([(min(x(110), x(290)), 430), (max(x(110), x(290)), 470)], "black")

        return draw_lamp

    views = [PosedView("front", view_of(lamp(1))), PosedView("left", view_of(lamp(-1)))]
    parts = mesh_of(Relief().reconstruct(views, FAST)).split()
    whole = max(parts, key=lambda part: len(part.faces))
    assert whole.bounds[:, 1] == pytest.approx([-0.84, 0.8], abs=0.04)
    for height, outlines in ((-0.4, 1), (-0.1, 1), (0.25, 2)):
        level = whole.section([0, 1, 0], [0, height, 0])
        assert level is not None
        assert len(level.discrete) == outlines
    foot = whole.vertices[np.abs(whole.vertices[:, 1] + 0.76) < 0.01][:, [0, 2]]
    radius = np.hypot(*(foot - (foot.min(axis=0) + foot.max(axis=0)) / 2).T)
    assert np.quantile(radius, 0.1) > 0.93 * radius.max()


def test_the_antenna_of_a_radio_is_one_antenna_though_each_photo_shows_its_handle_too() -> None:
    """Handle and antenna cross twice as seen from two sides, and the photos of front and back show the antenna at two places."""

    def radio(base: int, tip: int, mirror: int = 1) -> Drawing:
        def draw_radio(draw: ImageDraw.ImageDraw) -> None:
            def x(of: int) -> int:
                return 256 + mirror * (of - 256)

            draw.rectangle((60, 230, 452, 470), "green")
            ends = sorted((x(110), x(384)))
            draw.arc((ends[0], 130, ends[1], 360), 180, 360, "silver", 14)
            draw.line([(x(base), 235), (x(tip), 30)], "silver", 8)

        return draw_radio

    def side(mirror: int) -> Drawing:
        def draw_side(draw: ImageDraw.ImageDraw) -> None:
            draw.rectangle((186, 230, 326, 470), "green")
            draw.rectangle((242, 130, 270, 240), "silver")
            draw.rectangle((256 + mirror * 46 - 4, 30, 256 + mirror * 46 + 4, 240), "silver")

        return draw_side

    views = [
        PosedView("front", view_of(radio(405, 430))),
        PosedView("left", view_of(side(1))),
        PosedView("back", view_of(radio(421, 452, -1))),
        PosedView("right", view_of(side(-1))),
    ]
    for used in (views[:2], views[:3], views):
        radio_mesh = mesh_of(Relief().reconstruct(used, FAST))
        assert radio_mesh.bounds[1][1] > 0.8
        above = radio_mesh.section([0, 1, 0], [0, 0.6, 0])  # the handle
        assert above is not None
        assert len(above.discrete) == 1
    assert len(mesh_of(Relief().reconstruct(views[:2], FAST)).split()) == 1, "nothing hangs in the air"


def rider(role: Role, head: str) -> PosedView:
    """A rider in crimson on an animal whose narrow head is before the rider's wide sleeves."""

    def draw_rider(draw: ImageDraw.ImageDraw) -> None:
        def beside(first: int, top: int, last: int, base: int, color: str) -> None:
            x = sorted(of if role == "left" else 512 - of for of in (first, last))
            draw.rectangle((x[0], top, x[1], base), color)

        if role in ("left", "right"):
            beside(60, 290, 452, 460, head)
            beside(60, 100, 170, 300, head)
            beside(320, 60, 430, 300, "crimson")
        else:
            draw.rectangle((96, 60, 416, 300), "crimson")
            draw.rectangle((176, 290, 336, 460), head)
        if role == "front":
            draw.rectangle((216, 100, 296, 300), head)
            draw.ellipse((236, 140, 276, 260), "crimson")  # a blaze, which is no hole

    return PosedView(role, view_of(draw_rider))


def test_a_head_is_narrower_than_the_rider_behind_it_whose_colours_are_others() -> None:
    """The outline from the front is that of both."""
    views = [rider(role, "peru") for role in ("front", "left", "back")]
    mesh = mesh_of(Relief().reconstruct(views, FAST))
    assert mesh.is_watertight
    assert mesh.body_count == 1
    for height in (0.0, 0.3, 0.5):
        level = mesh.section([0, 1, 0], [0, height, 0])
        assert level is not None
        behind, head = sorted(level.discrete, key=lambda outline: outline[:, 2].mean())
        assert np.ptp(behind[:, 0]) == pytest.approx(1.25, abs=0.06)
        assert np.ptp(head[:, 0]) == pytest.approx(0.32, abs=0.06)
        assert (head[:, 2].min(), head[:, 2].max()) == pytest.approx((0.34, 0.77), abs=0.04)


def test_only_colours_tell_a_part_from_a_wider_one_behind_it() -> None:
    def found(head: str, side: Role) -> list[Nearer]:
        outlines = [halved(outline) for outline in align([rider(role, head) for role in ("front", side)])]
        return nearer(outlines[:1], outlines[1])

    assert not found("crimson", "left")
    left, right = (found("peru", side)[0] for side in ("left", "right"))
    np.testing.assert_array_equal(left.outline.mask, right.outline.mask)
    np.testing.assert_allclose(left.end, right.end, atol=0.01)
    assert left.outline.mask.sum(axis=1)[60:140] == pytest.approx(40, abs=1)
    assert left.end[60:140] == pytest.approx(-0.25, abs=0.02)
    assert np.isnan(left.end[[20, 160]]).all()


def test_a_leaf_between_two_stems_is_not_lost() -> None:
    def front(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((136, 230, 376, 460), "brown")
        for x in (146, 346):
            draw.rectangle((x, 60, x + 20, 240), "green")

    def left(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((136, 230, 376, 460), "brown")
        draw.rectangle((200, 60, 312, 240), "green")
        draw.rectangle((300, 140, 470, 156), "green")  # the leaf

    views = [PosedView("front", view_of(front)), PosedView("left", view_of(left))]
    surface = Relief().reconstruct(views, FAST)
    largest = max(mesh_of(surface).split(), key=lambda part: len(part.faces))
    assert largest.bounds[0][2] < -0.6
    assert largest.is_watertight


def test_the_grid_of_an_open_product_is_no_finer_than_its_mesh_can_show() -> None:
    def rack(draw: ImageDraw.ImageDraw) -> None:
        for x in range(60, 460, 40):
            draw.rectangle((x, 60, x + 12, 450), "gray")
        draw.rectangle((60, 440, 432, 450), "gray")

    surface = Relief().reconstruct([PosedView(role, view_of(rack)) for role in ("front", "left")], FAST)
    assert len(surface.faces) < 12 * FAST.triangles


def test_each_side_has_the_colours_of_its_photo() -> None:
    surface = solid_of("front", "left", "back", "right")
    body = surface.vertices[np.abs(surface.vertices[:, 1]) < 0.1]
    for axis, sign, color in (
        (2, 1, "firebrick"),
        (0, 1, "seagreen"),
        (2, -1, "firebrick"),
        (0, -1, "purple"),
    ):
        outermost = body[(body[:, axis] * sign).argmax()][None]
        np.testing.assert_allclose(surface.color(outermost)[0] * 255, ImageColor.getrgb(color), atol=12)


@pytest.mark.parametrize("tilt", [0, 3])
def test_the_side_that_no_photo_shows_looks_like_the_other_one_without_its_print(tilt: float) -> None:
    def side(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((156, 100, 356, 420), "seagreen")
        draw.rectangle((156, 100, 356, 200), "gold")
        draw.text((170, 270), "PRINT", "black", font_size=60)

    front = view_of(lambda draw: draw.rectangle((156, 100, 356, 420), "teal"))
    front = np.asarray(Image.fromarray(front).rotate(tilt))
    surface = Relief().reconstruct([PosedView("front", front), PosedView("left", view_of(side))], FAST)
    colors = surface.color(surface.vertices)
    x, y, z = surface.vertices.T
    middle = np.abs(z) < 0.15
    for rows, name in (((y > 0.3) & (y < 0.5), "gold"), ((y < -0.1) & (y > -0.5), "seagreen")):
        wanted = np.array(ImageColor.getrgb(name)) / 255
        off = np.abs(colors - wanted).max(axis=1)
        assert np.quantile(off[middle & rows & (x < -0.3)], 0.9) < 0.1
    assert off[middle & rows & (x > 0.3)].max() > 0.3, "the print"
    assert list(surface.mirrored_views) == ["right"]
    views = surface.mirrored_views["right"], view_of(side)
    dark, was_dark = ((view[..., 1] < 100) & (view[..., 3] > 0) for view in views)
    assert dark.sum() < was_dark.sum() / 10, "no print"


def test_no_colour_comes_to_the_mirror_image_that_the_photo_does_not_have() -> None:
    """Where three colours meet, the medians of the channels would be a fourth one."""

    def side(draw: ImageDraw.ImageDraw) -> None:
        for x, y in product(range(156, 357, 9), range(100, 421, 9)):
            draw.rectangle(
                (x, y, min(x + 8, 356), min(y + 8, 420)), names[(x // 9 * 5 + y // 9 * 7) % 11 % 3]
            )

    names = ("orange", "white", "teal")
    plain = view_of(lambda draw: draw.rectangle((156, 100, 356, 420), "teal"))
    outlines = align([PosedView("front", plain), PosedView("left", view_of(side))])
    (image,) = mirrored(outlines)
    colors = {tuple(color) for color in image.view[image.mask][:, :3].tolist()}
    assert colors <= {ImageColor.getrgb(name) for name in names}


def test_only_lettering_is_left_out_of_the_mirror_image() -> None:
    """A sewn-on patch keeps its corners, and a bright pattern of three colours its spots."""
    pattern = [(x, y) for x in range(0, 72, 18) for y in range(0, 72, 18)]

    def side(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((126, 60, 386, 450), "navy")
        draw.rectangle((150, 90, 210, 150), "gold")
        draw.text((150, 200), "print", "white", font_size=50)
        for x, y in pattern:
            draw.rectangle((180 + x, 330 + y, 197 + x, 347 + y), ("red", "white", "lime")[(x + y) // 18 % 3])

    front = view_of(lambda draw: draw.rectangle((126, 60, 386, 450), "navy"))
    outlines = align([PosedView("front", front), PosedView("left", view_of(side))])
    (image,) = mirrored(outlines)
    was, now = outlines[1].view[:, ::-1].astype(int), image.view.astype(int)
    same = np.abs(was - now)[..., :3].max(axis=2) < 40
    columns, rows = np.arange(512)[::-1], np.arange(512)[:, None]
    patch, spots, print_ = (
        (columns >= left) & (columns <= right) & (rows >= top) & (rows <= bottom)
        for left, right, top, bottom in ((145, 215, 85, 155), (180, 251, 330, 401), (145, 300, 195, 270))
    )
    assert same[patch].mean() > 0.99
    assert same[spots].mean() > 0.9
    assert (now[print_][:, 0] < 60).all()


def test_what_goes_over_the_top_is_known_where_front_and_side_agree_on_it() -> None:
    """A band from ear to ear: all along the front's upper outline, and narrow from the side."""

    def head(draw: ImageDraw.ImageDraw) -> None:
        draw.ellipse((116, 96, 396, 416), "navy")

    def along(draw: ImageDraw.ImageDraw) -> None:
        head(draw)
        draw.arc((116, 96, 396, 416), 180, 360, "white", width=16)

    def narrow(draw: ImageDraw.ImageDraw) -> None:
        head(draw)
        draw.rectangle((236, 96, 276, 250), "white")

    def tops(front: Drawing, left: Drawing) -> tuple[View, Camera] | None:
        views = [PosedView("front", view_of(front)), PosedView("left", view_of(left))]
        return Relief().reconstruct(views, FAST).view_from_above

    for drawings, across in (((along, narrow), 0), ((narrow, along), 1)):
        found = tops(*drawings)
        assert found
        view, camera = found
        assert camera.elevation == 90
        bright, there = view[..., 0] > 128, view[..., 3] > 0
        profile = np.where(there, bright, 0).sum(axis=1 - across) / np.maximum(there.sum(axis=1 - across), 1)
        middle = len(profile) // 2
        assert profile[middle] == 1, "in the middle, over the whole top"
        assert not profile[: middle - 20].any()
        assert not profile[middle + 20 :].any()
    assert tops(head, head) is None, "plain"
    assert tops(along, head) is None, "a cap at one side is no band"


def test_an_edge_that_leans_a_little_has_no_steps() -> None:
    """The edge passes from pixel to pixel, but the transparency tells where it is between them."""

    def carton(size: int, lean: int) -> View:
        image = Image.new("RGBA", (2048, 2048), 0)
        corners = [(1024 - size, 300), (1024 + size + lean, 300), (1024 + size, 1800), (1024 - size, 1800)]
        ImageDraw.Draw(image).polygon(corners, "teal")
        return np.asarray(image.resize((512, 512), Image.Resampling.BOX))

    views = [PosedView("front", carton(500, 24)), PosedView("left", carton(250, 0))]
    surface = Relief().reconstruct(views, FAST)
    x, y, z = surface.vertices.T
    face = (np.abs(z) < 0.1) & (x > 0.3) & (np.abs(y) < 0.5)
    off = x[face] - np.polynomial.Polynomial.fit(y[face], x[face], 1)(y[face])
    assert off.std() < 0.0015, "with steps 0.002"


def test_an_edge_between_pixels_takes_nothing_from_a_thin_part() -> None:
    def board(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((100, 60, 400, 200), "brown")
        draw.rectangle((240, 200, 243, 460), "black")

    (height,) = inflated(measured([PosedView("front", view_of(board))]), 0.0)
    moved = between_pixels(height).squared - height.squared
    inside = height.mask & (ndimage.distance_transform_edt(height.mask) < 2)
    top, leg = (inside & rows[:, None] for rows in (np.arange(512) < 180, np.arange(512) > 230))
    assert moved[top].min() < 0, "the rim of a thick part lies within its last pixel"
    assert not moved[leg].any()


@pytest.mark.parametrize("width", [7, 9])
@pytest.mark.parametrize(("inset", "box"), [(5, 1.0), (75, 0.0)])
def test_legs_that_lean_do_not_break_and_those_at_corners_carry_a_square_top(
    width: int, inset: int, box: float
) -> None:
    """Legs at the corners would stand beside a round top."""

    def draw_table(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((100, 100, 412, 130), "brown")
        for x, lean in ((100 + inset, 10), (412 - inset - width, -10)):
            draw.polygon([(x, 125), (x + width, 125), (x + width + lean, 462), (x + lean, 462)], "black")

    surface = Relief().reconstruct([PosedView(role, view_of(draw_table)) for role in ("front", "left")], FAST)
    assert surface.report["section"]["box"] == box
    whole = max(mesh_of(surface).split(), key=lambda part: len(part.faces))
    for height in np.linspace(-0.7, 0.3, 6):
        level = whole.section([0, 1, 0], [0, height, 0])
        assert level is not None
        assert len(level.discrete) == 4


def test_four_legs_seen_from_above_are_four_and_all_reach_the_ground() -> None:
    """Such photos show the far legs between the near ones, and higher."""

    def draw_table(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((60, 150, 452, 210), "brown")
        for x, foot in ((80, 450), (408, 454), (140, 390), (350, 386)):
            draw.rectangle((x, 210, x + 22, foot), "black")

    def draw_elephant(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((120, 100, 392, 300), "gray")
        for x, foot in ((130, 450), (352, 450), (246, 400)):
            draw.rectangle((x, 300, x + 30, foot), "gray")

    def draw_flank(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((60, 100, 400, 300), "gray")
        draw.line([(60, 220), (30, 300), (30, 400)], "gray", 30)  # the trunk
        for x in (80, 350):
            draw.rectangle((x, 300, x + 40, 450), "gray")

    views = [PosedView("front", view_of(draw_table)), PosedView("left", view_of(draw_table))]
    table = mesh_of(Relief().reconstruct(views, FAST))
    for height in (-0.7, -0.3):
        level = table.section([0, 1, 0], [0, height, 0])
        assert level is not None
        assert len(level.discrete) == 4
    views = [PosedView("front", view_of(draw_elephant)), PosedView("left", view_of(draw_flank))]
    elephant = Relief().reconstruct(views, FAST)
    front = depth_buffer(elephant.vertices, elephant.faces, Camera(side=2.0), 512) > -np.inf
    assert front[380, 256], "a trunk is no far leg"


def test_far_legs_that_touch_the_near_ones_are_left_out_and_rungs_are_not() -> None:
    """A chair in perspective, level with the camera."""

    def draw_seat(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((60, 170, 452, 210), "brown")
        for x, foot in ((80, 450), (422, 452), (94, 420), (408, 418)):
            draw.rectangle((x, 210, x + 10, foot), "black")
        draw.rectangle((90, 300, 94, 308), "black")
        draw.rectangle((80, 330, 432, 337), "black")

    (front,) = align([PosedView("front", view_of(draw_seat))])
    for outline in without_far_legs([front, front._replace(role="left")]):
        gone = front.mask & ~outline.mask
        assert not gone[:, 80:91].any(), "the near leg is whole"
        assert not gone[330:338].any(), "the rung is whole"
        assert gone[215:328, 95:104].all()
        assert gone[340:415, 95:104].all()


@pytest.mark.parametrize(("foot", "thin"), [(460, False), (384, True)])
def test_a_leg_is_thin_where_it_ends_and_not_where_it_is_dented(foot: int, thin: bool) -> None:
    """It would break there: how deep a thin part lies is found anew."""

    def draw_horse(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((60, 60, 452, 300), "brown")
        for x in (70, 340, 410):
            draw.rectangle((x, 300, x + 40, 460), "brown")
        draw.rectangle((352, 379, 380, 384), (0, 0, 0, 0))
        draw.rectangle((340, foot, 380, 460), (0, 0, 0, 0))

    (outline,) = align([PosedView("front", view_of(draw_horse))])
    (height,) = inflated([halved(outline)], 0.0)
    place = np.linspace(-0.9, 0.9, 230, dtype=np.float32)
    share = share_of(height, place, place, 0.01, np.ones(len(place)))
    below = place < 1 - 330 / 256
    assert (share.thin[:, below].max() > 0.5) == thin


@pytest.mark.parametrize(("high", "top"), [(5, 0.6), (40, 0.76)])
def test_a_crust_on_a_flat_end_is_no_part_and_a_knob_is_one(high: int, top: float) -> None:
    """Photos that were not quite level show one side of a flat end higher."""

    def draw_tin(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((106, 102, 406, 460), "teal")
        draw.rectangle((106, 102 - high, 176, 102), "teal")

    surface = Relief().reconstruct([PosedView(role, view_of(draw_tin)) for role in ("front", "left")], FAST)
    assert surface.vertices[:, 1].max() == pytest.approx(top, abs=0.01)
    tin = mesh_of(surface)
    assert tin.is_watertight
    assert tin.body_count == 1


def test_what_no_photo_shows_has_the_colours_of_its_height() -> None:
    def hat(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((156, 100, 356, 420), "navy")
        draw.rectangle((156, 100, 356, 200), "gold")

    surface = Relief().reconstruct([PosedView(role, view_of(hat)) for role in ("front", "left")], FAST)
    colors = surface.color(surface.vertices)
    x, y, z = surface.vertices.T
    behind = (z < -0.35) & (np.abs(x) < 0.1)
    for rows, name in (((y > 0.3) & (y < 0.5), "gold"), ((y < 0.12) & (y > -0.5), "navy")):
        wanted = np.array(ImageColor.getrgb(name)) / 255
        assert (behind & rows).any()
        assert np.abs(colors - wanted)[behind & rows].max() < 0.15


def can_of(*, rise: int, falloff: float = 0.0, color: str = "silver") -> View:
    """A can from the side: its ends rise by so many pixels, and its sides are darker by so much than its middle."""

    def draw_can(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((156, 60, 356, 440), color)
        draw.ellipse((156, 60 - rise, 356, 60 + rise), color)
        draw.ellipse((156, 440 - rise, 356, 440 + rise), color)

    view = view_of(draw_can).copy()
    away = np.clip((np.arange(512) - 255.5) / 100, -1, 1)
    view[..., :3] = view[..., :3] * (1 - falloff * (1 - np.sqrt(1 - away**2)))[None, :, None]
    return view


def test_a_rare_colour_at_the_border_hardly_tints_what_no_photo_shows() -> None:
    def post(*patch: tuple[int, int, int, int]) -> View:
        def draw_post(draw: ImageDraw.ImageDraw) -> None:
            draw.rectangle((156, 60, 356, 460), "navy")
            for box in patch:
                draw.rectangle(box, "gold")

        return view_of(draw_post)

    # The patch is where the left side ends and the back begins.
    views = [PosedView("front", post()), PosedView("left", post((340, 200, 356, 300)))]
    surface = Relief().reconstruct(views, FAST)
    x, y, z = surface.vertices.T
    back = (z < -0.37) & (np.abs(y) < 0.15) & (np.abs(x) < 0.3)
    assert np.median(surface.color(surface.vertices)[back, 0]) < 0.5


def test_what_stands_behind_something_nearer_does_not_take_its_colour() -> None:
    """The photo shows a wall, and before it a box that stands a little farther to the right than the solid has it."""
    volume = np.full((64, 96, 40), -0.5, np.float32)
    volume[8:56, 8:88, 4:14] = 0.5
    volume[24:40, 40:56, 26:34] = 0.5
    solid = Solid(np.array([-0.66, -0.99, -0.4], np.float32), 2 / 96, volume)
    vertices, _ = isosurface(volume)
    points = (vertices * np.float32(solid.cell) + solid.origin).astype(np.float32)

    def wall_and_box(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((126, 40, 386, 472), "silver")
        draw.rectangle((230, 213, 315, 299), "red")

    view = view_of(wall_and_box)
    color = paint([Measured("front", view, view[..., 3] > 0, Camera(side=2.0))], [], solid, points)
    x = np.linspace(0.19, 0.22, 4)  # beside the box of the solid, where the photo shows its own
    beside = np.stack([x, np.zeros(4), np.full(4, -0.118)], axis=1).astype(np.float32)
    assert color(beside)[:, 1].min() > 0.5, "silver and not red"


def test_a_mark_in_the_middle_of_a_photo_does_not_tint_the_back() -> None:
    """The side that is seen otherwise has the colour of the body, as a duck has around its wing."""

    def marked(draw: ImageDraw.ImageDraw) -> None:
        draw.ellipse((56, 100, 456, 420), "gold")
        draw.ellipse((136, 180, 376, 340), "teal")

    side = view_of(lambda draw: draw.ellipse((156, 100, 356, 420), "gold"))
    surface = Relief().reconstruct([PosedView("front", view_of(marked)), PosedView("left", side)], FAST)
    colors = surface.color(surface.vertices)
    behind = surface.vertices[:, 2] < -0.1
    assert np.abs(colors[behind] - np.array(ImageColor.getrgb("gold")) / 255).max() < 0.1


def test_a_product_as_wide_as_deep_is_round_and_one_of_straight_lines_is_a_box() -> None:
    can = can_of(rise=12)
    long = view_of(lambda draw: draw.rectangle((60, 250, 460, 450), "silver"))
    low = view_of(lambda draw: draw.rectangle((180, 250, 380, 450), "silver"))
    round_, boxy = (
        Relief().reconstruct([PosedView("front", frame(front)), PosedView("left", frame(side))], FAST)
        for front, side in ((can, can), (low, long))
    )
    assert round_.report["section"] == {"exponent": 1.0, "box": 0.0}
    assert boxy.report["section"]["box"] == 1.0
    for surface, share in ((round_, np.pi / 4), (boxy, 1.0)):
        assert mesh_of(surface).volume / np.prod(np.ptp(surface.vertices, axis=0)) == pytest.approx(
            share, rel=0.05
        )


@pytest.mark.parametrize(
    ("side", "box"),
    [
        (can_of(rise=0), 1.0),
        (can_of(rise=12), 0.0),
        (can_of(rise=0, falloff=0.3), 0.0),
        (np.ascontiguousarray(np.rot90(can_of(rise=0, falloff=0.3))), 1.0),
    ],
    ids=["lines", "arcs", "dark sides", "dark ends"],
)
def test_sides_that_look_alike_are_those_of_a_box_unless_the_ends_or_the_light_are_round(
    side: View, box: float
) -> None:
    assert section_of(measured([PosedView("front", side), PosedView("left", side)])).box == box


def test_what_two_photos_both_show_tells_a_flat_bottle_from_a_box_and_a_carton_from_a_can() -> None:
    def bottle(half: int, *label: tuple[int, int]) -> View:
        def draw_bottle(draw: ImageDraw.ImageDraw) -> None:
            draw.rectangle((256 - half, 60, 256 + half, 460), "seagreen")
            for left, right in label:
                draw.rectangle((256 + left, 160, 256 + right, 380), "white")

        return view_of(draw_bottle)

    def carton(color: str, text: str) -> View:
        def draw_carton(draw: ImageDraw.ImageDraw) -> None:
            draw.rectangle((106, 60, 406, 460), color)
            draw.text((130, 180), text, "black", font_size=100)

        return view_of(draw_carton)

    # Of an ellipse, the label reaches 0.6 of the half depth where it ends at 0.8 of the half width.
    oval = bottle(150, (-120, 120)), bottle(80, (-80, -48))
    printed_box = bottle(150, (-120, 120)), bottle(80, (-30, 30))
    cartons = carton("gold", "TEA"), carton("navy", "mild")
    can = can_of(rise=12, color="gold"), can_of(rise=12, color="gold")
    boxes = []
    for front, left in (oval, printed_box, cartons, can):
        boxes.append(section_of(measured([PosedView("front", front), PosedView("left", left)])).box)
    assert boxes == [0, 1, 1, 0]


def test_a_round_product_is_round_beside_its_steps_and_a_rung_stays_a_rung() -> None:
    """A lamp with a wide shade, and a stool: the rows of the shade and of the rung are crossed once."""

    def lamp(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((100, 60, 412, 160), "gold")
        draw.rectangle((240, 160, 272, 470), "black")

    def with_rung(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((100, 60, 412, 110), "brown")
        draw.rectangle((110, 300, 402, 316), "black")
        for x in (110, 372):
            draw.rectangle((x, 110, x + 30, 470), "black")

    shade, stool = (
        Relief().reconstruct([PosedView(role, view_of(of)) for role in ("front", "left")], FAST).vertices
        for of in (lamp, with_rung)
    )
    x, y, z = shade.T
    rim = (np.hypot(x, z) > 0.45) & (y > 0.42) & (y < 0.72)
    assert np.ptp(np.hypot(x, z)[rim]) < 0.04, "no corners"
    middle = np.abs(stool[np.abs(stool[:, 1] + 0.2) < 0.04])
    assert not (middle[:, [0, 2]] < 0.3).all(axis=1).any(), "nothing between the rungs"


def test_a_rim_that_one_photo_shows_higher_leaves_no_corners_and_no_ridge() -> None:
    def stool(bottom: int) -> View:
        def draw_stool(draw: ImageDraw.ImageDraw) -> None:
            draw.rectangle((100, 60, 412, bottom), "brown")
            for x in (130, 350):
                draw.rectangle((x, bottom, x + 32, 470), "black")

        return view_of(draw_stool)

    def lamp(top: int) -> View:
        def draw_lamp(draw: ImageDraw.ImageDraw) -> None:
            draw.ellipse((156, 40, 356, 200), "red")
            draw.rectangle((240, 190, 272, 440), "silver")
            draw.rectangle((120, top, 392, 470), "black")

        return view_of(draw_lamp)

    seats = measured([PosedView("front", stool(136)), PosedView("left", stool(116))])
    assert section_of(seats).exponents[-17:].min() > 0.9
    lamps = [PosedView("front", lamp(415)), PosedView("left", lamp(430))]
    foot = Relief().reconstruct(lamps, FAST).vertices
    between = foot[np.abs(foot[:, 1] - (256 - 422) / 256) < 0.01]
    assert np.ptp(between[:, 0]) < 0.5 * np.ptp(foot[:, 0])


def test_what_grows_from_one_side_of_a_body_does_not_widen_it() -> None:
    body = np.zeros((100, 100), bool)
    body[10:90, 30:60] = True
    spout = body.copy()
    spout[60:70, 60:68] = True
    assert np.array_equal(even_part(spout), body | (spout & (np.arange(100) < 62)))
    steps = np.tri(100, dtype=bool) & body.any(axis=1, keepdims=True)
    assert np.array_equal(even_part(steps), steps), "it has no axis"


def test_a_strip_along_a_rim_that_one_photo_shows_is_no_part_and_a_leaf_is_one() -> None:
    x, y, z = np.mgrid[:60, :60, :60].astype(np.float32)
    ball = 15**2 - (x - 30) ** 2 - (y - 30) ** 2 - (z - 30) ** 2
    flat = ball.max(axis=2)
    strip = np.maximum(flat, 15**2 - (x - 37)[..., 0] ** 2 - (y - 30)[..., 0] ** 2)
    leaf = np.where((np.abs(y - 30)[..., 0] < 4) & (x[..., 0] > 30), 16, flat)
    for squared, grows in ((strip, False), (leaf, True)):
        volume = ball.copy()
        nothing = np.zeros_like(flat)
        seen = Share(flat, flat[0], squared, nothing, nothing, *[nothing[0]] * 4)
        add_lost(volume, seen, z[0, 0] - 30)
        assert ((volume > 0).sum() > (ball > 0).sum()) == grows


def test_a_bottle_is_turned_and_a_figure_is_not() -> None:
    def bottle(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((186, 200, 326, 470), "green")
        draw.polygon([(186, 200), (326, 200), (276, 140), (236, 140)], "green")
        draw.rectangle((236, 40, 276, 140), "green")

    mask = view_of(bottle)[..., 3] > 127
    height = turned(mask)
    assert height is not None
    np.testing.assert_allclose(np.sqrt(height.max(axis=1))[[90, 300, 400]], [20.5, 70.5, 70.5], atol=1.5)
    surface = surface_of(bottle)
    width, _, depth = np.ptp(surface.vertices, axis=0)
    assert depth == pytest.approx(width, rel=0.03)
    for other in (figure_front, stool, flag, pair):
        assert turned(view_of(other)[..., 3] > 127) is None


def test_a_rim_that_flares_is_turned_too_and_two_lugs_are_not() -> None:
    def vase(draw: ImageDraw.ImageDraw) -> None:
        draw.ellipse((146, 150, 366, 420), "teal")
        draw.polygon([(196, 40), (316, 40), (286, 80), (286, 200), (226, 200), (226, 80)], "teal")
        draw.polygon([(206, 380), (306, 380), (322, 470), (190, 470)], "teal")

    def pot(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((146, 150, 366, 420), "teal")
        draw.rectangle((116, 200, 396, 220), "black")

    rim, foot = 42, 468
    for drawing, rows, half in ((vase, (rim, foot), (59, 66)), (pot, (210, 300), (110, 110))):
        height = turned(view_of(drawing)[..., 3] > 127)
        assert height is not None
        np.testing.assert_allclose(np.sqrt(height.max(axis=1))[list(rows)], half, atol=2.5)


@pytest.mark.parametrize("drawing", [stool, flag])
def test_the_base_is_flat(drawing: Drawing) -> None:
    """As deep where it stands as further up, and not a keel."""
    vertices = surface_of(drawing).vertices
    low, high = vertices[:, 1].min(), vertices[:, 1].max()
    base = vertices[vertices[:, 1] < low + 0.03 * (high - low)]
    above = vertices[np.abs(vertices[:, 1] - low - 0.15 * (high - low)) < 0.02]
    assert np.ptp(base[:, 2]) > 0.8 * np.ptp(above[:, 2])
