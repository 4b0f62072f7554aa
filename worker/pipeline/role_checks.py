"""Check the sides that photos are stated to show: the photos of one product agree in outlines and colours, or a photo is in doubt.

Each photo was framed alone, so that the product's height is all that the photos have in common. They are compared row by row.
What can be told depends on the product: a vase looks the same from all sides, and a box may have another colour on each. Only
a clear contradiction counts. tests/benchmarks/roles.py measures how often that is right; docs/models.md has its figures.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2lab

from worker.engines.surface import Role, View

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

ROWS = 96  # to which every photo's product is scaled
WIDEST = 4 * ROWS  # columns; a product that is wider is squeezed
NEAR = 0.04 * ROWS  # how far apart two outlines may be: photos are taken from not quite the right side

# The thresholds, with the worst that correct photos of the benchmark reached.
SAME_OUTLINE = 0.75  # part of each outline's area that is near the other's; 0.79
SURE_OUTLINE = 0.95  # the same, where the two outlines are certainly one product's
MIRRORED_OUTLINE = 0.15  # by how much the overlap of the wrong outlines is greater; 0.11
MIRRORED_COLORS = 10.0  # by how much the colours at the wrong rims agree better; 6.4
# By how much the colours of the wrong halves agree better, all comparisons together, by their number; 10, 6.4, 3.0
EXCHANGED_COLORS = {1: 9.0, 2: 6.0, 4: 5.0}
OTHER_COLORS = 20.0  # difference of the colours, whichever halves are compared; 16
SAME_PICTURE = 2.5  # mean difference of the colours of two pictures that are the same
BOX = 0.85  # part of its rectangle that the outline of a box takes
THIN = 0.3  # width, as part of the height, of a side that is an edge rather than a face

# Differences of L*, a* and b*. Light differs between photos more than hue does.
WEIGHTS = np.array([0.5, 1.0, 1.0], np.float32)
EXPOSURE = np.array([12.0, 5.0, 5.0], np.float32)  # two photos of the same thing may differ by this
MOST = 30.0  # a greater difference of colours counts as this

AROUND = np.radians(np.arange(15.0, 80.0, 5.0))  # angles at which two photos see the same surface
RIM = np.linspace(0.75, 0.95, 5)  # where a photo sees what the opposite one sees: parts of half a row's width
LEAST_COMMON = 0.15  # part of the compared places that must lie on the product in both photos
STEEPEST = 0.35  # slope of a product that stands aslant, seen from above
SLACK = 4  # rows by which two photos may be shifted

COPY = "It is the same picture as the photo of the front."
OTHER_OUTLINE = (
    "Its outline does not match the photo of the opposite side: it shows another product or another side."
)
OTHER_PRODUCT = "Its colours do not match the photo of the front: it shows another product."
MIRRORED = "It seems to be mirrored: what should be on its left is on its right."
EXCHANGED = "It seems to show the opposite side: left and right, or front and back, may be exchanged."


class _Halves(NamedTuple):
    """How well colours agree: weighted mean differences in 0..MOST, NaN where too little can be compared."""

    stated: float  # where they should, if the photos show what is stated
    wrong: float  # where they should, if left and right were exchanged

    @property
    def least(self) -> float:
        """The difference the better way round; 0 if it is not known."""
        return 0.0 if math.isnan(self.stated + self.wrong) else min(self)

    @property
    def doubt(self) -> float:
        """Return by how much the wrong way round is better."""
        return 0.0 if math.isnan(self.stated - self.wrong) else self.stated - self.wrong


class _Side:
    """One photo, its product scaled to ROWS rows: a mask (ROWS, W) and Lab colours (ROWS, W, 3)."""

    def __init__(self, mask: Mask, lab: Floats) -> None:
        self.mask, self.lab = mask, lab

    @classmethod
    def of(cls, view: View) -> "_Side":
        """Scale a framed photo. It shows a product."""
        solid = view[..., 3] > 127
        rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        width = min(max(4, round((box[2] - box[0]) * ROWS / (box[3] - box[1]))), WIDEST)
        weight = solid.astype(np.float32)

        def scaled(plane: Floats) -> Floats:
            picture = Image.fromarray(plane).resize((width, ROWS), Image.Resampling.BOX, box=box)
            return np.asarray(picture, np.float32)

        cover = scaled(weight)
        color = np.stack([scaled(view[..., channel] * weight) for channel in range(3)], axis=-1)
        color /= np.maximum(cover, 1e-3)[..., None]
        mask = cover > 0.5
        lab = rgb2lab(color.clip(0, 255) / 255) * mask[..., None]
        # Fine print would need photos that fit to the pixel.
        inside = ndimage.gaussian_filter(mask.astype(np.float32), 1.5)[..., None]
        smooth = ndimage.gaussian_filter(lab, (1.5, 1.5, 0)) / np.maximum(inside, 1e-3)
        return cls(mask, smooth.astype(np.float32))

    @cached_property
    def mirrored(self) -> "_Side":
        return _Side(self.mask[:, ::-1], self.lab[:, ::-1])

    @cached_property
    def outline(self) -> Mask:
        """(H, W): the mask, each column moved up or down so that the product's middle is level.

        From above, what is nearer to the camera looks lower. The opposite photo has the other end nearer, so that a product
        that stands aslant looks as if it was mirrored.
        """
        row, column = np.nonzero(self.mask)
        middle = (self.mask.shape[1] - 1) / 2
        away = column - middle
        spread = float(away.var())
        slope = float(((away - away.mean()) * (row - row.mean())).mean()) / spread if spread else 0.0
        slope = min(max(slope, -STEEPEST), STEEPEST)
        room = int(STEEPEST * middle) + 1
        level = np.zeros((ROWS + 2 * room, self.mask.shape[1]), np.bool_)
        level[row + room - np.rint(slope * away).astype(np.intp), column] = True
        there = np.flatnonzero(level.any(axis=1))
        return level[there[0] : there[-1] + 1]

    @cached_property
    def is_box(self) -> bool:
        return bool(self.mask.mean() > BOX)

    @cached_property
    def is_thin(self) -> bool:
        return bool(self.mask.shape[1] < THIN * ROWS)

    @cached_property
    def body(self) -> tuple[Floats, Floats, Mask]:
        """(ROWS,) where the product begins and ends in each row, and the rows that have it; handles and tails do not count."""
        inner = ndimage.distance_transform_edt(np.pad(self.mask, 1))
        radius = float(inner.max()) / 3
        opened = (ndimage.distance_transform_edt(inner <= radius) <= radius)[1:-1, 1:-1] & self.mask
        low = np.argmax(opened, axis=1)
        high = opened.shape[1] - np.argmax(opened[:, ::-1], axis=1)
        return low.astype(np.float32), high.astype(np.float32), opened.any(axis=1)

    def at(self, across: NDArray[np.floating]) -> tuple[Floats, Mask]:
        """Return the colours (ROWS, K, 3) at K places of each row, -1 at its left end and 1 at its right end, and where it has any."""
        low, high, there = self.body
        column = (low + high)[:, None] / 2 + across[None, :] * (high - low)[:, None] / 2 - 0.5
        column = np.clip(np.rint(column).astype(np.intp), 0, self.mask.shape[1] - 1)
        row = np.arange(ROWS)[:, None]
        return self.lab[row, column], self.mask[row, column] & there[:, None]


def doubts(views: Mapping[Role, View]) -> dict[Role, str]:
    """Return why each of these photos does not seem to show the side that is stated for it. Those that fit are left out.

    Args:
        views: the framed photos by their stated sides, among them the front, which is believed.
    """
    sides = {role: _Side.of(view) for role, view in views.items()}
    front = sides.pop("front")
    found = {role: COPY for role, side in sides.items() if _is_copy(front, side)}
    back = sides.pop("back", None)
    if back and "back" not in found and (why := _doubt_back(front, back)):
        found["back"] = why
    if "back" in found:
        back = None

    compared: dict[Role, list[_Halves]] = {}
    for role, side in sides.items():
        if role in found:
            continue
        halves = _halves(role, side, front, back)
        if _must_look_alike(front, side) and halves[0].least > OTHER_COLORS:
            found[role] = OTHER_PRODUCT
        else:
            compared[role] = halves
    if len(compared) == 2 and (why := _doubt_outline(sides["left"], sides["right"])):
        worst = max(compared, key=lambda role: sum(each.doubt + each.least for each in compared[role]))
        found[worst] = why
        del compared[worst]
    together = [each for halves in compared.values() for each in halves]
    if together and sum(each.doubt for each in together) > EXCHANGED_COLORS[len(together)]:
        found |= dict.fromkeys(compared, EXCHANGED)
    return found


def _is_copy(front: _Side, other: _Side) -> bool:
    """True if a photo is the front's again. It cannot be told where the front is symmetric: other sides may look the same."""
    if front.mask.shape != other.mask.shape:
        return False
    return _difference(front, other) < SAME_PICTURE and _difference(front, front.mirrored) > 2 * SAME_PICTURE


def _difference(one: _Side, other: _Side) -> float:
    """Return the mean difference of the colours of two pictures of one size; infinity if the outlines differ."""
    both, either = one.mask & other.mask, one.mask | other.mask
    if both.sum() < 0.97 * either.sum():
        return math.inf
    return float(np.linalg.norm(one.lab[both] - other.lab[both], axis=1).mean())


def _must_look_alike(front: _Side, side: _Side) -> bool:
    """False for a box, which may have another colour on each side, and for an edge."""
    return not side.is_thin and not (side.is_box and front.is_box)


def _doubt_back(front: _Side, back: _Side) -> str | None:
    if why := _doubt_outline(front, back):
        return why
    rims = _Halves(
        stated=(_distance(front, RIM, back, -RIM) + _distance(front, -RIM, back, RIM)) / 2,
        wrong=(_distance(front, RIM, back, RIM) + _distance(front, -RIM, back, -RIM)) / 2,
    )
    if rims.doubt > MIRRORED_COLORS:
        return MIRRORED
    # A clock has another colour behind, in the very same outline.
    same_outline = _nearness(front.outline, back.outline[:, ::-1]) > SURE_OUTLINE
    return OTHER_PRODUCT if rims.least > OTHER_COLORS and not same_outline else None


def _doubt_outline(side: _Side, opposite: _Side) -> str | None:
    """Compare the outlines of two opposite sides, one of which is the other one mirrored."""
    mirrored = opposite.outline[:, ::-1]
    if _nearness(side.outline, mirrored) < SAME_OUTLINE:
        return OTHER_OUTLINE
    exchanged = _overlap(side.outline, opposite.outline) - _overlap(side.outline, mirrored)
    return MIRRORED if exchanged > MIRRORED_OUTLINE else None


def _halves(role: Role, side: _Side, front: _Side, back: _Side | None) -> list[_Halves]:
    """Compare the colours of a left or a right side with the front's, and with the back's if there is one.

    The product is taken for an elliptic cylinder at each height. The side's half that is next to the front shows what the
    front's half next to the side shows, from around the corner.
    """
    sine, cosine = np.sin(AROUND), np.cos(AROUND)
    left = 1 if role == "left" else -1
    found = [_Halves(*(_distance(front, turn * sine, side, -turn * cosine) for turn in (left, -left)))]
    if back:
        found.append(_Halves(*(_distance(back, -turn * sine, side, turn * cosine) for turn in (left, -left))))
    return found


def _distance(one: _Side, across: NDArray[np.floating], other: _Side, there: NDArray[np.floating]) -> float:
    """Return the mean difference of colours that two photos see at places of each row, at the shift and exposure that fit best."""
    (ours, inside), (theirs, also) = one.at(across), other.at(there)
    best = math.nan
    for shift in range(-SLACK, SLACK + 1):
        here = slice(max(0, shift), ROWS + min(0, shift))
        beside = slice(max(0, -shift), ROWS + min(0, -shift))
        both = inside[here] & also[beside]
        if both.mean() < LEAST_COMMON:
            continue
        apart = (ours[here] - theirs[beside])[both]
        apart = (apart - np.median(apart, axis=0).clip(-EXPOSURE, EXPOSURE)) * WEIGHTS
        best = float(np.fmin(best, np.linalg.norm(apart, axis=1).clip(max=MOST).mean()))
    return best


def _nearness(one: Mask, other: Mask) -> float:
    """Return how much of each outline's area lies near the other's, whichever is less, at the shift that fits best."""
    ours, theirs = _centred(one, other)
    away = ndimage.distance_transform_edt(~ours)
    best = 0.0
    for across in (-4, -2, 0, 2, 4):
        for down in (-3, 0, 3):
            moved = np.roll(theirs, (down, across), axis=(0, 1))
            back = ndimage.distance_transform_edt(~moved)
            best = max(best, min((away[moved] <= NEAR).mean(), (back[ours] <= NEAR).mean()))
    return best


def _overlap(one: Mask, other: Mask) -> float:
    """Return the intersection over union of two outlines, at the shift to the side that fits best."""
    ours, theirs = _centred(one, other)
    moved = (np.roll(theirs, shift, axis=1) for shift in range(-SLACK, SLACK + 1))
    return max(float((ours & there).sum() / (ours | there).sum()) for there in moved)


def _centred(one: Mask, other: Mask) -> tuple[Mask, Mask]:
    """Put two masks into frames of one size, with room around them."""
    height, width = (max(sides) + 2 * SLACK for sides in zip(one.shape, other.shape, strict=True))

    def framed(mask: Mask) -> Mask:
        top, left = (height - mask.shape[0]) // 2, (width - mask.shape[1]) // 2
        frame = np.zeros((height, width), np.bool_)
        frame[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        return frame

    return framed(one), framed(other)
