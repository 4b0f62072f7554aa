"""Colour a surface from the photos: where a photo saw it, and where none did."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.relief.inflate import relax
from worker.engines.relief.outline import FloatMap, Measured, grow, lookup
from worker.engines.relief.rows import colors_around
from worker.engines.relief.share import Height
from worker.engines.relief.solid import Solid
from worker.engines.surface import Colors, Points
from worker.engines.views import Mask
from worker.mesh.doubled import doubled
from worker.mesh.project import SPILT, behind, gaps

# Cosines to the camera: below the first, colours come from the rim; above the second, from the photo.
TURN = (0.1, 0.5)
FACING = 0.03  # cosine to the camera below which a photo saw nothing
HIDDEN = (2.0, 4.0)  # samples behind the nearest surface: seen below the first, hidden above the second
ON_LINE = 1e-3  # samples beside a line of them, within which a point lies on it
BESIDE = 8.0  # samples beside the outline of something nearer, at most, where it may show
INSIDE = (0.5, 2.5)  # pixels from the outline, where the background shows through
SURE = (0.1, 0.3)  # how well a point was seen: above the second, its colour is the photos'
INVENTED = 0.6  # trust in a mirrored photo; 1 is that in a photo
FILL_GRID = 64  # cells along the longest axis, in which the colours of unseen parts are found
BORDER = 3  # cells of that grid: what is seen closer to what is not tells its colours
INNER = 0.01  # the weight of what is farther: it counts where there is nothing else
RARE = 0.15  # from the median of its height, at which a colour counts half; 1 is black to white
RAREST = 3  # times that: beyond it, a colour counts no less
EVERY = 8  # of the surface's points, those from which the colours of unseen parts are found
BAND = 16  # width in pixels of the rim that colours sides and back


def paint_front(front: Height) -> Callable[[Points], Colors]:
    """Return the colour function: the photo where the surface faces the camera, blended colours of the rim elsewhere."""
    view, mask = front.outline.view, front.mask
    size, inner = view.shape[1], front.inner
    photo = grow(view, mask, inner)
    slope = np.hypot(*np.gradient(front.squared / np.float32(front.outline.unit**2)))[:, :, None]
    maps = np.concatenate([photo, _rim(photo, mask, inner), slope], axis=2).astype(np.float32)

    def color(points: Points) -> Colors:
        column = (points[:, 0] + 1) * (size / 2) - 0.5
        row = (1 - points[:, 1]) * (size / 2) - 0.5
        here = lookup(maps, row, column)
        rise = points[:, 2] * size
        facing = rise / np.maximum(np.hypot(rise, here[:, 6]), 1e-6)
        share = np.clip((facing - TURN[0]) / (TURN[1] - TURN[0]), 0, 1)[:, None]
        share = share * share * (3 - 2 * share)
        return np.asarray(share * here[:, :3] + (1 - share) * here[:, 3:6], np.float32)

    return color


def _rim(photo: FloatMap, mask: Mask, inner: FloatMap) -> FloatMap:
    """Return the colours of what the photo does not show, (S, S, 3), and continue them outwards.

    They are those of rows whose colour goes round, and between them the rim's, blended over the inside like a film of soap.
    """
    # The outermost pixels are dark because light falls off there, so the colours come from a broad band.
    band = (mask & (inner < BAND)).astype(np.float32)
    blur = BAND / 3
    weight = np.maximum(ndimage.gaussian_filter(band, blur), 1e-6)[:, :, None]
    colors = ndimage.gaussian_filter(photo * band[:, :, None], (blur, blur, 0)) / weight
    edge = mask & (inner < 3)
    nearest = ndimage.distance_transform_edt(~edge, return_distances=False, return_indices=True)
    # Half of the resolution is enough for smooth colours. Products vary less along a row than along a column.
    around, known = colors_around(photo[::2, ::2], mask[::2, ::2])
    known &= ~edge[::2, ::2]
    start = np.where(known[:, :, None], around, colors[tuple(nearest)][::2, ::2])
    film = relax(start, (mask & ~edge)[::2, ::2] & ~known, across=0.8)
    film = ndimage.zoom(film, (2, 2, 1), order=1, grid_mode=True, mode="nearest")
    inside = mask & (inner > BAND)
    if not inside.any():
        return np.asarray(film)
    # Light falls off towards the rim. Correct for it, or the back would be darker than the front.
    bright, dull = (max(float(np.median(image[inside].mean(axis=1))), 0.01) for image in (photo, film))
    gain = min(max(bright / dull, 1), 1.3)
    return np.asarray(film * (1 + (gain - 1) * np.minimum(inner / (2 * BAND), 1))[:, :, None], np.float32)


class _Sight:
    """A photo's colours on the surface, and how well the photo saw it there."""

    def __init__(self, outline: Measured, solid: Solid, points: Points) -> None:
        """Take a photo, the solid, and (V, 3) points on its surface, close to each other."""
        self.camera, self.solid = outline.camera, solid
        self.maps = np.concatenate([outline.colors, np.minimum(outline.inner, INSIDE[1])[:, :, None]], axis=2)
        # The camera looks along an axis of the grid. Where a line of samples goes inside, it has a point of the surface.
        toward = outline.camera.rotation[2].round()
        self.axis = int(np.abs(toward).argmax())
        self.sign = float(toward[self.axis])
        self.across = [k for k in range(3) if k != self.axis]
        lines = [solid.volume.shape[k] for k in self.across]
        line, depth, beside = self._place(points)
        on_line = np.flatnonzero(beside < ON_LINE)
        nearest = np.full(lines[0] * lines[1], np.inf, np.float32)
        np.minimum.at(nearest, line[on_line], np.ceil(depth[on_line]))
        nearest = nearest.reshape(lines)
        self.depth = ndimage.minimum_filter(nearest, 3).ravel()
        # What is nearer may show a little beside its outline, on what is farther.
        gap = gaps(-nearest)
        distance, step = ndimage.distance_transform_edt(gap <= HIDDEN[1], return_indices=True)
        most = np.minimum(SPILT[0] * gap[tuple(step)], BESIDE)
        self.sure = ~((distance < most) & behind(-nearest, gap, step)).ravel()

    def _place(self, points: Points) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
        """Return the lines of samples on which the camera sees (N, 3) points.

        Also how many samples away from the grid's near end the points are, and how many beside their lines.
        """
        at, shape = (points - self.solid.origin) / np.float32(self.solid.cell), self.solid.volume.shape
        depth = at[:, self.axis] if self.sign < 0 else shape[self.axis] - 1 - at[:, self.axis]
        first, second = (at[:, k] for k in self.across)
        row, column = np.rint(first), np.rint(second)
        beside = np.maximum(np.abs(first - row), np.abs(second - column))
        rows, columns = (shape[k] for k in self.across)
        line = row.clip(0, rows - 1) * columns + column.clip(0, columns - 1)
        return line.astype(np.intp), depth, beside

    def look(self, points: Points, normals: Points) -> tuple[NDArray[np.intp], Colors, NDArray[np.float32]]:
        """Return which of (N, 3) points the photo may have seen, its colours there, and how well it saw them.

        That is 0 for not at all, and 1 for straight on.
        """
        facing = _rise(normals[:, self.axis] * np.float32(self.sign), FACING, 1)
        ahead = np.flatnonzero(facing)
        points = points[ahead]
        flat, _ = self.camera.project(points)
        place = flat.T * np.float32(len(self.maps)) - np.float32(0.5)
        here = lookup(self.maps, place[1], place[0])
        line, depth, _ = self._place(points)
        shown = 1 - _rise(depth - self.depth[line], *HIDDEN)
        return ahead, here[:, :3], facing[ahead] * shown * self.sure[line] * _rise(here[:, 3], *INSIDE)


def paint(
    outlines: Sequence[Measured], inferred: Sequence[Measured], solid: Solid, points: Points
) -> Callable[[Points], Colors]:
    """Return the colour function of a surface that several photos show.

    A point has the colour of the photo that saw it best. What no photo saw has the colours around it.

    Args:
        outlines: of the photos.
        inferred: likely pictures of sides that no photo shows.
        solid: its surface is painted.
        points: (V, 3) on the surface, close to each other.
    """
    slopes = np.gradient(_halved(solid.volume))
    sights = [(_Sight(outline, solid, points), 1.0) for outline in outlines]
    sights += [(_Sight(outline, solid, points), INVENTED) for outline in inferred]

    def seen(points: Points) -> tuple[Colors, NDArray[np.float32]]:
        at = ((points - solid.origin) / np.float32(2 * solid.cell) - np.float32(0.25)).T
        uphill = np.stack([ndimage.map_coordinates(s, at, order=1, mode="nearest") for s in slopes], axis=1)
        normals = -uphill / np.maximum(np.linalg.norm(uphill, axis=1, keepdims=True), 1e-20)
        total, weight = np.zeros((len(points), 3), np.float32), np.full(len(points), 1e-9, np.float32)
        best = np.zeros(len(points), np.float32)
        for sight, trust in sights:
            ahead, color, share = sight.look(points, normals)
            share *= np.float32(trust)
            # The higher the exponent, the narrower the band in which two photos blend.
            sharp = share * share
            sharp *= sharp
            total[ahead] += sharp[:, None] * color
            weight[ahead] += sharp
            best[ahead] = np.maximum(best[ahead], share)
        return total / weight[:, None], best

    some = points[::EVERY]
    around = _Surroundings(some, *seen(some), solid)

    def color(points: Points) -> Colors:
        colors, best = seen(points)
        unsure = np.flatnonzero(best < SURE[1])
        share = _rise(best[unsure], *SURE)[:, None]
        colors[unsure] = share * colors[unsure] + (1 - share) * around.at(points[unsure])
        return np.clip(colors, 0, 1, out=colors)

    return color


class _Surroundings:
    """The colours that photos saw, continued over all that they did not see."""

    def __init__(self, points: Points, colors: Colors, best: NDArray[np.float32], solid: Solid) -> None:
        self.step = np.float32(solid.cell * max(1.0, max(solid.volume.shape) / FILL_GRID))
        self.origin = points.min(axis=0)
        shape = tuple(int(n) + 2 for n in np.ptp(points, axis=0) / self.step)
        cell = np.rint((points - self.origin) / self.step).astype(np.intp)
        index = np.ravel_multi_index(tuple(cell.T), shape)
        count = int(np.prod(shape))
        seen = np.where(best > SURE[1], best, 0).astype(np.float64)
        hidden = (np.bincount(index, minlength=count) > 0) & (np.bincount(index, seen, count) == 0)
        # A wing in the middle of what is seen says nothing of what is not: colours go on from the border.
        border = ndimage.binary_dilation(hidden.reshape(shape), iterations=BORDER).ravel()[index]
        telling = np.where(border, seen, INNER * seen)
        # Colours that are rare at their height, as that of a wing's tip, would tint all between them and the others.
        for row in range(shape[1]):
            its = np.flatnonzero((seen > 0) & (cell[:, 1] == row))
            if len(its):
                off = np.abs(colors[its] - np.median(colors[its], axis=0)).max(axis=1)
                telling[its] /= 1 + np.minimum(off / RARE, RAREST) ** 2
        own, sums = (
            np.stack([np.bincount(index, weight * layer, count) for layer in (*colors.T, 1)], axis=-1)
            .reshape(*shape, 4)
            .astype(np.float32)
            for weight in (seen, telling)
        )
        share = np.minimum(own[..., 3:], 1)
        mean = own[..., :3] / np.maximum(own[..., 3:], 1e-9)
        self.image = share * mean + (1 - share) * _pull_push(sums)

    def at(self, points: Points) -> Colors:
        at = ((points - self.origin) / self.step).T
        layers = [ndimage.map_coordinates(self.image[..., i], at, order=1, mode="nearest") for i in range(3)]
        return np.stack(layers, axis=1)


def _pull_push(sums: NDArray[np.float32], rows: int = 1) -> NDArray[np.float32]:
    """Fill the gaps of (X, Y, Z, 4) colours times weight, and weight, from what is known around them: (X, Y, Z, 3).

    After Gortler, Grzeszczuk, Szeliski and Cohen, "The lumigraph" (1996): average into coarser and coarser grids until there
    are no gaps, then fill each finer grid's gaps from the coarser one. Products vary less along a row than along a column, so
    that only every other time `rows` of cells are averaged upwards too.
    """
    shape = sums.shape[:3]
    known = sums[..., 3:]
    if max(shape) <= 2:
        mean = sums[..., :3].sum(axis=(0, 1, 2)) / max(float(known.sum()), 1e-9)
        return np.broadcast_to(np.asarray(mean, np.float32), (*shape, 3))
    padded = np.pad(sums, [(0, shape[0] % 2), (0, shape[1] % rows), (0, shape[2] % 2), (0, 0)])
    x, y, z = (n // of for n, of in zip(padded.shape, (2, rows, 2), strict=False))
    coarse = padded.reshape(x, 2, y, rows, z, 2, 4).sum(axis=(1, 3, 5))
    # A weight is at most 1, or the many far ones would drown the few near ones.
    coarse /= np.maximum(coarse[..., 3:], 1)
    filled = _pull_push(coarse, 3 - rows)
    for axis in range(3) if rows == 2 else (0, 2):
        filled = doubled(filled, axis)
    filled = filled[: shape[0], : shape[1], : shape[2]]
    share = np.minimum(known, 1)
    return np.asarray(share * sums[..., :3] / np.maximum(known, 1e-9) + (1 - share) * filled, np.float32)


def _halved(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means of every two samples along each axis."""
    for axis in range(3):
        first = np.moveaxis(volume, axis, 0)
        second = first[1::2] if len(first) % 2 == 0 else np.concatenate([first[1::2], first[-1:]])
        volume = np.moveaxis((first[::2] + second) * np.float32(0.5), 0, axis)
    return volume


def _rise(value: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """0 below `low`, 1 above `high`, linear between."""
    return np.asarray(np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1), np.float32)
