"""Share one set of axes between photos of a product that were each framed alone.

The axes are those of glTF, and the unit is half of the front photo's side: the front photo fills the square from -1 to 1 in
x and y. The middle of the product's depth is at z = 0 where a photo from the side shows it.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.surface import AZIMUTHS, PosedView, Role, View
from worker.mesh.camera import Camera

Mask = NDArray[np.bool_]  # (S, S) on the pixels of a view

SPECK = 0.004  # of the largest part's area; smaller parts and holes are noise of the cut-out
OPPOSITE: dict[Role, Role] = {"front": "back", "back": "front", "left": "right", "right": "left"}
ROWS = 256  # heights at which two photos are compared
TILT = 0.05  # of the height, by which a photo may be shifted or scaled up and down
SOFT = 3.0  # pixels, over which the rows of a photo are smoothed
HOLD = 0.1  # what the greatest shift must gain in correlation
COARSE = 8  # pixels of a view in one sample, where two outlines are compared


class Outline(NamedTuple):
    """A photo's outline, and the parallel camera that places it around the product."""

    role: Role
    view: View
    mask: Mask  # true where the product is
    camera: Camera

    @property
    def unit(self) -> float:
        """The length of a pixel of the photo in the common axes."""
        return self.camera.side / len(self.view)


def silhouette(alpha: NDArray[np.uint8]) -> Mask:
    """Return the product's mask, cleaned of specks and pinholes; all false if there is no product."""
    mask = alpha > 127
    # The outermost pixels count as background, so that there is always a rim.
    mask[[0, -1]] = mask[:, [0, -1]] = False
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return mask
    sizes = np.bincount(parts.ravel())[1:]
    least = SPECK * sizes.max()
    mask = np.concatenate([[False], sizes >= least])[parts]
    holes, _ = ndimage.label(~mask)
    small = np.bincount(holes.ravel()) < least
    small[0] = False
    return np.asarray(mask | small[holes])


def align(views: Sequence[PosedView]) -> list[Outline]:
    """Find a camera for each view, so that all show the product at the same place and of the same size.

    The outlines have the same top and bottom. A photo from the opposite side shows the mirrored outline: where both are
    there, the second one is shifted and scaled until it covers the first one best.

    Args:
        views: the front first. Views without a product are left out.

    Returns:
        An outline for each view that shows a product, in the order of the views. Empty if the front shows none.
    """
    masks = [silhouette(view[..., 3]) for _, view in views]
    if not masks or not masks[0].any():
        return []
    aligned: list[Outline] = []
    for (role, view), mask in zip(views, masks, strict=True):
        if not aligned:
            camera = Camera(side=2.0, azimuth=AZIMUTHS[role])
        elif mask.any():
            twin = next((other for other in aligned if other.role == OPPOSITE[role]), None)
            camera = _upright(aligned[0], role, mask)
            outline = Outline(role, view, mask, camera)
            camera = _opposite(twin, mask, camera) if twin else _levelled(aligned[0], outline)
        else:
            continue
        aligned.append(Outline(role, view, mask, camera))
    return aligned


def _upright(front: Outline, role: Role, mask: Mask) -> Camera:
    """Place a camera that sees the mask as high as the front's, and the middle of its width on the vertical axis."""
    (top, bottom, left, right), (front_top, front_bottom, *sides) = _box(mask), _box(front.mask)
    size = len(mask)
    side = 2.0 * (front_bottom - front_top) / (bottom - top)
    # The front's middle is x = 0 only for the back; for a side it is where its depth is centred.
    axis = (sum(sides) / size - 1) if role == "back" else 0.0
    up = (1 - (front_top + front_bottom) / size) - (1 - (top + bottom) / size) * side / 2
    across = ((left + right) / size - 1) * side / 2
    return _camera(role, side, up, across, axis)


def _camera(role: Role, side: float, up: float, across: float, axis: float) -> Camera:
    """Make the camera whose picture shows the point `axis` of its horizontal at `across` units right of its middle."""
    camera = Camera(side=side, azimuth=AZIMUTHS[role])
    right = camera.rotation[0].round()  # along x or z
    where = -right * across + np.abs(right) * axis
    return Camera(side=side, azimuth=AZIMUTHS[role], center=(float(where[0]), up, float(where[2])))


def _opposite(twin: Outline, mask: Mask, start: Camera) -> Camera:
    """Shift and scale the camera a little, until its outline is the mirrored one of the photo from the other side."""
    size = len(mask)
    first, last = (
        (middle + 0.5) * twin.unit - twin.camera.side / 2
        for middle in (COARSE / 2 - 0.5, size - COARSE / 2 - 0.5)
    )
    right = twin.camera.rotation[0]
    # What the first and the last sample of the twin's picture show.
    ends = np.asarray(twin.camera.center) + np.array([first, last])[:, None] * (
        right - np.array([0.0, 1.0, 0.0])
    )
    wanted = twin.mask.reshape(size // COARSE, COARSE, -1, COARSE).mean(axis=(1, 3), dtype=np.float32)
    picture = ndimage.uniform_filter(mask.astype(np.float32), COARSE)
    total = float(wanted.sum())

    def overlap(camera: Camera) -> float:
        flat, _ = camera.project(ends.astype(np.float32))
        (column, row), (last_column, last_row) = flat.astype(np.float64) * size - 0.5
        steps = np.array([last_row - row, last_column - column]) / (len(wanted) - 1)
        seen = ndimage.affine_transform(picture, steps, (row, column), wanted.shape, order=1, mode="constant")
        both = float(np.minimum(seen, wanted).sum())
        return both / max(float(seen.sum()) + total - both, 1e-9)

    best, reached = start, overlap(start)
    for step in (0.02, 0.008, 0.003):  # of the twin's picture
        around = best
        for grow, sideways, upwards in product((-1, 0, 1), repeat=3):
            x, y, z = np.asarray(around.center) + step * twin.camera.side * (
                sideways * right + np.array([0, upwards, 0])
            )
            tried = Camera(
                side=around.side * (1 + grow * step),
                azimuth=around.azimuth,
                center=(float(x), float(y), float(z)),
            )
            if (score := overlap(tried)) > reached + 1e-6:
                best, reached = tried, score
    return best


def _levelled(front: Outline, outline: Outline) -> Camera:
    """Shift and scale the camera a little, until what is at one height in both photos is at one height.

    In perspective, what is nearer to a camera is larger, so that tops and bottoms alone place a photo badly. The outlines'
    widths and the colours change at the same heights: at a neck, a brim, a seat, a collar.
    """
    (top, bottom, *_), size = _box(front.mask), len(front.mask)
    middle, high = 1 - (top + bottom) / size, 2 * (bottom - top) / size
    up = middle + high * np.linspace(-0.55, 0.55, ROWS)
    wanted, bands = (_bands(of) for of in (front, outline))
    wanted = _at(wanted, up, front.camera)
    best, reached = outline.camera, -np.inf
    for scale, shift in product(1 + TILT * np.linspace(-1, 1, 9), TILT * high * np.linspace(-1, 1, 17)):
        x, y, z = outline.camera.center
        center = (x * scale, middle + (y - middle) * scale + shift, z * scale)
        camera = replace(outline.camera, side=outline.camera.side * scale, center=center)
        found = _at(bands, up, camera)
        score = float((found * wanted).sum() / np.sqrt((found**2).sum() * (wanted**2).sum() + 1e-12))
        score -= HOLD * (((scale - 1) / TILT) ** 2 + (shift / TILT / high) ** 2)
        if score > reached:
            best, reached = camera, score
    return best


def _bands(outline: Outline) -> NDArray[np.float64]:
    """Return how the width and the mean colour change from row to row of the photo: (4, S), of about the same variance."""
    inside = outline.mask.sum(axis=1)
    totals = [np.where(outline.mask, outline.view[..., i], 0).sum(axis=1) for i in range(3)]
    color = np.stack(totals, axis=1) / np.maximum(inside, 1)[:, None]
    rows = np.flatnonzero(inside)
    color = color[np.clip(np.arange(len(color)), rows[0], rows[-1])] / 255
    signals = np.concatenate([np.log(inside * outline.unit + 0.05)[None] / 2, color.T])
    return np.asarray(ndimage.gaussian_filter1d(signals, SOFT, axis=1, order=1))


def _at(bands: NDArray[np.float64], up: NDArray[np.float64], camera: Camera) -> NDArray[np.float64]:
    """Sample (4, S) rows of a photo at the (N,) heights that its camera shows there: (4, N)."""
    row = (0.5 - (up - camera.center[1]) / camera.side) * bands.shape[1] - 0.5
    return np.stack([np.interp(row, np.arange(bands.shape[1]), band) for band in bands])


def _box(mask: Mask) -> tuple[int, int, int, int]:
    """Return the first and the last row and column of the mask, the last ones exclusive: top, bottom, left, right."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
