"""Objects whose shape and colours are known: meshes in files, the studio's scenes, models. They can be photographed from any side."""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.spatial import cKDTree

from worker import tsr
from worker.engines.triposr import surface_of
from worker.mesh.camera import Camera, rotation
from worker.mesh.clean import drop_floaters
from worker.mesh.isosurface import isosurface
from worker.mesh.mipmaps import LINEAR, srgb_bytes
from worker.mesh.normals import normals
from worker.mesh.rasterize import nearest, planes
from worker.mesh.shading import lighting
from worker.mesh.textured import TexturedMesh
from worker.tsr.field import Decoder, Field

Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]  # (S, S, 4) sRGB, straight alpha

SCENES = ("bag", "bottle", "duck", "robot", "vase")
FITTED = "fitted"
CELLS = 256  # of a scene's longest side
GRID = 256  # samples an axis of the fitted field
FILL = 0.85  # part of a turntable's pictures that the object takes at its widest
STRIPE = 0.09  # width of the print on the fitted scene, which its network does not know
POINTS = 20_000  # on each surface, from which the distance to the other one is measured
DENSE = 10  # times as many points on the other one: the nearest faces are found by them


class Shot(NamedTuple):
    """The K samples of a picture that show an object."""

    face: NDArray[np.int64]  # (K,)
    weight: Floats  # (K, 3) barycentric coordinates


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """A shape with colours, in the axes of glTF: y up, its front towards +z. `paint` gives (K, 3) linear light in 0..1."""

    vertices: Floats  # (V, 3), in any unit
    normals: Floats  # (V, 3)
    faces: NDArray[np.int32]  # (F, 3)
    paint: Callable[[Shot], Floats]

    @property
    def box(self) -> NDArray[np.float64]:
        """(2, 3): the lowest and the highest corner."""
        used = self.vertices[np.unique(self.faces)].astype(np.float64)
        return np.stack([used.min(axis=0), used.max(axis=0)])

    @property
    def height(self) -> float:
        """From the base to the top, in the object's unit."""
        return float(np.ptp(self.box, axis=0)[1])

    def turntable(self, azimuth: float, *, distance: float = math.inf) -> Camera:
        """Return the camera that sees the object from `azimuth`: the same size for every azimuth.

        `distance` is a multiple of what it sees; infinity is a parallel projection.
        """
        box = self.box
        center = box.mean(axis=0)
        reach = float(np.hypot(*(self.vertices - center)[:, [0, 2]].T).max())
        side = max(2 * reach, self.height) / FILL
        x, y, z = center.tolist()
        return Camera(center=(x, y, z), side=side, distance=distance * side, azimuth=azimuth)

    def photograph(self, camera: Camera, size: int, *, lit: bool = False, samples: int = 2) -> Picture:
        """Draw the object in a picture of `size` pixels a side: its colours as they are, or in a studio's light."""
        flat, near = camera.project(self.vertices)
        wide = size * samples
        corners, depth = (flat * np.float32(wide))[self.faces], near[self.faces]
        seen = nearest(corners, depth, wide, wide)
        at = np.flatnonzero(seen.face >= 0)
        face = seen.face[at]
        # Perspective-correct: half-way in the picture is not half-way on the surface, because what is nearer looks larger.
        scale = 1 + depth / np.float32(camera.distance)
        place = np.stack([at % wide, at // wide], axis=1) + np.float64(0.5)
        weight = planes(corners, np.eye(3, dtype=np.float32) * scale[:, :, None]).at(face, place).clip(0)
        shot = Shot(face, weight / weight.sum(axis=1, keepdims=True))
        light = self.paint(shot)
        if lit:
            turned = mix(
                (self.normals @ camera.rotation.T.astype(np.float32))[self.faces[shot.face]], shot.weight
            )
            turned /= np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-6)
            light = light * lighting(np.where(turned[:, 2:] < 0, -turned, turned))[:, None]
        layers = np.zeros((wide * wide, 4), np.float32)
        layers[at] = np.concatenate([light, np.ones((len(at), 1), np.float32)], axis=1)
        layers = layers.reshape(size, samples, size, samples, 4).mean(axis=(1, 3))
        color = srgb_bytes(layers[..., :3] / np.maximum(layers[..., 3:], 1e-6))
        return np.concatenate([color, (layers[..., 3:] * 255 + 0.5).astype(np.uint8)], axis=2)

    def standing_like(self, other: "Known") -> "Known":
        """Return this object with the height of the other one, the middles of their bases at the same point.

        This is all that framing says: each photo was framed alone, so that a model has no scale and no place of its own.
        """
        ours, theirs = self.box, other.box
        scale = other.height / self.height
        moved = (self.vertices - _base(ours)) * scale + _base(theirs)
        return Known(
            vertices=moved.astype(np.float32), normals=self.normals, faces=self.faces, paint=self.paint
        )


def from_glb(path: Path, front: float) -> Known:
    """Read a GLB of any number of meshes. `front`: the azimuth, in degrees from +z towards +x, of the side that is its front."""
    loaded: Any = trimesh.load_scene(path, process=False)
    parts, starts, first, painters = [], [0], 0, []
    for node in loaded.graph.nodes_geometry:
        transform, name = loaded.graph[node]
        mesh = loaded.geometry[name].copy()
        mesh.apply_transform(transform)
        parts.append((mesh.vertices, mesh.vertex_normals, mesh.faces + first))
        painters.append(_material(mesh))
        first += len(mesh.vertices)
        starts.append(starts[-1] + len(mesh.faces))
    vertices, directions, faces = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    turn = rotation(front, 0.0).T

    def paint(shot: Shot) -> Floats:
        light = np.zeros((len(shot.face), 3), np.float32)
        of = np.searchsorted(starts, shot.face, side="right") - 1
        for part, painter in enumerate(painters):
            here = of == part
            light[here] = painter(Shot(shot.face[here] - starts[part], shot.weight[here]))
        return light

    return Known(
        vertices=(vertices @ turn).astype(np.float32),
        normals=(directions @ turn).astype(np.float32),
        faces=faces.astype(np.int32),
        paint=paint,
    )


def from_scene(name: str) -> Known:
    """Take the shape and the matt colours of one of the studio's scenes, by its signed distance."""
    from numba import njit, prange  # not for those who cut photos out: rembg loads it in a way of its own

    scene = importlib.import_module(f"studio.scenes.{name}")
    studio = scene.STUDIO
    low, high = np.array(studio.box)
    cell = float((high - low).max()) / CELLS
    count = np.ceil((high - low) / cell).astype(int) + 5
    start = low - 2 * cell
    distance, surface = scene.distance, scene.surface

    @njit(parallel=True)
    def fill(values: Floats) -> None:
        for i in prange(values.shape[0]):
            for j in range(values.shape[1]):
                for k in range(values.shape[2]):
                    values[i, j, k] = -distance(start[0] + i * cell, start[1] + j * cell, start[2] + k * cell)

    @njit
    def colors(
        points: NDArray[np.float64], directions: NDArray[np.float64], texture: Any, out: Floats
    ) -> None:
        for i in range(len(points)):
            p = (points[i, 0], points[i, 1], points[i, 2])
            n = (directions[i, 0], directions[i, 1], directions[i, 2])
            color, _, _, _ = surface(p, n, texture)
            out[i, 0], out[i, 1], out[i, 2] = color[0], color[1], color[2]

    values = np.zeros(count, np.float32)
    fill(values)
    vertices, faces = isosurface(values)
    points = (vertices * cell + start).astype(np.float32)
    directions = normals(points, faces)

    def paint(shot: Shot) -> Floats:
        at, towards = (
            mix(of[faces[shot.face]], shot.weight).astype(np.float64) for of in (points, directions)
        )
        light = np.zeros((len(at), 3), np.float32)
        colors(at, towards, studio.texture, light)
        return light.clip(0, 1)

    return Known(vertices=points, normals=directions, faces=faces, paint=paint)


def from_field(field: Field) -> Known:
    """Take the surface of a field, with a print of stripes over its colours that the field does not know."""
    surface = surface_of(field, GRID)
    vertices, faces, _ = drop_floaters(surface.vertices, surface.faces)

    def paint(shot: Shot) -> Floats:
        points = mix(vertices[faces[shot.face]], shot.weight)
        color = surface.color(points)
        # Slanted, so that no side has the print of another one.
        band = np.floor((points @ np.array([0.35, 1.0, 0.6], np.float32)) / STRIPE).astype(int) % 2 == 0
        color[band] *= 0.4
        return np.asarray(LINEAR[(color.clip(0, 1) * 255 + 0.5).astype(np.uint8)])

    return Known(vertices=vertices, normals=normals(vertices, faces), faces=faces, paint=paint)


def from_model(mesh: TexturedMesh) -> Known:
    """Take what the worker made."""
    return Known(
        vertices=mesh.positions,
        normals=mesh.normals,
        faces=mesh.faces,
        paint=_textured(mesh.texture, mesh.uv, mesh.faces),
    )


def fitted_field(folder: Path) -> Field:
    """Load the fitted scene's field."""
    config = tsr.Config()
    decoder = Decoder(config)
    decoder.load_state_dict(load_file(folder / "decoder.safetensors"))
    return Field(torch.from_numpy(np.load(folder / "scene_code.npy").astype(np.float32)), decoder, config)


def surface_error(ours: Known, theirs: Known) -> tuple[float, float]:
    """Return the mean distances from our surface to theirs and from theirs to ours, in parts of their height."""
    return _distance(ours, theirs) / theirs.height, _distance(theirs, ours) / theirs.height


def _distance(start: Known, end: Known) -> float:
    """Return the mean distance of points of one surface to the other."""
    points, _ = _points(start, POINTS)
    tree, face = _tree(end)
    _, near = tree.query(points, k=4)
    corners = end.vertices[end.faces].astype(np.float64)
    best = np.full(len(points), np.inf)
    for column in face[near].T:  # exactly, to the faces that the nearest points lie on
        closest = trimesh.triangles.closest_point(corners[column], points)  # type: ignore[no-untyped-call]
        best = np.minimum(best, np.linalg.norm(closest - points, axis=1))
    return float(best.mean())


@lru_cache(maxsize=2)  # an object is compared with several models
def _tree(of: Known) -> tuple[cKDTree, NDArray[np.int64]]:
    """Return many points of the surface, to be found by their place, and their faces."""
    points, face = _points(of, POINTS * DENSE)
    return cKDTree(points), face


def _points(of: Known, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return `count` points spread evenly over the surface, always the same ones, and their faces."""
    mesh = trimesh.Trimesh(of.vertices, of.faces, process=False)
    points, face = trimesh.sample.sample_surface(mesh, count, seed=1)[:2]
    return np.asarray(points, np.float64), np.asarray(face, np.int64)


def _base(box: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = box.mean(axis=0)
    return np.array([middle[0], box[0, 1], middle[2]])


def _material(mesh: Any) -> Callable[[Shot], Floats]:
    """Return the painter of a loaded mesh: its base colour, times its texture where it has one."""
    material = mesh.visual.material
    factor = np.ones(3, np.float32)
    if material.baseColorFactor is not None:
        factor = np.divide(material.baseColorFactor[:3], 255, dtype=np.float32)
    if material.baseColorTexture is None:
        return lambda shot: np.tile(factor, (len(shot.face), 1))
    uv = np.asarray(mesh.visual.uv, np.float32) * (1, -1) + (0, 1)  # trimesh counts v upwards
    inner = _textured(np.asarray(material.baseColorTexture.convert("RGB")), uv, np.asarray(mesh.faces))
    return lambda shot: inner(shot) * factor


def mix(corners: Floats, weight: Floats) -> Floats:
    """Interpolate: (K, 3, C) values at the corners and (K, 3) weights → (K, C)."""
    return np.asarray(np.einsum("ki,kij->kj", weight, corners), np.float32)


def _textured(texture: NDArray[np.uint8], uv: Floats, faces: NDArray[np.int32]) -> Callable[[Shot], Floats]:
    """Return the painter of one texture."""
    light = LINEAR[texture]
    height, width = light.shape[:2]

    def paint(shot: Shot) -> Floats:
        at = mix(uv[faces[shot.face]].astype(np.float32), shot.weight)
        x = np.clip(at[:, 0] * width - 0.5, 0, width - 1)
        y = np.clip(at[:, 1] * height - 0.5, 0, height - 1)
        left, top = (np.minimum(axis.astype(int), size - 2) for axis, size in ((x, width), (y, height)))
        across, down = (x - left)[:, None], (y - top)[:, None]
        upper = light[top, left] * (1 - across) + light[top, left + 1] * across
        lower = light[top + 1, left] * (1 - across) + light[top + 1, left + 1] * across
        return np.asarray(upper * (1 - down) + lower * down, np.float32)

    return paint
