"""A picture of a textured mesh, by numpy alone: no display, no GL, the same on every machine."""

import numpy as np
from numpy.typing import NDArray

from worker.mesh.raster import raster

SAMPLES = 2  # a pixel and axis
FIELD_OF_VIEW = 20.0  # degrees: the long lens of a product photo
FILL = 0.9  # of the picture's side
# Direction (right, up, to the camera) and strength. The photos carry their own light, so this only models the form.
LIGHTS = (((-0.45, 0.65, 0.6), 0.42), ((0.8, 0.1, 0.35), 0.14))
AMBIENT = 0.58

Floats = NDArray[np.float32]


def render(
    positions: Floats,
    normals: Floats,
    uv: Floats,
    faces: NDArray[np.int32],
    texture: NDArray[np.uint8],
    *,
    azimuth: float,
    elevation: float,
    size: int,
    double_sided: bool = False,
) -> NDArray[np.uint8]:
    """The mesh in the middle of a transparent (size, size, 4) sRGB picture, straight alpha.

    Args:
        positions: (V, 3), y up, the front towards +z.
        normals: (V, 3) unit vectors.
        uv: (V, 2), v downwards.
        faces: (F, 3), counter-clockwise from outside.
        texture: (H, W, 3) sRGB.
        azimuth: degrees from the front towards the product's left, that is to +x.
        elevation: degrees above the horizon.
        size: pixels a side.
        double_sided: whether faces are drawn that are seen from inside.
    """
    wide = size * SAMPLES
    turn = _turn(azimuth, elevation)
    screen, depth = _project(positions @ turn.T, wide)
    if not double_sided:  # half the work, and no difference for a closed mesh
        a, b, c = (screen[faces[:, i]] for i in range(3))
        faces = faces[(b - a)[:, 0] * (c - a)[:, 1] < (b - a)[:, 1] * (c - a)[:, 0]]
    corners = screen[faces]

    # The nearest face of every pixel. 1/depth is linear on the screen, and greater is nearer.
    inverse = (1 / depth)[faces]
    best = np.zeros(wide * wide, np.float32)
    front = np.full(wide * wide, -1, np.int64)
    weights = np.zeros((wide * wide, 3), np.float32)
    for batch in raster(corners, wide, wide):
        near = np.einsum("ij,ij->i", batch.weight, inverse[batch.face])
        np.maximum.at(best, batch.pixel, near)
        seen = near == best[batch.pixel]
        front[batch.pixel[seen]] = batch.face[seen]
        weights[batch.pixel[seen]] = batch.weight[seen]

    hit = np.nonzero(front >= 0)[0]
    face = faces[front[hit]]
    weight = weights[hit] * inverse[front[hit]]
    weight /= weight @ np.ones((3, 1), np.float32)
    direction = np.einsum("ij,ijk->ik", weight, normals[face]) @ turn.T
    albedo = _linear(_sample(texture, np.einsum("ij,ijk->ik", weight, uv[face])))
    picture = np.zeros((wide * wide, 4), np.float32)
    picture[hit, :3] = albedo * _light(direction)[:, None]
    picture[hit, 3] = 1
    picture = picture.reshape(size, SAMPLES, size, SAMPLES, 4).mean(axis=(1, 3))
    color = picture[..., :3] / np.maximum(picture[..., 3:], 1e-6)
    return np.asarray((np.concatenate([_srgb(color), picture[..., 3:]], axis=2) * 255 + 0.5).astype(np.uint8))


def _turn(azimuth: float, elevation: float) -> Floats:
    """World → camera axes: right, up, towards the camera."""
    a, e = np.radians([azimuth, elevation])
    around = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    over = np.array([[1, 0, 0], [0, np.cos(e), -np.sin(e)], [0, np.sin(e), np.cos(e)]])
    return np.asarray(over @ around, np.float32)


def _project(points: Floats, wide: int) -> tuple[Floats, Floats]:
    """(V, 2) pixels and (V,) distances along the view; the lens is shifted so that the mesh fills the picture."""
    low, high = points.min(axis=0), points.max(axis=0)
    points = points - (low + high) / 2
    distance = np.linalg.norm(high - low) / 2 / np.sin(np.radians(FIELD_OF_VIEW / 2))
    depth = distance - points[:, 2]
    flat = points[:, :2] / depth[:, None] * np.array([1, -1])
    low, high = flat.min(axis=0), flat.max(axis=0)
    scale = FILL * wide / max((high - low).max(), 1e-9)
    return ((flat - (low + high) / 2) * scale + wide / 2).astype(np.float32), depth.astype(np.float32)


def _light(direction: Floats) -> Floats:
    """How bright a surface of each direction is; every light wraps round the form like that of a soft box."""
    direction = direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)
    total = AMBIENT + 0.06 * direction[:, 1]
    for towards, strength in LIGHTS:
        cosine = direction @ (np.array(towards, np.float32) / np.float32(np.linalg.norm(towards)))
        total = total + strength * np.clip((cosine + 0.35) / 1.35, 0, 1)
    return np.asarray(total, np.float32)


def _sample(texture: NDArray[np.uint8], uv: Floats) -> Floats:
    height, width = texture.shape[:2]
    x, y = np.clip(uv[:, 0] * width - 0.5, 0, width - 1), np.clip(uv[:, 1] * height - 0.5, 0, height - 1)
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[:, None], (y - top)[:, None]
    upper = texture[top, left] * (1 - across) + texture[top, right] * across
    lower = texture[bottom, left] * (1 - across) + texture[bottom, right] * across
    return np.asarray((upper * (1 - down) + lower * down) / 255, np.float32)


def _linear(color: Floats) -> Floats:
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _srgb(color: Floats) -> Floats:
    color = np.clip(color, 0, 1)
    return np.where(color <= 0.0031308, color * 12.92, 1.055 * color ** (1 / 2.4) - 0.055).astype(np.float32)
