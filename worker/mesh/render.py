"""Render pictures of a textured mesh with numpy alone: no display, no OpenGL, the same on every machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.mesh.camera import Camera, rotation
from worker.mesh.mipmaps import MipMaps, srgb
from worker.mesh.rasterize import Covered, rasterize
from worker.mesh.shading import ambient_occlusion, lighting
from worker.mesh.textured import TexturedMesh

FIELD_OF_VIEW = 20.0  # degrees, as with the long lens of a product photo
FILL = 0.92  # part of the picture's side that the product and the core of its shadow take
BORDER = 0.08  # part of the picture's side over which the shadow fades out

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Viewpoint:
    """The direction from which the mesh is seen."""

    azimuth: float  # degrees around the product from its front at +z towards +x
    elevation: float  # degrees above the horizon

    @property
    def rotation(self) -> Floats:
        """(3, 3) matrix from the world's axes to the camera's: right, up, towards the camera."""
        return rotation(self.azimuth, self.elevation).astype(np.float32)


class Seen(NamedTuple):
    """The K samples of a picture that show the mesh."""

    at: NDArray[np.int64]  # (K,) row * width + column
    face: NDArray[np.int64]  # (K,)
    weight: Floats  # (K, 3) barycentric coordinates in the face, on the surface; their sum is 1


class Scene:
    """A mesh to be drawn, with what all its pictures share: the light that reaches it, and the texture's mipmaps."""

    def __init__(self, mesh: TexturedMesh) -> None:
        """Take a mesh that stands on y = 0, in any unit."""
        self.mesh = mesh
        self.ambient_occlusion, self.floor = ambient_occlusion(mesh.positions, mesh.normals, mesh.faces)
        self.texture = MipMaps(mesh.texture)
        self.texels_of_face = np.abs(_area(mesh.uv[mesh.faces])) * self.texture.texels

    def camera(self, viewpoints: Sequence[Viewpoint]) -> Camera:
        """Place one camera for all viewpoints.

        Returns:
            The camera in the axes of each viewpoint. It holds the whole mesh and its shadow in the middle of the picture,
            as large as the viewpoints allow. With one camera for all, a turntable neither jumps nor breathes.
        """
        low, high = self.mesh.positions.min(axis=0), self.mesh.positions.max(axis=0)
        reach = 0.04 * float((high - low).max())
        (x0, _, z0), (x1, _, z1) = low - reach, high + reach
        spread = np.array([[x, 0, z] for x in (x0, x1) for z in (z0, z1)], np.float32)
        spread = 0.85 * spread + 0.15 * spread.mean(axis=0)  # it is round
        points = np.concatenate([self.mesh.positions, spread])
        turned = np.stack([points @ viewpoint.rotation.T for viewpoint in viewpoints])
        middle = (turned.min(axis=(0, 1)) + turned.max(axis=(0, 1))) / 2
        side = float(np.ptp(turned, axis=(0, 1))[:2].max())
        flat = turned.reshape(-1, 3)
        # Moving the camera moves near points more than far ones, so that it takes a few steps to settle.
        for _ in range(4):
            distance = (
                side / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2)) + float(np.ptp(turned[..., 2])) / 2
            )
            camera = Camera(
                center=(float(middle[0]), float(middle[1]), float(middle[2])), side=side, distance=distance
            )
            at, _ = camera.project(flat)
            box_low, box_high = at.min(axis=0), at.max(axis=0)
            shift = ((box_low + box_high) / 2 - 0.5) * side
            middle = middle + np.array([shift[0], -shift[1], 0])
            side *= float((box_high - box_low).max()) / FILL
        return camera

    def render(self, viewpoint: Viewpoint, camera: Camera, size: int, samples: int) -> NDArray[np.uint8]:
        """Draw the lit mesh and its shadow on the floor.

        Args:
            viewpoint: from where.
            camera: in the viewpoint's axes.
            size: pixels a side.
            samples: a pixel's samples along each axis.

        Returns:
            (size, size, 4) sRGB with straight alpha.
        """
        turn = viewpoint.rotation
        turned = self.mesh.positions @ turn.T
        wide = size * samples
        flat, near = camera.project(turned)
        flat *= np.float32(wide)
        seen = visible(flat, near, self.mesh.faces, camera, wide, double_sided=self.mesh.double_sided)
        corners = np.concatenate(
            [self.mesh.uv, self.mesh.normals @ turn.T, self.ambient_occlusion[:, None]], axis=1
        )[self.mesh.faces]
        found = mix(corners[seen.face], seen.weight)  # (K, 6)
        if self.mesh.double_sided:  # a wall that is seen from inside is lit on that side
            found[_area(flat[self.mesh.faces])[seen.face] > 0, 2:5] *= -1

        albedo = self.texture.sample(found[:, :2], self._level(flat)[seen.face])
        every = np.zeros((wide * wide, 8), np.float32)
        every[seen.at] = np.concatenate([albedo, found[:, 2:], np.ones((len(found), 1), np.float32)], axis=1)
        layers = _shrink(every.reshape(wide, wide, 8), samples)
        cover = layers[..., 7]
        whole = np.maximum(cover, 1e-6)
        length = np.linalg.norm(layers[..., 3:6], axis=-1, keepdims=True)
        light = lighting(layers[..., 3:6] / np.maximum(length, 1e-6)) * (layers[..., 6] / whole)
        shadow = self._shadow(turn, camera, size) * (1 - cover)
        alpha = cover + shadow
        color = np.asarray(layers[..., :3] * (light / np.maximum(alpha, 1e-6))[..., None], np.float32)
        picture = np.concatenate([srgb(color), alpha[..., None]], axis=2)
        return np.asarray(picture * 255 + 0.5).astype(np.uint8)

    def render_unlit(self, camera: Camera, size: int) -> NDArray[np.uint8]:
        """Draw the texture as it is, without light and shadow, one sample a pixel.

        Args:
            camera: in the mesh's own axes, such as the photo's.
            size: pixels a side.

        Returns:
            (size, size, 4) sRGB; alpha is 0 or 255.
        """
        flat, near = camera.project(self.mesh.positions)
        flat *= np.float32(size)
        seen = visible(flat, near, self.mesh.faces, camera, size, double_sided=self.mesh.double_sided)
        uv = mix(self.mesh.uv[self.mesh.faces[seen.face]], seen.weight)
        light = self.texture.sample(uv, self._level(flat)[seen.face])
        picture = np.zeros((size * size, 4), np.uint8)
        picture[seen.at, :3] = srgb(light) * 255 + 0.5
        picture[seen.at, 3] = 255
        return picture.reshape(size, size, 4)

    def _level(self, flat: Floats) -> NDArray[np.int32]:
        """(F,) the mipmap level with about one texel for every sample of the face."""
        seen = np.abs(_area(flat[self.mesh.faces]))
        ratio = np.maximum(self.texels_of_face, 1e-6) / np.maximum(seen, 1e-6)
        return np.asarray(np.clip(np.rint(np.log2(ratio) / 2), 0, 30), np.int32)

    def _shadow(self, turn: Floats, camera: Camera, size: int) -> Floats:
        """(size, size) alpha of the floor's shadow where the camera sees the floor."""
        up = turn[:, 1]  # the world's, in the camera's axes
        if up[2] <= 0.01:  # from below, or along the floor
            return np.zeros((size, size), np.float32)
        step = (np.arange(size) + 0.5) / size - 0.5
        x, y = np.meshgrid(step * camera.side, -step * camera.side)
        eye = np.add(camera.center, (0, 0, camera.distance))
        ray = np.stack([x, y, np.full_like(x, -camera.distance)], axis=-1)
        towards = ray @ up
        reach = np.where(towards < 0, -(eye @ up) / np.minimum(towards, -1e-9), 0)
        point = np.asarray((eye + ray * reach[..., None]) @ turn, np.float32)
        # A shadow may reach past the picture: it fades to nothing at the border.
        edge = np.clip((0.5 - np.abs(step)) / BORDER, 0, 1)
        fade = np.minimum(edge[:, None], edge[None, :])
        shadow = self.floor.at(point[..., 0], point[..., 2]) * fade * fade * (3 - 2 * fade)
        return np.where(reach > 0, shadow, 0).astype(np.float32)


def visible(
    flat: Floats,
    near: Floats,
    faces: NDArray[np.int32],
    camera: Camera,
    wide: int,
    *,
    double_sided: bool = False,
) -> Seen:
    """Find the nearest face at every sample of a (wide, wide) picture.

    Args:
        flat: (V, 2) in samples, x to the right and y down.
        near: (V,) nearness, as `camera` gives it.
        faces: (F, 3)
        camera: the one that projected the mesh.
        wide: samples a side.
        double_sided: True if faces that are seen from inside count too.
    """
    drawn = np.arange(len(faces))
    if not double_sided:  # half the work, and no difference for a closed mesh
        drawn = np.flatnonzero(_area(flat[faces]) < 0)
    shown = near[faces[drawn]]
    best = np.full(wide * wide, -np.inf, np.float32)
    none = np.zeros(0, np.int64)
    found = [(Covered(none, none, np.zeros((0, 3), np.float32)), np.zeros(0, np.float32))]
    for batch in rasterize(flat[faces[drawn]], wide, wide):
        depth = mix(shown[batch.face][..., None], batch.weight)[:, 0]
        np.maximum.at(best, batch.pixel, depth)
        found.append((batch, depth))
    # Where an edge lies right on a sample two faces are equally near; either will do.
    nearest = [(batch, depth == best[batch.pixel]) for batch, depth in found]
    at = np.concatenate([batch.pixel[k] for batch, k in nearest])
    face = np.concatenate([batch.face[k] for batch, k in nearest])
    weight = np.concatenate([batch.weight[k] for batch, k in nearest])
    # Perspective-correct: half-way in the picture is not half-way on the surface, because what is nearer looks larger.
    weight = weight * (1 + shown[face] / np.float32(camera.distance))
    weight /= weight.sum(axis=1, keepdims=True)
    return Seen(at, drawn[face], weight.astype(np.float32))


def mix(corners: Floats, weight: Floats) -> Floats:
    """Interpolate: (K, 3, C) values at the corners and (K, 3) weights → (K, C)."""
    a, b, c = weight[:, :1], weight[:, 1:2], weight[:, 2:]
    return np.asarray(a * corners[:, 0] + b * corners[:, 1] + c * corners[:, 2], np.float32)


def _area(corners: Floats) -> Floats:
    """(F,) signed area of (F, 3, 2) triangles; positive where they run clockwise in a picture, whose y goes down."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    double = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    return np.asarray(double / 2, np.float32)


def _shrink(image: Floats, by: int) -> Floats:
    """(H, W, C) → (H / by, W / by, C): the mean of every by² pixels."""
    rows = sum((image[k::by] for k in range(1, by)), start=image[::by])
    return np.asarray(sum((rows[:, k::by] for k in range(1, by)), start=rows[:, ::by]) / np.float32(by * by))
