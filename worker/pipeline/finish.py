"""Surface → the GLB that a storefront shows."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.core.errors import JobError
from worker.engines.presets import Preset
from worker.engines.surface import SourceView, Surface
from worker.engines.views import OPPOSITE
from worker.mesh.agree import agree
from worker.mesh.align import LEAST_OVERLAP, fit, refine
from worker.mesh.blend import FACING, Layers, lay
from worker.mesh.choose import FACING_OF_SEVERAL
from worker.mesh.clean import drop_floaters, fill_holes, is_watertight, remove_unused, weld
from worker.mesh.gltf import write_glb
from worker.mesh.normals import normals
from worker.mesh.project import Photo, shoot
from worker.mesh.simplify import simplify
from worker.mesh.texture import Texels, bake, dilate, texels
from worker.mesh.textured import TexturedMesh
from worker.mesh.unwrap import Unwrapped, unwrap
from worker.pipeline.depth import fit_depth
from worker.pipeline.scale import Scale, scale
from worker.pipeline.timing import timed
from worker.pipeline.verify import verify_glb

Vertices = NDArray[np.float32]  # (V, 3)
Faces = NDArray[np.int32]  # (F, 3)

JPEG_QUALITIES = (
    90,
    80,
    65,
    50,
)  # tried in turn until the file keeps to the preset's size; the last one stands
COMPARED = 4000  # texels at which photos are compared with each other


@dataclass(frozen=True, kw_only=True)
class Model:
    """The contents of the GLB, and its report."""

    mesh: TexturedMesh
    # The front, even if it was not laid, and every other photo that was; their cameras are in the mesh's coordinates.
    source_views: Sequence[SourceView]
    base: NDArray[np.float64]  # (3,) where the origin is in the surface's own coordinates
    metres: float  # of one unit of the surface
    report: Mapping[str, Any]


class _Shape(NamedTuple):
    """The simplified surface, cut into islands, in the surface's own coordinates."""

    vertices: Vertices
    faces: Faces
    layout: Unwrapped
    normals: Vertices  # (N, 3) of the layout's vertices

    @property
    def points(self) -> Vertices:
        """(N, 3) of the layout's vertices."""
        return self.vertices[self.layout.source]


class _Laid(NamedTuple):
    """A photo, the camera that fits it best, and how well its outline is the mesh's."""

    source: SourceView
    overlap: float  # intersection over union of the two outlines
    used: float  # part of the texels that show mostly this photo; 0 if it was not laid

    @property
    def laid(self) -> bool:
        """True if the outlines agree."""
        return self.overlap >= LEAST_OVERLAP


class _Paint(NamedTuple):
    """Colours of the texels, and what the photos gave to them."""

    on: Texels
    colors: NDArray[np.float32]  # (K, 3) sRGB in 0..1, NaN where unknown
    photos: Sequence[_Laid]
    used: float  # part of the texels that show any photo
    coverage: float  # part of the surface that a photo saw
    warnings: list[str]

    @property
    def source_views(self) -> list[SourceView]:
        """The front, and the other photos that were laid."""
        return [photo.source for n, photo in enumerate(self.photos) if n == 0 or photo.laid]


class _Standing(NamedTuple):
    """The mesh in metres, on its feet."""

    mesh: TexturedMesh
    base: NDArray[np.float64]  # (3,) where the origin is in the surface's own coordinates
    scale: Scale


def finish(
    surface: Surface,
    preset: Preset,
    folder: Path,
    *,
    extras: Mapping[str, Any],
    dimensions: Any = None,
    on_textured: Callable[[], None] = lambda: None,
) -> Model:
    """Write `folder/model.glb`: a closed mesh with one texture, standing on the origin, its front towards +z.

    The file is read back by another program and compared with the report before this returns.

    Args:
        surface: the engine's result.
        preset: how many triangles and texels, and how large the file may be.
        folder: an existing folder.
        extras: JSON-able, for `asset.extras`. The source of the scale is added.
        dimensions: `metadata.dimensions` as the backend wrote it. Values that make no sense cause a warning.
        on_textured: called when the colours are computed and nothing is written yet.

    Returns:
        The model, with a JSON-able report: triangles, vertices, texture_px, texture_used (part of the texels on the
        mesh), glb_bytes, glb_sha256, watertight, size_m (width, height, depth), scale_source, depth_factor (by which the
        depth was stretched to fit the dimensions), components_dropped,
        photo_overlap (intersection over union of the mesh's outline and the front photo's, None if there is no photo),
        photo_used (part of the mesh's texels that show a photo), views (for each photo's role: its overlap, and used, the
        part of the texels that show it), coverage (part of the surface, by area, that a photo saw clearly and at a fair
        angle), warnings (sentences), seconds by step.

    Raises: JobError `no_surface`, or `internal_error` if the file is not what the report claims.
    """
    seconds: dict[str, float] = {}
    path = folder / "model.glb"
    surface, dropped = _simplified(surface, preset, seconds)
    fitted = fit_depth(surface, dimensions)
    surface = fitted.surface
    shape = _shape(surface, preset, seconds)
    paint = _paint(surface, shape, preset.texture, seconds)
    on_textured()
    with timed(seconds, "write"):
        size = scale(
            np.ptp(shape.points.astype(np.float64), axis=0), dimensions, depth_explained=bool(fitted.warnings)
        )
        standing = _stand_up(shape, dilate(paint.on, paint.colors, preset.texture), size)
        _write(standing.mesh, path, preset.file_bytes, {**extras, "scale_source": standing.scale.source})
    data = path.read_bytes()
    report = _report(paint, standing, data) | {
        "components_dropped": dropped,
        "depth_factor": round(fitted.factor, 3),
        "seconds": seconds,
    }
    report["warnings"] += fitted.warnings
    with timed(seconds, "verify"):
        verify_glb(data, report)
    metres = standing.scale.metres
    return Model(
        mesh=standing.mesh,
        source_views=[
            replace(source, camera=source.camera.moved(standing.base, metres))
            for source in paint.source_views
        ],
        base=standing.base,
        metres=metres,
        report=report,
    )


def _simplified(surface: Surface, preset: Preset, seconds: dict[str, float]) -> tuple[Surface, int]:
    """Close, clean and simplify the surface. Return it, and how many components were dropped. Raises: JobError `no_surface`."""
    vertices, faces = surface.vertices, surface.faces
    with timed(seconds, "clean"):
        _check(vertices, faces)
        if not is_watertight(faces):
            vertices, faces = fill_holes(*remove_unused(*weld(vertices, faces)))
        vertices, faces, dropped = drop_floaters(vertices, faces)
    with timed(seconds, "simplify"):
        vertices, faces = simplify(vertices, faces, preset.triangles)
    _check(vertices, faces)
    return replace(surface, vertices=vertices, faces=faces), dropped


def _shape(surface: Surface, preset: Preset, seconds: dict[str, float]) -> _Shape:
    """Unwrap the surface."""
    vertices, faces = surface.vertices, surface.faces
    with timed(seconds, "unwrap"):
        layout = unwrap(vertices, faces, preset.texture)
    return _Shape(vertices, faces, layout, normals(vertices, faces)[layout.source])


def _check(vertices: Vertices, faces: Faces) -> None:
    """Raise JobError `no_surface` if no solid can be made of this."""
    # A tetrahedron has four faces.
    if len(faces) < 4 or not np.isfinite(vertices).all() or not np.ptp(vertices, axis=0).max() > 0:
        raise JobError("no_surface")


def _paint(surface: Surface, shape: _Shape, size: int, seconds: dict[str, float]) -> _Paint:
    """Lay the photos over the texels that their cameras saw, and ask the engine for the colours of the others."""
    corners, uv = shape.layout.faces, shape.layout.uv
    photos: list[_Laid] = []
    layers = None
    with timed(seconds, "bake"):
        on = texels(corners, uv, size)
    if surface.source_views:
        with timed(seconds, "project"):
            photos, layers = _lay_photos(surface, shape, on)
    warnings = [_unlike(photo) for photo in photos if not photo.laid]
    with timed(seconds, "bake"):
        open_ = layers.open if layers else np.ones(len(on.texel), bool)
        color = layers.harmonized(surface.color) if layers else surface.color
        baked = bake(shape.points, corners, uv, on.only(open_), color, size)
        if not np.isfinite(baked).all():
            warnings.insert(
                0, "The engine knows no colour for some of the surface: its surroundings' were taken."
            )
        colors = baked
        if len(baked) < len(open_):
            colors = np.full((len(open_), 3), np.nan, np.float32)
            colors[open_] = baked
    if not layers:
        return _Paint(on, colors, photos, 0.0, 0.0, warnings)
    with timed(seconds, "project"):
        blended = layers.over(colors)
        parts = iter((blended.shares > 0.5).mean(axis=1).tolist())
        return _Paint(
            on,
            blended.colors,
            photos=[photo._replace(used=next(parts)) if photo.laid else photo for photo in photos],
            used=float((blended.shares.sum(axis=0) > 0.5).mean()),
            coverage=_part_of_surface(blended.seen, shape, on),
            warnings=warnings,
        )


def _unlike(photo: _Laid) -> str:
    """Return the warning of a photo that was not laid."""
    role = photo.source.role
    whose = "the photo's" if role == "front" else f"that of the photo from the {role}"
    return f"The model's outline is not {whose}: the photo was not laid over it."


def _lay_photos(surface: Surface, shape: _Shape, on: Texels) -> tuple[list[_Laid], Layers | None]:
    """Fit the photos to the mesh, and lay those whose outlines are the mesh's over the texels that their cameras saw."""
    sources = surface.source_views
    pictures = [Photo(source.view, several=len(sources) > 1) for source in sources]
    photos = []
    for source, picture in zip(sources, pictures, strict=True):
        found = fit(shape.vertices, shape.faces, source.view, source.camera)
        if len(sources) > 1:
            found = refine(shape.vertices, shape.faces, picture, found)
        photos.append(_Laid(replace(source, camera=found.camera), found.overlap, 0.0))
    fitting = [n for n, photo in enumerate(photos) if photo.laid]
    if not fitting or not len(on.face):
        return photos, None
    points, directions = (on.on(of, shape.layout.faces) for of in (shape.points, shape.normals))
    least = (FACING if len(fitting) == 1 else FACING_OF_SEVERAL)[0]
    shots = [shoot(pictures[n], photos[n].source.camera, shape.vertices, shape.faces) for n in fitting]
    if len(shots) > 1:
        some = slice(None, None, max(len(points) // COMPARED, 1))
        shots = agree(shots, shape.vertices, shape.faces, points[some], directions[some])
    for n, shot in zip(fitting, shots, strict=True):
        photos[n] = photos[n]._replace(source=replace(photos[n].source, camera=shot.camera))
    cameras = {photos[n].source.role: shot.camera for n, shot in zip(fitting, shots, strict=True)}
    likely = [
        shoot(Photo(view), cameras[OPPOSITE[role]].mirrored(), shape.vertices, shape.faces)
        for role, view in surface.mirrored_views.items()
        if OPPOSITE[role] in cameras
    ]
    if surface.view_from_above:
        view, camera = surface.view_from_above
        likely.append(shoot(Photo(view), camera, shape.vertices, shape.faces))
    seen = ([shot.project(points, directions, least) for shot in group] for group in (shots, likely))
    return photos, lay(points, *seen)


def _part_of_surface(seen: NDArray[np.bool_], shape: _Shape, on: Texels) -> float:
    """Return the part of the surface whose texels are true, by area."""
    a, b, c = (shape.points[shape.layout.faces[:, i]].astype(np.float64) for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    texels_of = np.bincount(on.face, minlength=len(area))
    weight = area[on.face] / texels_of[on.face]
    return float(weight[seen].sum() / max(float(weight.sum()), 1e-30))


def _stand_up(shape: _Shape, texture: NDArray[np.uint8], size: Scale) -> _Standing:
    """Scale the mesh to metres and move the middle of its base to the origin."""
    points, corners = shape.points, shape.layout.faces
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    base = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    positions = np.asarray((points - base) * size.metres, np.float32)
    mesh = TexturedMesh(
        positions=positions,
        normals=shape.normals,
        uv=shape.layout.uv,
        faces=corners,
        texture=texture,
        # By position, as a reader sees it: the vertices along the seams of the texture stand twice in the file.
        watertight=is_watertight(weld(positions, corners)[1]),
    )
    return _Standing(mesh, base, size)


def _write(mesh: TexturedMesh, path: Path, most_bytes: int, extras: Mapping[str, Any]) -> None:
    """Write the GLB with the best texture that keeps it below `most_bytes`, or the worst one if none does."""
    for quality in JPEG_QUALITIES:
        write_glb(path, mesh, extras=extras, jpeg_quality=quality)
        if path.stat().st_size <= most_bytes:
            return


def _report(paint: _Paint, standing: _Standing, data: bytes) -> dict[str, Any]:
    """Build the report that `finish` documents, except for its seconds. `data` is the written file."""
    mesh = standing.mesh
    not_closed = [] if mesh.watertight else ["The mesh is not closed."]
    return {
        "triangles": len(mesh.faces),
        "vertices": len(mesh.positions),
        "texture_px": len(mesh.texture),
        "texture_used": round(len(paint.on.texel) / len(mesh.texture) ** 2, 3),
        "glb_bytes": len(data),
        "glb_sha256": hashlib.sha256(data).hexdigest(),
        "watertight": mesh.watertight,
        "size_m": [round(float(side), 4) for side in np.ptp(mesh.positions, axis=0)],
        "scale_source": standing.scale.source,
        "photo_overlap": round(paint.photos[0].overlap, 3) if paint.photos else None,
        "photo_used": round(paint.used, 3),
        "coverage": round(paint.coverage, 3),
        "views": {
            photo.source.role: {"overlap": round(photo.overlap, 3), "used": round(photo.used, 3)}
            for photo in paint.photos
        },
        "warnings": [*paint.warnings, *not_closed, *standing.scale.warnings],
    }
