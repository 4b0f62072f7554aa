"""Photos of a ball from all sides, drawn from a colour that is known at every point of it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from worker.mesh.agree import agree
from worker.mesh.blend import Blend, lay
from worker.mesh.camera import Camera
from worker.mesh.choose import FACING_OF_SEVERAL
from worker.mesh.project import Photo, Projection, Shot, shoot

Floats = NDArray[np.float32]
SIDE = 2.4  # of the picture of a ball of radius 1

PIXELS = 256

BALL = trimesh.creation.icosphere(5)
POINTS = np.asarray(BALL.vertices, np.float32)
FACES = np.asarray(BALL.faces, np.int32)
AROUND = np.degrees(np.arctan2(POINTS[:, 0], POINTS[:, 2])) % 360  # azimuth of each point
UPRIGHT = np.abs(POINTS[:, 1]) < 0.8


def every_color(seen: Projection) -> Floats:
    return seen.colors(np.arange(len(seen.at)))


def checked(points: Floats) -> Floats:
    """Squares of two colours, so that a photo that is laid askew ghosts."""
    dark = (np.floor(points * 5).sum(axis=1) % 2 == 0)[:, None]
    return np.where(dark, (0.3, 0.4, 0.5), (0.7, 0.6, 0.4)).astype(np.float32)


def photo(
    azimuth: float, color: Callable[[Floats], Floats], elevation: float = 0
) -> tuple[NDArray[np.uint8], Camera]:
    """The ball as a camera far away sees it from an azimuth."""
    camera = Camera(side=SIDE, azimuth=azimuth, elevation=elevation)
    x, y = np.meshgrid(*[((np.arange(PIXELS) + 0.5) / PIXELS - 0.5) * SIDE] * 2)
    inside = x * x + y * y <= 1
    z = np.sqrt(np.maximum(1 - x * x - y * y, 0))
    points = np.stack([x, -y, z], axis=-1).reshape(-1, 3) @ camera.rotation
    view = np.concatenate([color(points.astype(np.float32)), inside.reshape(-1, 1)], axis=1)
    return (view * 255).round().astype(np.uint8).reshape(PIXELS, PIXELS, 4), camera


def shot(azimuth: float, color: Callable[[Floats], Floats], elevation: float = 0) -> Shot:
    view, camera = photo(azimuth, color, elevation)
    return shoot(Photo(view), camera, POINTS, FACES)


def blend(engine: Floats, photos: list[Projection], inferred: Sequence[Projection] = ()) -> Blend:
    """Lay photos over the colours that an engine has at the points."""
    layers = lay(POINTS, photos, inferred)
    color = layers.harmonized(lambda points: engine[cKDTree(POINTS).query(points)[1]])
    return layers.over(np.where(layers.open[:, None], color(POINTS), np.float32(np.nan)))


def laid(shots: list[Shot], engine: Floats) -> Blend:
    return blend(engine, [shot.project(POINTS, POINTS, FACING_OF_SEVERAL[0]) for shot in shots])


def flat(*rgb: float) -> Callable[[Floats], Floats]:
    return lambda points: np.tile(np.array(rgb, np.float32), (len(points), 1))


GREY = flat(0.5, 0.5, 0.5)(POINTS)
ANGLES = (0.0, 90.0, 180.0, 270.0)


def test_each_point_shows_the_photo_that_saw_it_straightest() -> None:
    blended = laid([shot(angle, checked) for angle in ANGLES], GREY)
    best = np.argmax(blended.shares, axis=0)
    off = (AROUND[None] - np.array(ANGLES)[:, None] + 180) % 360 - 180
    assert (np.abs(off[best, np.arange(len(POINTS))])[UPRIGHT] < 52).all()
    mixed = (blended.shares.max(axis=0) < 0.95 * blended.shares.sum(axis=0)) & UPRIGHT
    assert 0 < mixed[UPRIGHT].mean() < 0.12, "the seams are soft and narrow"


def test_print_continues_across_the_seams() -> None:
    blended = laid([shot(angle, checked) for angle in ANGLES], GREY)
    wrong = np.abs(blended.colors - checked(POINTS)).max(axis=1) > 0.15
    # The vertices that lie on an edge of the print may fall on either side of it.
    on_edge = np.abs(POINTS * 5 - np.rint(POINTS * 5)).min(axis=1) < 0.05
    assert wrong[UPRIGHT & ~on_edge].mean() < 0.01


@pytest.mark.parametrize("gain", [0.85, 1.15])
def test_photos_of_another_exposure_are_matched_to_the_front(gain: float) -> None:
    def other(points: Floats) -> Floats:
        return np.asarray(checked(points) * (gain, 1, gain), np.float32)

    shots = [shot(angle, checked if angle == 0 else other) for angle in ANGLES]
    blended = laid(agree(shots, POINTS, FACES, POINTS, POINTS), GREY)
    behind = UPRIGHT & (np.abs(AROUND - 180) < 40)
    off = np.abs(blended.colors - checked(POINTS))[behind]
    assert (np.median(off, axis=0) < 0.02).all()


def brightness(before: Shot, after: Shot) -> float:
    return float(np.median(after.photo.colors.mean(axis=2) / before.photo.colors.mean(axis=2)))


@pytest.mark.parametrize("gain", [1, 0.88, 1.12])
def test_a_dark_edge_that_one_photo_shows_beside_the_seam_is_no_exposure(gain: float) -> None:
    """The mesh is a little wrong there: the other photo shows beside it what this one shows at it."""

    def leather(points: Floats) -> Floats:
        grain = 1 + 0.06 * np.sin(9 * points[:, :1]) * np.sin(7 * points[:, 1:2] + 3 * points[:, 2:])
        return np.asarray(flat(0.6, 0.4, 0.25)(points) * grain, np.float32)

    def edged(points: Floats) -> Floats:
        around = np.degrees(np.arctan2(points[:, :1], points[:, 2:]))
        return np.asarray(
            leather(points) * np.where((around > 38) & (around < 58), 0.8, 1) * gain, np.float32
        )

    shots = [shot(0, leather), shot(90, edged)]
    _, side = agree(shots, POINTS, FACES, POINTS, POINTS)
    assert brightness(shots[1], side) == pytest.approx(1 / gain, rel=0.05)


def test_light_that_comes_from_one_side_of_every_photo_is_no_exposure() -> None:
    """The product was turned: at each seam, one photo shows in the light what the other one shows in the shade."""

    def lit(azimuth: float) -> Callable[[Floats], Floats]:
        right = Camera(side=SIDE, azimuth=azimuth).rotation[0]
        return lambda points: np.asarray(
            checked(points) * (0.8 + 0.1 * (points @ right)[:, None]), np.float32
        )

    shots = [shot(angle, lit(angle)) for angle in ANGLES]
    after = agree(shots, POINTS, FACES, POINTS, POINTS)
    for one, other in zip(shots, after, strict=True):
        assert brightness(one, other) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("gain", [1, 0.88, 1.12])
def test_the_sides_of_a_box_are_compared_across_its_edges(gain: float) -> None:
    """No two photos show a point of it. Its door is brighter than the rest."""
    box = trimesh.creation.box((1, 1, 1))
    for _ in range(4):
        box = box.subdivide()
    camera = Camera(side=1.4, azimuth=0)
    view = np.zeros((PIXELS, PIXELS, 4), np.uint8)
    edge = round(PIXELS * (0.5 - 0.5 / 1.4))
    view[edge:-edge, edge:-edge] = (np.array([0.65, 0.5, 0.35, 1]) * 255).round()
    front, side = view.copy(), view.copy()
    front[edge + 30 : -edge - 30, edge + 30 : -edge - 30, :3] = np.array([0.85, 0.75, 0.6]) * 255
    side[..., :3] = (side[..., :3] * gain).round()
    vertices, faces = np.asarray(box.vertices, np.float32), np.asarray(box.faces, np.int32)
    points, normals = np.asarray(box.triangles_center, np.float32), np.asarray(box.face_normals, np.float32)
    shots = [
        shoot(Photo(picture), Camera(side=camera.side, azimuth=azimuth), vertices, faces)
        for picture, azimuth in ((front, 0), (side, 90))
    ]
    _, after = agree(shots, vertices, faces, points, normals)
    assert brightness(shots[1], after) == pytest.approx(1 / gain, rel=0.04)


def test_a_channel_that_is_nearly_black_does_not_tint_the_rest() -> None:
    eye = POINTS[:, 1] > 0.8

    def yellow(gain: float, blue: float) -> Callable[[Floats], Floats]:
        def color(points: Floats) -> Floats:
            return np.where(points[:, 1:2] > 0.8, 0.8, (0.8, 0.7, blue)).astype(np.float32) * np.float32(gain)

        return color

    # The blue of the yellow differs by a third, and the white does not.
    shots = agree([shot(0, yellow(1, 0.12)), shot(60, yellow(0.9, 0.09))], POINTS, FACES, POINTS, POINTS)
    (second,) = (s.project(POINTS[eye], POINTS[eye], 0.5) for s in shots[1:])
    white = np.median(every_color(second), axis=0)
    np.testing.assert_allclose(white, 0.8, atol=0.03)
    assert np.ptp(white) < 0.03


def test_a_photo_whose_print_is_moved_is_not_made_brighter() -> None:
    """Of the points that two photos share, some differ one way and some the other way."""

    def moved(points: Floats) -> Floats:
        return checked(points + np.float32(0.07))

    first, second = agree([shot(0, flat(0.7, 0.6, 0.4)), shot(90, moved)], POINTS, FACES, POINTS, POINTS)
    np.testing.assert_array_equal(second.photo.colors, Photo(second.photo.view).colors)
    assert first.camera.azimuth == 0


def test_a_photo_of_a_white_product_is_brightened_to_one_that_is_overexposed() -> None:
    shots = agree([shot(0, flat(1, 1, 1)), shot(90, flat(0.8, 0.8, 0.8))], POINTS, FACES, POINTS, POINTS)
    assert shots[1].photo.colors.min() > 0.97


def test_a_side_of_another_colour_stays_so() -> None:
    red, blue = shot(0, flat(0.8, 0.2, 0.2)), shot(90, flat(0.2, 0.2, 0.8))
    assert agree([red, blue], POINTS, FACES, POINTS, POINTS) == [red, blue]


def test_a_camera_that_stood_elsewhere_is_found_by_the_print() -> None:
    """The outline of a ball is the same from everywhere."""
    front, side = shot(0, checked), photo(94, checked)[0]
    wrong = shoot(Photo(side), Camera(side=SIDE, azimuth=90), POINTS, FACES)
    same, found = agree([front, wrong], POINTS, FACES, POINTS, POINTS)
    assert same is front
    assert found.camera.azimuth == pytest.approx(94, abs=1.2)
    assert found.camera.elevation == pytest.approx(0, abs=1)


def test_light_is_evened_out_towards_the_seam() -> None:
    """Above the middle the left photo is in the shade, as below a hat."""

    def shaded(points: Floats) -> Floats:
        return np.asarray(checked(points) - 0.12 * (points[:, 1:2] > 0), np.float32)

    shots = [shot(0, checked), shot(90, shaded)]
    off = (laid(shots, GREY).colors - checked(POINTS)).mean(axis=1)
    above = (POINTS[:, 1] > 0.25) & (POINTS[:, 1] < 0.7)
    # Medians of what differs from the print: so the print is still there.
    start, before, after, end = (
        np.median(off[above & (np.abs(AROUND - angle) < 2.5)]) for angle in (0, 41, 49, 90)
    )
    assert start > -0.02
    assert end < -0.1
    assert before - after < 0.07


def test_what_differs_by_more_than_light_is_not_evened_out() -> None:
    """A black patch that one photo shows beside the seam would darken what the other one shows there."""

    def patched(points: Floats) -> Floats:
        around = np.degrees(np.arctan2(points[:, :1], points[:, 2:]))
        patch = (np.abs(points[:, 1:2]) < 0.5) & (around > 30) & (around < 42)
        return np.where(patch, 0.1, flat(0.7, 0.6, 0.4)(points)).astype(np.float32)

    colors = laid([shot(0, flat(0.7, 0.6, 0.4)), shot(90, patched)], GREY).colors
    there = (np.abs(POINTS[:, 1]) < 0.5) & (np.abs(AROUND - 38) < 6)
    off = colors[there] - flat(0.7, 0.6, 0.4)(POINTS[there])
    assert np.abs(off.mean(axis=0)).max() < 0.01


def test_what_differs_by_more_than_light_everywhere_is_not_evened_out() -> None:
    """Around a band that one photo shows at its outline there is nothing else to compare."""
    pair = (0.7, 0.6, 0.4), (0.1, 0.2, 0.2)
    colors = laid([shot(0, flat(*pair[0])), shot(90, flat(*pair[1]))], GREY).colors
    both = colors[UPRIGHT & (np.abs(AROUND - 45) < 40)]
    off = np.minimum(*(np.abs(both - np.array(color, np.float32)).max(axis=1) for color in pair))
    assert np.quantile(off, 0.8) < 0.02, "all but the seam"


def test_print_at_a_seam_is_neither_doubled_nor_cut() -> None:
    """A dot halfway between two photos. The second one shows it a little beside, because the mesh is wrong there."""

    def dotted(azimuth: float) -> Callable[[Floats], Floats]:
        a = np.radians(azimuth)
        at = np.array([np.sin(a), 0, np.cos(a)])
        return lambda points: np.where(
            (points @ at > 0.99)[:, None], 0.1, flat(0.7, 0.6, 0.4)(points)
        ).astype(np.float32)

    dots = laid([shot(0, dotted(44)), shot(90, dotted(53))], GREY).colors[:, 0] < 0.4
    assert dots.sum() == pytest.approx((dotted(44)(POINTS)[:, 0] < 0.4).sum(), rel=0.25)
    assert np.ptp(AROUND[dots]) < 20


def test_gloss_is_not_pasted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each camera sees a highlight 30 degrees beside its own direction, where the other one sees none."""

    def glossy(azimuth: float) -> Callable[[Floats], Floats]:
        a = np.radians(azimuth)
        at = np.array([np.sin(a), 0, np.cos(a)])
        return lambda points: np.where((points @ at > 0.98)[:, None], 1, flat(0.7, 0.2, 0.2)(points)).astype(
            np.float32
        )

    shots = [shot(0, glossy(30)), shot(90, glossy(60))]
    white = (glossy(30)(POINTS)[:, 1] > 0.5) | (glossy(60)(POINTS)[:, 1] > 0.5)
    assert (laid(shots, GREY).colors[white, 1] > 0.5).mean() < 0.4
    monkeypatch.setattr("worker.mesh.choose.HIGHLIGHT", 0)
    assert (laid(shots, GREY).colors[white, 1] > 0.5).mean() > 0.9


def test_what_no_photo_saw_is_harmonized_with_what_they_saw_beside_it() -> None:
    """The engine's colours are all a little off: those of the poles follow the photos, and keep their own detail."""
    engine = np.full_like(POINTS, 0.5)
    engine[POINTS[:, 1] > 0.995] += 0.2
    blended = laid([shot(angle, flat(0.58, 0.5, 0.44)) for angle in ANGLES], engine)
    unseen = (blended.shares.sum(axis=0) == 0) & (POINTS[:, 1] > 0) & (POINTS[:, 1] < 0.995)
    assert unseen.any()
    np.testing.assert_allclose(np.median(blended.colors[unseen], axis=0), (0.58, 0.5, 0.44), atol=0.02)
    pole = POINTS[:, 1] > 0.997
    np.testing.assert_allclose(np.median(blended.colors[pole], axis=0), (0.78, 0.7, 0.64), atol=0.02)


def test_photos_move_the_engine_s_colours_by_a_fifth_at_most() -> None:
    """More would make colours that neither the photos nor the engine have."""
    engine = np.full_like(POINTS, 0.4)
    blended = laid([shot(angle, flat(0.9, 0.4, 0.4)) for angle in ANGLES], engine)
    unseen = (blended.shares.sum(axis=0) == 0) & (np.abs(POINTS[:, 1]) > 0.997)
    assert unseen.any()
    assert blended.colors[unseen, 0].max() < 0.55


def test_an_inferred_picture_is_taken_where_photos_saw_worse_and_changes_none_of_them() -> None:
    def darker(points: Floats) -> Floats:
        return np.asarray(checked(points) - 0.1, np.float32)

    photos = [shot(angle, checked).project(POINTS, POINTS, FACING_OF_SEVERAL[0]) for angle in (0, 180)]
    inferred = shot(270, darker).project(POINTS, POINTS, FACING_OF_SEVERAL[0])
    inferred = inferred._replace(resolution=inferred.resolution / np.float32(2))  # an engine makes it so
    without, blended = blend(GREY, photos), blend(GREY, photos, [inferred])
    assert np.array_equal(blended.seen, without.seen)
    assert len(blended.shares) == len(photos)
    middle = UPRIGHT & (np.abs(AROUND - 270) < 10)
    off = [np.abs(of.colors - checked(POINTS))[middle].max(axis=1) for of in (without, blended)]
    assert (off[0] < 0.12).mean() < 0.1, "grey"
    assert (off[1] < 0.12).mean() > 0.8
    ahead = UPRIGHT & (np.abs(AROUND - 320) < 5)
    np.testing.assert_allclose(blended.colors[ahead], without.colors[ahead], atol=0.01)


def test_one_photo_fades_into_the_engine_s_colours_and_moves_none_of_them() -> None:
    blended = laid([shot(0, flat(0.8, 0.2, 0.2))], GREY)
    behind = POINTS[:, 2] < 0
    assert np.array_equal(blended.colors[behind], GREY[behind])
    ahead = POINTS[:, 2] > 0.7
    np.testing.assert_allclose(blended.colors[ahead], flat(0.8, 0.2, 0.2)(POINTS[ahead]), atol=0.01)


def test_no_colour_stays_unknown_only_where_no_photo_shows_one() -> None:
    blended = laid(
        [shot(0, flat(0.8, 0.2, 0.2)), shot(90, flat(0.8, 0.2, 0.2))], np.full_like(POINTS, np.nan)
    )
    known = np.isfinite(blended.colors).all(axis=1)
    assert np.array_equal(known, blended.shares.sum(axis=0) > 0)
    np.testing.assert_allclose(blended.shares.sum(axis=0)[known], 1, atol=1e-5)


FINE = np.asarray(trimesh.creation.icosphere(6).vertices, np.float32)  # as many points as a texture has


def printed(start: float, end: float, low: float = -0.4, high: float = 0.4) -> Callable[[Floats], Floats]:
    """Print between two azimuths and two heights, on a plain ball."""

    def color(points: Floats) -> Floats:
        return np.where(inside(points, start, end, low, high)[:, None], (0.1, 0.4, 0.5), (0.7, 0.6, 0.4))

    return color


def inside(points: Floats, start: float, end: float, low: float, high: float) -> NDArray[np.bool_]:
    around = np.degrees(np.arctan2(points[:, 0], points[:, 2])) % 360
    return (start < around) & (around < end) & (low < points[:, 1]) & (points[:, 1] < high)


def part_printed(
    shots: list[Shot], *field: float, inferred: Sequence[Shot] = (), white: bool = False
) -> float:
    """Lay photos over many points of the ball. Returns which part of a field shows print."""
    seen, likely = (
        [shot.project(FINE, FINE, FACING_OF_SEVERAL[0]) for shot in group] for group in (shots, inferred)
    )
    likely = [photo._replace(resolution=photo.resolution / np.float32(2)) for photo in likely]
    there = lay(FINE, seen, likely).over(np.full_like(FINE, 0.5)).colors[inside(FINE, *field), 0]
    return float((there > 0.5 if white else there < 0.4).mean())


def test_places_where_photos_do_not_agree_go_each_to_the_photo_that_saw_it_better() -> None:
    """Print that only the first one shows, and close to it print that only the second one shows."""
    shots = [shot(0, printed(10, 44, 0.05, 0.5)), shot(90, printed(46, 60, -0.35, -0.05))]
    assert part_printed(shots, 12, 42, 0.08, 0.47) > 0.95
    assert part_printed(shots, 48, 58, -0.32, -0.08) > 0.95


def pale_dot(azimuth: float) -> Callable[[Floats], Floats]:
    a = np.radians(azimuth)
    at = np.array([np.sin(a), 0, np.cos(a)])
    return lambda points: np.where((points @ at > 0.997)[:, None], (0.7, 0.48, 0.4), (0.7, 0.6, 0.4)).astype(
        np.float32
    )


def test_two_photos_that_show_pale_print_a_little_apart_do_not_join_it() -> None:
    """The dots overlap: a seam through both would be seen nowhere, but for the shape of what it makes."""
    photos = [
        shot(camera, pale_dot(at)).project(FINE, FINE, FACING_OF_SEVERAL[0])
        for camera, at in ((0, 43), (90, 48))
    ]
    colors = lay(FINE, photos).over(np.full_like(FINE, 0.9)).colors
    shown, dot = (of[:, 1] < 0.54 for of in (colors, pale_dot(43)(FINE)))
    assert shown.sum() == pytest.approx(dot.sum(), rel=0.2)


def test_print_goes_to_the_photo_whose_end_does_not_cut_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second photo shows print as far as it sees, the first one shows none there and sees beyond it."""
    shots = [shot(0, printed(0, 0)), shot(90, printed(5, 75))]
    assert part_printed(shots, 25, 60, -0.35, 0.35) < 0.05
    monkeypatch.setattr("worker.mesh.choose.CUT", 1e9)
    assert part_printed(shots, 25, 60, -0.35, 0.35) > 0.8


def test_a_mirror_image_loses_the_places_that_its_photo_lost() -> None:
    shots, inferred = [shot(0, printed(0, 0)), shot(90, printed(5, 75))], shot(270, printed(285, 355))
    assert part_printed(shots, 300, 335, -0.35, 0.35, inferred=[inferred]) < 0.05


def both_sides(end: float, start: float) -> Callable[[Floats], Floats]:
    """What a photo from behind shows at both of its outlines, not quite alike."""
    return lambda points: np.where(
        inside(points, 105, end, -0.4, 0.4)[:, None], (0.1, 0.4, 0.5), printed(start, 255)(points)
    )


def test_a_mirror_image_gets_a_place_of_which_its_photo_won_most() -> None:
    shots, inferred = [shot(180, both_sides(120, 234)), shot(90, printed(0, 0))], shot(270, printed(0, 0))
    assert part_printed(shots, 107, 118, -0.35, 0.35) < 0.05
    assert part_printed(shots, 234, 238, -0.35, 0.35, inferred=[inferred]) < 0.1


def test_a_mirror_image_gets_nothing_of_a_place_of_which_its_photo_won_little() -> None:
    shots, inferred = [shot(180, both_sides(115, 205)), shot(90, printed(0, 0))], shot(270, printed(0, 0))
    assert part_printed(shots, 107, 113, -0.35, 0.35) < 0.05
    assert part_printed(shots, 207, 245, -0.35, 0.35, inferred=[inferred]) > 0.9


def test_a_mirror_image_gets_the_tip_of_a_place_that_a_real_photo_saw_straight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tipped(points: Floats) -> Floats:
        tip = inside(points, 222, 236, -0.015, 0.015)
        return np.where(tip[:, None], (0.1, 0.4, 0.5), both_sides(120, 234)(points))

    shots, inferred = [shot(180, tipped), shot(90, printed(0, 0))], shot(270, printed(0, 0))
    assert part_printed(shots, 224, 228, -0.01, 0.01) > 0.9
    assert part_printed(shots, 224, 228, -0.01, 0.01, inferred=[inferred]) < 0.1
    monkeypatch.setattr("worker.mesh.choose.LITTLE", 0.0)
    assert part_printed(shots, 224, 228, -0.01, 0.01, inferred=[inferred]) > 0.9


def test_a_mirror_image_gets_nothing_that_a_real_photo_saw_straight() -> None:
    shots, inferred = [shot(180, both_sides(142, 205)), shot(90, printed(0, 0))], shot(270, printed(0, 0))
    assert part_printed(shots, 107, 140, -0.35, 0.35) < 0.05
    assert part_printed(shots, 206, 226, -0.35, 0.35, inferred=[inferred]) > 0.8


def test_a_picture_from_above_gets_what_photos_saw_at_a_low_angle() -> None:
    """A narrow band over the top, which photos from the front and from behind show all along their upper outlines."""

    def rim(points: Floats) -> Floats:
        return np.where(points[:, 1:2] > 0.75, (0.1, 0.4, 0.5), (0.7, 0.6, 0.4))

    def band(points: Floats) -> Floats:
        return np.where(np.abs(points[:, 2:]) < 0.1, (0.1, 0.4, 0.5), (0.7, 0.6, 0.4))

    shots, top = [shot(angle, rim) for angle in (0, 180)], [shot(0, band, elevation=90)]
    assert part_printed(shots, 0, 50, 0.77, 0.97) > 0.6
    assert part_printed(shots, 0, 50, 0.77, 0.97, inferred=top) < 0.05
    assert part_printed(shots, 84, 96, 0.77, 0.97, inferred=top) > 0.9


def test_white_print_on_black_is_shown_whole_or_not_at_all() -> None:
    """It is no gloss. Each photo shows it where the other one does not."""

    def black(color: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
        return lambda points: np.where(color(points)[:, :1] < 0.4, 0.9, 0.1) * np.ones(3, np.float32)

    shots = [shot(0, black(printed(22, 36))), shot(90, black(printed(54, 68)))]
    parts = [part_printed(shots, *field, -0.35, 0.35, white=True) for field in ((24, 34), (56, 66), (36, 54))]
    assert all(part < 0.1 or part > 0.9 for part in parts)


def test_a_colour_is_less_sure_where_the_surface_may_lie_elsewhere_under_print() -> None:
    def steady(color: Callable[[Floats], Floats], low: float, high: float) -> Floats:
        seen = shot(0, color).project(POINTS, POINTS, FACING_OF_SEVERAL[0])
        there = inside(POINTS, low, high, -0.3, 0.3)
        return seen.steady(np.flatnonzero(there[seen.at]))

    assert steady(printed(-1, 0), 20, 70).min() > 0.99, "plain"
    assert steady(printed(0, 55), 54, 56).max() < 0.85, "the edge of print, seen at a low angle"
    assert steady(printed(340, 357), 354, 359).min() > 0.9, "seen straight on"
    assert np.median(steady(printed(0, 90, 0, 0.4), 50, 70)) > 0.9, "print that runs to the outline"


def test_an_inferred_picture_without_the_print_does_not_wipe_it_off() -> None:
    shots = [shot(180, printed(228, 244)), shot(90, printed(0, 0))]
    assert part_printed(shots, 230, 242, -0.35, 0.35, inferred=[shot(270, printed(0, 0))]) > 0.95


def test_print_that_the_engine_does_not_have_hardly_moves_its_colours() -> None:
    engine = flat(0.7, 0.6, 0.4)(POINTS)
    blended = laid([shot(angle, printed(angle - 60, angle + 60, 0.3, 1)) for angle in (60, 180, 300)], engine)
    unseen = (blended.shares.sum(axis=0) == 0) & (POINTS[:, 1] > 0)
    assert unseen.any()
    assert np.abs(blended.colors - engine)[unseen].mean() < 0.07


def wall_and_box() -> tuple[Floats, NDArray[np.int32]]:
    """(V, 3) and (F, 3): a wall, and a box before it."""
    wall = trimesh.creation.box((2, 2, 0.2))
    box = trimesh.creation.box(bounds=[(-0.2, -0.2, 0.5), (0.2, 0.2, 0.7)])
    both: Any = trimesh.util.concatenate([wall, box])
    return np.asarray(both.vertices, np.float32), np.asarray(both.faces, np.int32)


def test_what_goes_on_in_its_colour_is_sure_up_to_the_outline_of_something_nearer() -> None:
    """A green wall, and a red box before it that the photo shows where it stands. A third of the box and of the wall is striped."""
    view = np.full((PIXELS, PIXELS, 4), (90, 140, 90, 255), np.uint8)
    middle, half = PIXELS // 2, round(0.2 / SIDE * PIXELS)
    view[middle - half : middle + half, middle - half : middle + half, :3] = (200, 40, 40)
    striped = slice(middle + half // 3, middle + half)
    view[striped, np.arange(PIXELS) % 4 < 2, :3] = 20
    x = np.concatenate([-0.2 + np.array([-0.045, -0.035, 0.035, 0.045]), [0.235, 0.245, 0.155, 0.165]])
    on_box = np.abs(x) < 0.2

    def clear(y: float) -> Floats:
        points = np.stack([x, np.full_like(x, y), np.where(on_box, 0.7, 0.1)], axis=1).astype(np.float32)
        normals = np.tile(np.array([0, 0, 1], np.float32), (len(points), 1))
        seen = shoot(Photo(view, several=True), Camera(side=SIDE), *wall_and_box()).project(
            points, normals, 0.1
        )
        found = np.zeros(len(points), np.float32)
        found[seen.at] = seen.clear
        return found

    assert clear(0).min() == 1
    assert clear(-0.13).max() < 0.9


def test_what_is_behind_something_nearer_does_not_take_its_colour() -> None:
    """A wall, and a box before it that the photo shows 8 pixels farther to the right than it stands."""
    view = np.full((PIXELS, PIXELS, 4), (90, 140, 90, 255), np.uint8)
    middle, half = PIXELS // 2, round(0.2 / SIDE * PIXELS)
    view[middle - half : middle + half, middle - half + 8 : middle + half + 8, :3] = (200, 40, 40)
    view[:, 200:210, :3] = 20  # print on the wall
    x, y = (grid.ravel() for grid in np.meshgrid(*[np.linspace(-0.95, 0.95, 96)] * 2))
    points = np.stack([x, y, np.full_like(x, 0.1)], axis=1).astype(np.float32)
    normals = np.tile(np.array([0, 0, 1], np.float32), (len(points), 1))

    def seen(photo: Photo) -> Projection:
        taken = shoot(photo, Camera(side=SIDE), *wall_and_box())
        return taken.project(points, normals, 0.1)

    alone, one_of_several = seen(Photo(view)), seen(Photo(view, several=True))
    assert (every_color(alone)[:, 0] > 0.6).any()
    assert not (every_color(one_of_several)[:, 0] > 0.6).any()
    assert (every_color(one_of_several)[:, 0] < 0.2).sum() == (every_color(alone)[:, 0] < 0.2).sum() > 0
    # A wall with stripes of both colours shows its own.
    view[np.arange(PIXELS) % 16 < 8, :, :3] = (200, 40, 40)
    striped_alone, striped = seen(Photo(view)), seen(Photo(view, several=True))
    red = (every_color(of)[:, 0] > 0.7 for of in (striped_alone, striped))
    counts = [int(which.sum()) for which in red]
    assert counts[1] > 0.95 * counts[0], counts
