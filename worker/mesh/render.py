"""Render pictures of a textured mesh with numpy alone: no display, no OpenGL, the same on every machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from worker.mesh.camera import Camera, rotation
from worker.mesh.mipmaps import MipMaps, srgb_bytes
from worker.mesh.rasterize import Nearest, nearest, planes, signed_area
from worker.mesh.shading import ambient_occlusion, lighting
from worker.mesh.textured import TexturedMesh

FIELD_OF_VIEW = 20.0  # degrees, as with the long lens of a product photo
FILL = 0.92  # part of the picture's side that the product and the core of its shadow take
ALIKE = 3.0  # pixels; samples whose depths differ by less show one surface
SHARPER = -0.5  # mipmap levels; a pixel is coloured from one place and not from many
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


class _Drawn(NamedTuple):
    """The D faces of a mesh that a picture may show."""

    face: NDArray[np.int64]  # (D,) in the mesh
    corners: Floats  # (D, 3, 2) pixels
    near: Floats  # (D, 3) as `Camera.project` counts it
    area: Floats  # (D,) square pixels; positive where a face is seen from inside


class Scene:
    """A mesh to be drawn, with what all its pictures share: the light that reaches it, and the texture's mipmaps."""

    def __init__(self, mesh: TexturedMesh) -> None:
        """Take a mesh that stands on y = 0, in any unit."""
        self.mesh = mesh
        self.ambient_occlusion, self.floor = ambient_occlusion(mesh.positions, mesh.normals, mesh.faces)
        self.texture = MipMaps(mesh.texture)
        self.uv_of_face = mesh.uv[mesh.faces]
        self.texels_of_face = np.abs(signed_area(self.uv_of_face)) * self.texture.texels

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
        # The picture's box is that of the convex hull, some hundred points. Joggled, so that a flat mesh has one too.
        points = points[ConvexHull(points, qhull_options="QJ").vertices]
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

        Visibility is found at every sample. A pixel that lies inside of one surface is coloured once, at its centre; one on
        an outline is coloured at each of its samples, as multisampling does it on a GPU.

        Args:
            viewpoint: from where.
            camera: in the viewpoint's axes.
            size: pixels a side.
            samples: a pixel's samples along each axis.

        Returns:
            (size, size, 4) sRGB with straight alpha.
        """
        turn = viewpoint.rotation
        drawn = self._draw(self.mesh.positions @ turn.T, camera, size)
        wide = size * samples
        seen = nearest(drawn.corners * np.float32(samples), drawn.near, wide, wide)
        pixel, face, place, share = _to_color(seen, size, samples, ALIKE * camera.side / size)

        normals = self.mesh.normals @ turn.T
        light = (lighting(normals) * self.ambient_occlusion)[self.mesh.faces[drawn.face]]
        if self.mesh.double_sided:  # a wall that is seen from inside is lit on that side
            inside = (lighting(-normals) * self.ambient_occlusion)[self.mesh.faces[drawn.face]]
            light = np.where(drawn.area[:, None] > 0, inside, light)
        uv, brightness = self._interpolate(drawn, light, camera, face, place)
        color = self.texture.sample(uv, self._level(drawn)[face])
        color *= (brightness * share)[:, None]

        cover = np.bincount(pixel, share, size * size)
        shadow = self._shadow(turn, camera, size).ravel() * (1 - cover)
        alpha = cover + shadow
        picture = np.zeros((size * size, 4), np.uint8)
        total = np.stack([np.bincount(pixel, color[:, i], size * size) for i in range(3)], axis=1)
        lit = np.flatnonzero(cover)
        picture[lit, :3] = srgb_bytes(total[lit] / alpha[lit, None])
        picture[:, 3] = alpha * 255 + 0.5
        return picture.reshape(size, size, 4)

    def render_unlit(self, camera: Camera, size: int) -> NDArray[np.uint8]:
        """Draw the texture as it is, without light and shadow, one sample a pixel.

        Args:
            camera: in the mesh's own axes, such as the photo's.
            size: pixels a side.

        Returns:
            (size, size, 4) sRGB; alpha is 0 or 255.
        """
        drawn = self._draw(self.mesh.positions, camera, size)
        seen = nearest(drawn.corners, drawn.near, size, size)
        at = np.flatnonzero(seen.face >= 0)
        face = seen.face[at]
        place = np.stack([at % size, at // size], axis=1) + np.float64(0.5)
        uv, _ = self._interpolate(drawn, np.ones_like(drawn.near), camera, face, place)
        picture = np.zeros((size * size, 4), np.uint8)
        picture[at, :3] = srgb_bytes(self.texture.sample(uv, self._level(drawn)[face]))
        picture[at, 3] = 255
        return picture.reshape(size, size, 4)

    def render_normals(self, camera: Camera, size: int) -> Floats:
        """Draw the directions of the surface, flat on each face, one sample a pixel.

        Args:
            camera: in the mesh's own axes, such as the photo's.
            size: pixels a side.

        Returns:
            (size, size, 3) of length 1, in the camera's axes: right, up, towards it. 0 where no surface is seen.
        """
        drawn = self._draw(self.mesh.positions, camera, size)
        seen = nearest(drawn.corners, drawn.near, size, size)
        shown = seen.face >= 0
        directions = self.mesh.normals[self.mesh.faces[drawn.face[seen.face[shown]]]].sum(axis=1)
        directions = directions @ camera.rotation.T.astype(np.float32)
        picture = np.zeros((size * size, 3), np.float32)
        picture[shown] = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-6)
        return picture.reshape(size, size, 3)

    def _draw(self, positions: Floats, camera: Camera, size: int) -> _Drawn:
        """Project the mesh's (V, 3) positions. Faces that are seen from inside are left out: a closed mesh hides them."""
        flat, near = camera.project(positions)
        corners = (flat * np.float32(size))[self.mesh.faces]
        area = signed_area(corners)
        face = np.arange(len(area)) if self.mesh.double_sided else np.flatnonzero(area < 0)
        return _Drawn(face, corners[face], near[self.mesh.faces[face]], area[face])

    def _interpolate(
        self,
        drawn: _Drawn,
        values: Floats,
        camera: Camera,
        face: NDArray[np.int64],
        place: NDArray[np.float64],
    ) -> tuple[Floats, Floats]:
        """Interpolate at (K,) drawn faces and (K, 2) pixels: (K, 2) the texture's coordinates, and (K,) of (D, 3) values."""
        # Perspective-correct: half-way in the picture is not half-way on the surface, because what is nearer looks larger.
        scale = 1 + drawn.near / np.float32(camera.distance)
        corners = np.concatenate(
            [self.uv_of_face[drawn.face] * scale[..., None], (values * scale)[..., None], scale[..., None]],
            axis=2,
        )
        found = planes(drawn.corners, corners).at(face, place)
        found[:, :3] /= found[:, 3:]
        return found[:, :2], found[:, 2]

    def _level(self, drawn: _Drawn) -> NDArray[np.int32]:
        """(D,) the mipmap level with about one texel for every pixel of the face."""
        ratio = np.maximum(self.texels_of_face[drawn.face], 1e-6) / np.maximum(np.abs(drawn.area), 1e-6)
        return np.asarray(np.clip(np.rint(np.log2(ratio) / 2 + SHARPER), 0, 30), np.int32)

    def _shadow(self, turn: Floats, camera: Camera, size: int) -> Floats:
        """(size, size) alpha of the floor's shadow where the camera sees the floor."""
        shadow = np.zeros((size, size), np.float32)
        up = turn[:, 1]  # the world's, in the camera's axes
        if up[2] <= 0.01:  # from below, or along the floor
            return shadow
        rows, columns = (slice(*side) for side in self._floor_box(turn, camera, size))
        step = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
        x, y = step[columns] * np.float32(camera.side), -step[rows, None] * np.float32(camera.side)
        # A ray from the eye through (x, y) on the camera's plane reaches the floor at eye + ray · reach.
        eye = np.add(camera.center, (0, 0, camera.distance))
        towards = x * up[0] + y * up[1] - np.float32(camera.distance) * up[2]
        reach = np.where(towards < 0, np.float32(-(eye @ up)) / np.minimum(towards, -1e-9), 0)
        beyond = -np.float32(camera.distance) * reach
        x_reached, z_reached = (
            np.float32(eye @ turn[:, axis])
            + reach * (x * turn[0, axis] + y * turn[1, axis])
            + beyond * turn[2, axis]
            for axis in (0, 2)
        )
        # A shadow may reach past the picture: it fades to nothing at the border.
        edge = np.clip((0.5 - np.abs(step)) / BORDER, 0, 1)
        fade = np.minimum(edge[rows, None], edge[columns])
        shadow[rows, columns] = self.floor.at(x_reached, z_reached) * fade * fade * (3 - 2 * fade)
        shadow[rows, columns][reach <= 0] = 0
        return shadow

    def _floor_box(self, turn: Floats, camera: Camera, size: int) -> list[tuple[int, int]]:
        """Return the first row and the one after the last that show the floor's shadow, and the same for columns."""
        x, z = self.floor.low[:, None] + np.array([[0, 0, 1, 1], [0, 1, 0, 1]]) * self.floor.cell * len(
            self.floor.shadow
        )
        corners = np.stack([x, np.zeros(4), z], axis=1).astype(np.float32)
        flat, _ = camera.project(corners @ turn.T)
        low, high = np.floor(flat.min(axis=0) * size), np.ceil(flat.max(axis=0) * size)
        return [(int(low[axis].clip(0, size)), int(high[axis].clip(0, size))) for axis in (1, 0)]


def _to_color(
    seen: Nearest, size: int, samples: int, alike: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], Floats]:
    """Choose where a picture needs colours: (K,) pixels, (K,) faces, (K, 2) places in pixels, (K,) shares of the pixel."""
    tiles = (size, samples, size, samples)
    face, near = seen.face.reshape(tiles), seen.near.reshape(tiles)
    steps = [(row, column) for row in range(samples) for column in range(samples)]
    depths = [near[:, row, :, column] for row, column in steps]
    farthest = reduce(np.minimum, depths)  # infinitely far where a sample shows no face
    nearest_ = reduce(np.maximum, depths)
    whole = nearest_ < farthest + np.float32(alike)
    mixed = np.flatnonzero((nearest_ > -np.inf) & ~whole)
    one = np.flatnonzero(whole)
    pixels, faces = [one], [face[:, samples // 2, :, samples // 2].ravel()[one]]
    offsets = [np.full((len(one), 2), 0.5)]
    for row, column in steps:
        of_sample = face[:, row, :, column].ravel()[mixed]
        shows = of_sample >= 0
        pixels.append(mixed[shows])
        faces.append(of_sample[shows])
        offsets.append(np.tile([(column + 0.5) / samples, (row + 0.5) / samples], (int(shows.sum()), 1)))
    pixel = np.concatenate(pixels)
    place = np.stack([pixel % size, pixel // size], axis=1) + np.concatenate(offsets)
    share = np.full(len(pixel), 1 / samples**2, np.float32)
    share[: len(one)] = 1
    return pixel, np.concatenate(faces), place, share
