"""The engine without weights: it inflates the silhouette of one photo like a balloon and paints it with the photo.

The result is a preview and not a reconstruction. Its front is the photo, and all that the photo does not show is invented.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

from worker.core.errors import JobError
from worker.core.settings import Device, Precision
from worker.engines.gate import Gate
from worker.engines.presets import Preset
from worker.engines.surface import Colors, Points, PosedView, SourceView, Surface, View
from worker.mesh.camera import Camera
from worker.mesh.isosurface import isosurface

FloatMap = NDArray[np.float32]  # (S, S) or (S, S, C), on the pixels of the view
Mask = NDArray[np.bool_]  # (S, S)

DEPTH = 0.46  # half of the greatest depth, as a share of the product's longer side
SPECK = 0.004  # of the largest part's area; smaller parts and holes are noise of the cut-out
MARGIN = 2  # samples around the product in the isosurface's grid
# Cosines to the camera: below the first, colours come from the rim; above the second, from the photo.
TURN = (0.1, 0.5)
SWEEPS = 6  # at the full resolution; twice as many at each coarser one
ROUND = 0.5  # 1: each part is as deep as it is wide; 0: the whole is one pillow
BAND = 16  # width in pixels of the rim that colours sides and back


def load(_weights_dir: Path, _device: Device, _precision: Precision, _gate: Gate | None = None) -> "Relief":
    """Make a Relief, which has no weights and computes on the CPU in float32."""
    return Relief()


class Relief:
    """The engine `relief`. It is deterministic."""

    name = "relief"
    version = "1"
    details: Mapping[str, Any] = MappingProxyType({"device": "cpu"})

    def reconstruct(self, views: Sequence[PosedView], preset: Preset) -> Surface:
        """Make the surface of the front view. The others are not used.

        Raises: JobError `no_surface`.
        """
        front = views[0].view
        mask = _silhouette(front[..., 3])
        if not mask.any():
            raise JobError("no_surface")
        return _inflate(front, mask, preset)


def _inflate(view: View, mask: Mask, preset: Preset) -> Surface:
    samples = preset.grid - 1 - 2 * MARGIN
    solid = _thicken(mask, max(_side(mask) / samples, 2.2))
    side = _side(solid)
    cell = side / samples  # pixels
    inner = _depth(solid)
    height = _height(solid, inner, DEPTH * side)  # pixels², the square of half the depth; negative outside

    # The grid spans the product's box and its depth; the plane of the photo is in the middle.
    rows, columns = np.nonzero(solid)
    x = _samples(columns, cell)
    y = _samples(rows, cell)
    layers = int(np.ceil(np.sqrt(height.max()) / cell)) + MARGIN
    z = np.arange(-layers, layers + 1, dtype=np.float32) * np.float32(cell)
    plane = _lookup(height, y[None, :].repeat(len(x), 0), x[:, None].repeat(len(y), 1))
    vertices, faces = isosurface(plane[:, :, None] - z**2)
    if not len(faces):
        raise JobError("no_surface")

    pixels = vertices * np.float32(cell) + np.array([x[0], y[0], z[0]], np.float32)
    half = np.float32(view.shape[1] / 2)
    points = np.stack([pixels[:, 0] + 0.5 - half, half - 0.5 - pixels[:, 1], pixels[:, 2]], axis=1) / half
    # Image rows point down and y points up: the flipped axis flips the faces too.
    faces = np.ascontiguousarray(faces[:, ::-1])
    return Surface(
        vertices=points.astype(np.float32),
        faces=faces,
        color=_painter(view, solid, inner, height),
        source_views=[SourceView(role="front", view=view, camera=Camera(side=2.0))],
    )


def _silhouette(alpha: NDArray[np.uint8]) -> Mask:
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


def _thicken(mask: Mask, radius: float) -> Mask:
    """Widen thin parts to `radius` pixels on each side of their spine, so that the grid can resolve them."""
    spine = skeletonize(mask) & (_depth(mask) < radius)  # type: ignore[no-untyped-call]  # has no types
    if not spine.any():
        return mask
    return np.asarray(mask | (_depth(~spine) <= radius - 0.5))


def _height(mask: Mask, inner: FloatMap, cap: float) -> FloatMap:
    """Return the square of half the depth in pixels². Outside it is negative, with the slope that it has at the rim."""
    height = ROUND * _balls(inner) + (1 - ROUND) * _relax(np.zeros_like(inner), mask, source=1.0)
    height /= np.sqrt(1 + (height / cap**2) ** 2)

    # The rim is half-way between the last pixel inside and the first one outside.
    outer, nearest = ndimage.distance_transform_edt(~mask, return_indices=True)
    slope = height / np.maximum(inner, 1)
    signed = np.where(mask, height - 0.5 * slope, -slope[tuple(nearest)] * (outer - 0.5))
    signed = signed.astype(np.float32)
    # Near the rim, fine smoothing keeps it in place; deep inside, broad smoothing removes creases where parts meet.
    deep = np.clip((inner - 6) / 18, 0, 1)
    return np.asarray(
        (1 - deep) * ndimage.gaussian_filter(signed, 1) + deep * ndimage.gaussian_filter(signed, 6)
    )


def _balls(radius: FloatMap) -> FloatMap:
    """Return the union of the largest ball around each pixel: max over c of radius(c)² - |p - c|², in pixels².

    A leg becomes a cylinder and a disk a sphere. The maximum is separable: first along the rows, then the columns.
    """
    (box,) = ndimage.find_objects((radius > 0).astype(np.int8))
    height = radius[box] ** 2
    for axis in (0, 1):
        source = np.moveaxis(height, axis, 0)
        target = source.copy()
        for shift in range(1, min(int(radius.max()) + 1, len(source))):
            lower = source - np.float32(shift**2)
            np.maximum(target[shift:], lower[:-shift], out=target[shift:])
            np.maximum(target[:-shift], lower[shift:], out=target[:-shift])
        height = np.moveaxis(target, 0, axis)
    balls = np.zeros_like(radius)
    balls[box] = height
    return np.where(radius > 0, balls, 0).astype(np.float32)


def _relax(values: FloatMap, free: Mask, *, source: float = 0.0, across: float = 0.5) -> FloatMap:
    """Solve Δu = -4 · source on the free pixels. The other pixels keep their values.

    From coarse to fine: each level starts with the solution of the next coarser one, so a few sweeps are enough.

    Args:
        values: (S, S) or (S, S, C), S a power of two.
        free: (S, S), true where the solution is wanted.
        source: 0 interpolates between the fixed values like a film of soap; 1 inflates it.
        across: the weight of the left and right neighbours; the rest is that of the ones above and below.
    """
    size = len(values)
    channels = values.reshape(size, size, -1)
    if size > 16:
        half = size // 2
        fixed = (~free).reshape(half, 2, half, 2).astype(np.float32)
        known = fixed.sum(axis=(1, 3))
        blocks = channels.reshape(half, 2, half, 2, -1)
        coarse = np.einsum("iajbc,iajb->ijc", blocks, fixed) / np.maximum(known, 1)[:, :, None]
        start = _relax(coarse, known < 2, source=4 * source, across=across)
        start = start.repeat(2, axis=0).repeat(2, axis=1)
        channels = np.where(free[:, :, None], start, channels)
    wide = size + 2
    flat = np.pad(channels, ((1, 1), (1, 1), (0, 0)), mode="edge").reshape(wide * wide, -1)
    rows, columns = np.nonzero(free)
    pixels = (rows + 1) * wide + columns + 1
    colors = [pixels[(rows + columns) % 2 == parity] for parity in (0, 1)]
    beside, above = np.float32(across / 2), np.float32((1 - across) / 2)
    for _ in range(SWEEPS * 512 // size):
        for at in colors:  # as on a chessboard: the white squares from the black ones, then the reverse
            pull = beside * (flat[at - 1] + flat[at + 1]) + above * (flat[at - wide] + flat[at + wide])
            flat[at] += np.float32(1.5) * (pull + np.float32(source) - flat[at])
    return np.asarray(flat.reshape(wide, wide, -1)[1:-1, 1:-1].reshape(values.shape))


def _painter(view: View, mask: Mask, inner: FloatMap, height: FloatMap) -> Callable[[Points], Colors]:
    """Return the colour function: the photo where the surface faces the camera, blended colours of the rim elsewhere."""
    size = view.shape[1]
    photo = _grow(view, mask, inner)
    slope = np.hypot(*np.gradient(height))[:, :, None]
    maps = np.concatenate([photo, _rim(photo, mask, inner), slope], axis=2).astype(np.float32)

    def color(points: Points) -> Colors:
        column = (points[:, 0] + 1) * (size / 2) - 0.5
        row = (1 - points[:, 1]) * (size / 2) - 0.5
        here = _lookup(maps, row, column)
        rise = points[:, 2] * size
        facing = rise / np.maximum(np.hypot(rise, here[:, 6]), 1e-6)
        share = np.clip((facing - TURN[0]) / (TURN[1] - TURN[0]), 0, 1)[:, None]
        share = share * share * (3 - 2 * share)
        return np.asarray(share * here[:, :3] + (1 - share) * here[:, 3:6], np.float32)

    return color


def _grow(view: View, mask: Mask, inner: FloatMap) -> FloatMap:
    """Return the photo's colours, (S, S, 3), with the product's colours continued past its rim, over the background."""
    # A part that is too thin to have an inside keeps the colours of its spine.
    sure = mask & (view[..., 3] > 127) & ((inner > 2.5) | (inner >= ndimage.maximum_filter(inner, 5)))
    nearest = ndimage.distance_transform_edt(~sure, return_distances=False, return_indices=True)
    return np.asarray(view[..., :3][tuple(nearest)] / np.float32(255), np.float32)


def _rim(photo: FloatMap, mask: Mask, inner: FloatMap) -> FloatMap:
    """Return the rim's colours, (S, S, 3), blended over the inside like a film of soap, and continued outwards."""
    # The outermost pixels are dark because light falls off there, so the colours come from a broad band.
    band = (mask & (inner < BAND)).astype(np.float32)
    blur = BAND / 3
    weight = np.maximum(ndimage.gaussian_filter(band, blur), 1e-6)[:, :, None]
    colors = ndimage.gaussian_filter(photo * band[:, :, None], (blur, blur, 0)) / weight
    edge = mask & (inner < 3)
    nearest = ndimage.distance_transform_edt(~edge, return_distances=False, return_indices=True)
    # Half of the resolution is enough for smooth colours. Products vary less along a row than along a column.
    film = _relax(colors[tuple(nearest)][::2, ::2], (mask & ~edge)[::2, ::2], across=0.8)
    film = ndimage.zoom(film, (2, 2, 1), order=1, grid_mode=True, mode="nearest")
    inside = mask & (inner > BAND)
    if not inside.any():
        return np.asarray(film)
    # Light falls off towards the rim. Correct for it, or the back would be darker than the front.
    bright, dull = (max(float(np.median(image[inside].mean(axis=1))), 0.01) for image in (photo, film))
    gain = min(max(bright / dull, 1), 1.3)
    return np.asarray(film * (1 + (gain - 1) * np.minimum(inner / (2 * BAND), 1))[:, :, None], np.float32)


def _side(mask: Mask) -> int:
    """Return the longer side of the mask's box in pixels, limited so that the grid is not finer than the photo."""
    rows, columns = np.nonzero(mask)
    return max(int(np.ptp(rows)), int(np.ptp(columns)), len(mask) // 8) + 1


def _depth(mask: Mask) -> FloatMap:
    """Return each pixel's distance to the nearest pixel outside of the mask."""
    return np.asarray(ndimage.distance_transform_edt(mask), np.float32)


def _samples(pixels: NDArray[np.intp], cell: float) -> FloatMap:
    """Return the grid's samples along one axis of the photo: the product's extent and a margin on both sides."""
    low, high = pixels.min() - MARGIN * cell, pixels.max() + MARGIN * cell
    count = int(np.ceil((high - low) / cell)) + 1
    return np.asarray(low + np.arange(count) * cell, np.float32)


def _lookup(image: FloatMap, row: FloatMap, column: FloatMap) -> FloatMap:
    """Sample (H, W) or (H, W, C) between its pixels, bilinearly. Outside of the image the border is used."""
    row = np.clip(row, 0, image.shape[0] - 1)
    column = np.clip(column, 0, image.shape[1] - 1)
    r = np.minimum(row.astype(np.intp), image.shape[0] - 2)
    c = np.minimum(column.astype(np.intp), image.shape[1] - 2)
    flat = image.reshape(-1, *image.shape[2:])
    at = r * image.shape[1] + c
    shape = (*row.shape, *(1,) * (image.ndim - 2))
    down, right = (row - r).reshape(shape), (column - c).reshape(shape)
    upper = flat[at] * (1 - right) + flat[at + 1] * right
    lower = flat[at + image.shape[1]] * (1 - right) + flat[at + image.shape[1] + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)
