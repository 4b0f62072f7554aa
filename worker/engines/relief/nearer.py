"""Tell a part from a wider one behind it by their colours, where the photo from the side shows a gap between them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.relief.outline import FloatMap, Measured
from worker.engines.surface import Role
from worker.engines.views import Mask

GAP = 0.002  # of the picture's area, which a gap fills at least
LEAST = 60  # pixels of each part beside a gap, which tell its colours
LIGHT = 8  # bins of a colour's brightness, which varies with the light
HUES = 24  # bins of red against green, and of yellow against blue
RARE = 0.02  # pixels of a part in a bin, at which it tells half as much
SURE = 0.4  # certainty, 0..1, from which on a colour is one part's
OWN = 0.5  # of each part's pixels, which surely are its own where colours tell the parts apart
SOFT = (1.0, 1.5)  # pixels, over which the photo from the side and a facing one are averaged
SEEN = 3  # pixels of a row that are surely one part's, at least
REACH = 0.5  # of a gap's height, above and below which colours tell the same parts apart
EVEN = (5, 3)  # rows and columns of a window in which most pixels decide
CLEAR = 64  # of 255: less alpha than in any pixel at a rim
CRUMB = 0.1  # of the largest piece of the nearer part: smaller ones are none of it
BESIDE = 2  # rows above and below, in which the nearer part is no wider either: samples lie between rows
BEYOND = 8  # rows above and below, in which its outline goes on, so that it is inflated as if it did

Rows = NDArray[np.float32]  # (S,)


class Nearer(NamedTuple):
    """The parts that are nearest to the camera of a facing photo, where wider ones stand behind them."""

    outline: Measured  # of these parts, at about these heights
    end: Rows  # (S,) where they end at each row along the photo's axis; NaN where nothing is wider behind


class _Behind(NamedTuple):
    """A part behind a nearer one, in a facing photo."""

    mask: Mask  # (S, S) beside the nearer one
    end: Rows  # (S,) where the nearer one ends along the photo's axis


def nearer(facing: Sequence[Measured], side: Measured) -> list[Nearer]:
    """Find parts that are narrower than what stands behind them, as the head of a horse is narrower than the arms of its rider.

    A facing photo shows the one in front of the other, and its outline is that of both. But where it shows the colours of the part
    behind, the space before that part is empty, as far as the side shows the other one's colours or the gap. Where colours do not tell
    two parts apart, nothing is found.

    Args:
        facing: the front and the back, or one of them.
        side: the left or the right.
    """
    mask = side.mask
    within = np.logical_or.accumulate(mask, axis=1)
    within &= np.logical_or.accumulate(mask[:, ::-1], axis=1)[:, ::-1]
    gaps, _ = ndimage.label(within & ~mask)
    wide = np.flatnonzero(np.bincount(gaps.ravel())[1:] >= GAP * mask.size) + 1
    if not len(wide):
        return []
    bins = {outline.role: _bins(outline) for outline in (*facing, side)}
    inner = ndimage.binary_erosion(mask)
    found: dict[Role, list[_Behind]] = {outline.role: [] for outline in facing}
    for gap in (gaps == of for of in wide):
        colors = _colors(gap, inner, bins[side.role])
        if colors is None:
            continue
        beside = _averaged(colors[bins[side.role]], mask, SOFT[0])
        for outline in facing:
            part = _behind(
                outline, _averaged(colors[bins[outline.role]], outline.mask, SOFT[1]), side, beside, gap
            )
            if part is not None:
                found[outline.role].append(part)
    return [_before(outline, found[outline.role]) for outline in facing if found[outline.role]]


def _before(facing: Measured, behind: Sequence[_Behind]) -> Nearer:
    """Return what is left of a photo's outline without parts behind; of two at the same height, the wider one counts."""
    widths = np.array([part.mask.sum(axis=1) for part in behind])
    rows, widest = np.arange(widths.shape[1]), widths.argmax(axis=0)
    far, end = (np.array(of)[widest, rows] for of in zip(*behind, strict=True))
    own = facing.mask & ~far
    known = np.flatnonzero(widths.any(axis=0))
    source = _nearest(known, len(rows))
    apart = np.abs(source - rows)
    own = own[source] & facing.mask & (apart <= BEYOND)[:, None]
    view = facing.view.copy()
    view[~own] = 0
    return Nearer(
        facing._replace(view=view, mask=own), np.where(apart > BESIDE, np.float32(np.nan), end[source])
    )


def _colors(gap: Mask, inner: Mask, bins: NDArray[np.intp]) -> Rows | None:
    """Return how surely each bin's colour is that of the part left of a gap, 1, or right of it, -1.

    None where the colours do not tell the parts apart.
    """
    rows = gap.any(axis=1, keepdims=True)
    left, right = gap.argmax(axis=1)[:, None], gap.shape[1] - gap[:, ::-1].argmax(axis=1)[:, None]
    column = np.arange(gap.shape[1])
    parts = [bins[inner & rows & beside] for beside in (column < left, column >= right)]
    if min(map(len, parts)) < LEAST:
        return None
    one, other = (_histogram(part) for part in parts)
    sure = np.asarray((one - other) / (one + other + RARE), np.float32)
    return sure if min((sure[parts[0]] > SURE).mean(), (sure[parts[1]] < -SURE).mean()) > OWN else None


def _histogram(bins: NDArray[np.intp]) -> Rows:
    count = np.bincount(bins, minlength=LIGHT * HUES * HUES).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(count.reshape(LIGHT, HUES, HUES), 1.0).ravel())


def _bins(outline: Measured) -> NDArray[np.intp]:
    """(S, S) the bin of each pixel's colour."""
    red, green, blue = np.moveaxis(outline.view[..., :3] / np.float32(255), -1, 0)
    light = (red + green + blue) / 3 * LIGHT
    hues = [(hue + 1) / 2 * HUES for hue in (red - green, (red + green) / 2 - blue)]
    levels = zip((light, *hues), (LIGHT, HUES, HUES), strict=True)
    places = [np.minimum(level, count - 1).astype(np.intp) for level, count in levels]
    return np.asarray((places[0] * HUES + places[1]) * HUES + places[2])


def _averaged(image: FloatMap, mask: Mask, soft: float) -> FloatMap:
    inside = ndimage.gaussian_filter(mask.astype(np.float32), soft)
    return np.asarray(
        ndimage.gaussian_filter(image * mask, soft) / np.maximum(inside, 0.1) * mask, np.float32
    )


def _behind(
    facing: Measured, colors: FloatMap, side: Measured, beside: FloatMap, gap: Mask
) -> _Behind | None:
    """Find the part behind the nearer one.

    Args:
        facing: the photo that shows the one in front of the other.
        colors: (S, S) how surely each of its pixels is one part's, 1, or the other's, -1.
        side: the photo that shows both.
        beside: (S, S) the same for its pixels.
        gap: (S, S) between the parts in that photo.
    """
    beside, gap, along = _from_near_to_far(facing, side, beside, gap)
    known, every = gap.any(axis=1), np.arange(len(gap))
    # Of which part the nearest colours are: at a gap, those of most of what is before it.
    sure = np.abs(beside) > SURE
    which = np.where(sure.any(axis=1), np.sign(beside[every, sure.argmax(axis=1)]), 0)
    before = ~np.logical_or.accumulate(gap, axis=1)
    which[known] = np.sign((beside * before)[known].sum())
    other = beside * which[:, None] < -SURE
    own = colors * which[:, None]
    near, far = own > SURE, own < -SURE
    shown = (known | other.any(axis=1)) & (far.sum(axis=1) >= SEEN)
    seen = near.sum(axis=1) >= SEEN
    # Small holes of an outline are filled, but nothing that is near is there.
    far |= facing.mask & (facing.view[..., 3] < CLEAR)
    near &= (shown & seen)[:, None]
    far &= (shown & seen)[:, None]
    # From the outline inwards: a print or an eye of the nearer part lies inside of its outline.
    outer = facing.mask & (_outside(near, far) | _outside(near[:, ::-1], far[:, ::-1])[:, ::-1])
    regions, _ = ndimage.label(far | outer)
    reached = ndimage.binary_dilation(known, iterations=int(REACH * known.sum()) + 1)
    kept = np.intersect1d(regions[outer], regions[reached])
    far = np.isin(regions, kept[kept > 0])
    claimed = np.flatnonzero(far.any(axis=1))
    if not len(claimed):
        return None
    # What is too small to be seen before the other part, as an ear, is no wider than the rest of the nearer part.
    small = np.flatnonzero(known & shown & ~seen)
    source = claimed[np.abs(claimed - small[:, None]).argmin(axis=1)]
    far[small] = far[source] | ~facing.mask[source]
    # Between the two, a photo's pixels are of both.
    far |= ndimage.binary_dilation(far) & (own < SURE)
    far = ndimage.median_filter(far, EVEN) & facing.mask
    pieces, _ = ndimage.label(facing.mask & ~far & far.any(axis=1)[:, None])
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    # A cuff may have a colour that the nearer part has too, but it is cut off from it.
    far |= facing.mask & (sizes < CRUMB * sizes.max())[pieces] & (pieces > 0)
    far &= (facing.mask & ~far).any(axis=1)[:, None]
    if not far.any():
        return None
    return _Behind(far, _end(beside * which[:, None], gap, along))


def _end(beside: FloatMap, gap: Mask, along: Rows) -> Rows:
    """Return where the nearer part ends at each row: at the far end of the gap, or where colours change, if that is nearer."""
    size = len(gap)
    other = beside < -SURE
    change = np.where(other.any(axis=1), other.argmax(axis=1), size)
    last = size - (gap | (beside > SURE) & (np.arange(size) < change[:, None]))[:, ::-1].argmax(axis=1)
    known = gap.any(axis=1)
    end = np.where(known, np.minimum(size - gap[:, ::-1].argmax(axis=1), change), last)
    end = end[_nearest(np.flatnonzero(known | other.any(axis=1)), size)].clip(0, size - 1)
    return np.asarray(ndimage.gaussian_filter1d(ndimage.median_filter(along[end], EVEN[0]), 1.0), np.float32)


def _from_near_to_far(
    facing: Measured, side: Measured, beside: FloatMap, gap: Mask
) -> tuple[FloatMap, Mask, Rows]:
    """Give the side the rows of a facing photo, and columns from what is nearest to its camera to what is farthest.

    Returns:
        `beside`, `gap` and (S,) where the columns are along the photo's axis.
    """
    size = len(gap)
    place = (np.arange(size) + 0.5) / size - 0.5
    up = facing.camera.center[1] - place * facing.camera.side
    row = (0.5 - (up - side.camera.center[1]) / side.camera.side) * size - 0.5
    rows = np.rint(row).clip(0, size - 1).astype(np.intp)
    right = side.camera.rotation[0, 2].round()
    along = (side.camera.center[2] + right * place * side.camera.side).astype(np.float32)
    step = -1 if right * facing.camera.rotation[2, 2] > 0 else 1
    return beside[rows, ::step], gap[rows, ::step], along[::step]


def _nearest(known: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """(count,) the nearest of the known rows to each row."""
    return np.asarray(known[np.abs(np.arange(count)[:, None] - known).argmin(axis=1)])


def _outside(near: Mask, far: Mask) -> Mask:
    """Return what is far, and what is left of that, up to the first pixel from the left that is near."""
    outer = far & ~np.logical_or.accumulate(near, axis=1)
    return np.asarray(np.logical_or.accumulate(outer[:, ::-1], axis=1)[:, ::-1])
