"""Surface → the GLB that a storefront shows."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.core.errors import JobError
from worker.engines.presets import Preset
from worker.engines.surface import SourceView, Surface
from worker.mesh.clean import drop_floaters, fill_holes, is_watertight, remove_unused, weld
from worker.mesh.gltf import write_glb
from worker.mesh.normals import normals
from worker.mesh.project import LEAST_OVERLAP, fit, project
from worker.mesh.simplify import simplify
from worker.mesh.texture import bake, dilate, texels
from worker.mesh.unwrap import unwrap
from worker.pipeline.scale import scale
from worker.pipeline.timing import timed

JPEG_QUALITIES = (90, 80, 65, 50)  # the first with which the file keeps to the preset's size


@dataclass(frozen=True, kw_only=True)
class Model:
    """What the GLB holds, in metres, and what is known of it."""

    positions: NDArray[np.float32]  # (V, 3) y up, the front towards +z, the middle of the base at the origin
    normals: NDArray[np.float32]  # (V, 3) unit vectors
    uv: NDArray[np.float32]  # (V, 2) in 0..1, v downwards
    faces: NDArray[np.int32]  # (F, 3), counter-clockwise from outside
    texture: NDArray[np.uint8]  # (S, S, 3) sRGB
    watertight: bool
    source_view: SourceView | None  # the photo that was used, and its camera in these coordinates
    base: NDArray[np.float64]  # (3,) where the origin is in the surface's own coordinates
    metres: float  # of one unit of the surface
    report: dict[str, Any]


def finish(
    surface: Surface,
    preset: Preset,
    folder: Path,
    *,
    name: str = "model",
    extras: Mapping[str, Any],
    dimensions: Any = None,
) -> Model:
    """Writes `folder/model.glb`: a closed mesh with one texture, standing on the origin, its front towards +z.

    Args:
        surface: what the engine made.
        preset: how many triangles and texels, and how large the file may be.
        folder: is there.
        name: of the mesh in the file; what is not in [a-z0-9_-] becomes a hyphen.
        extras: JSON-able, for `asset.extras`, which also tell where the scale comes from and that a machine made this.
        dimensions: `metadata.dimensions` as the backend wrote it; what makes no sense costs a warning, never the job.

    Returns:
        The model, with a JSON-able report: triangles, vertices, texture_px, texture_used (part of the texels on the
        mesh), glb_bytes, glb_sha256, watertight, size_m (width, height, depth), scale_source, components_dropped,
        photo_overlap (intersection over union of the mesh's outline and the photo's, None without a photo),
        photo_used (part of the mesh's texels that show the photo), warnings (sentences), seconds by step.

    Raises: JobError `no_surface`.
    """
    seconds: dict[str, float] = {}
    warnings: list[str] = []
    with timed(seconds, "clean"):
        vertices, faces, dropped = _clean(surface)
    with timed(seconds, "simplify"):
        vertices, faces = simplify(vertices, faces, preset.triangles)
    _check(vertices, faces)
    with timed(seconds, "unwrap"):
        source, corners, uv = unwrap(vertices, faces, preset.texture)
    points, directions = vertices[source], normals(vertices, faces)[source]
    with timed(seconds, "bake"):
        on = texels(corners, uv, preset.texture)
        colors = bake(points, corners, uv, on, surface.color, preset.texture)
        if not np.isfinite(colors).all():
            warnings.append(
                "The engine knows no colour for some of the surface: its surroundings' were taken."
            )
    front, overlap, used = surface.source_view, None, 0.0
    if front:
        with timed(seconds, "project"):
            camera, overlap = fit(vertices, faces, front.view, front.camera)
            if overlap >= LEAST_OVERLAP:
                front = replace(front, camera=camera)
                photo, share = project(
                    vertices,
                    faces,
                    on.on(points, corners),
                    on.on(directions, corners),
                    front.view,
                    camera,
                )
                share[~np.isfinite(colors).all(axis=1) & (share > 0)] = 1
                colors = np.where(share[:, None] > 0, colors + share[:, None] * (photo - colors), colors)
                used = float((share > 0.5).mean()) if len(share) else 0.0
            else:
                warnings.append("The model's outline is not the photo's: the photo was not laid over it.")
    with timed(seconds, "write"):
        texture = dilate(on, colors, preset.texture)
        low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
        base = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
        metres, scale_source, of_scale = scale(high - low, dimensions)
        positions = np.asarray((points - base) * metres, np.float32)
        # By position, as a reader sees it: the vertices along the seams of the texture stand twice in the file.
        watertight = is_watertight(weld(positions, corners)[1])
        if not watertight:
            warnings.append("The mesh is not closed.")
        model = Model(
            positions=positions,
            normals=directions,
            uv=uv,
            faces=corners,
            texture=texture,
            watertight=watertight,
            source_view=front and SourceView(view=front.view, camera=front.camera.moved(base, metres)),
            base=base,
            metres=metres,
            report={},
        )
        made = {**extras, "scale_source": scale_source, "generated_by_ai": True}
        path = folder / "model.glb"
        _write(model, path, preset, name, made)
    data = path.read_bytes()
    model.report.update(
        triangles=len(corners),
        vertices=len(source),
        texture_px=preset.texture,
        texture_used=round(len(on.texel) / preset.texture**2, 3),
        glb_bytes=len(data),
        glb_sha256=hashlib.sha256(data).hexdigest(),
        watertight=watertight,
        size_m=[round(float(side), 4) for side in np.ptp(positions, axis=0)],
        scale_source=scale_source,
        components_dropped=dropped,
        photo_overlap=overlap if overlap is None else round(overlap, 3),
        photo_used=round(used, 3),
        warnings=warnings + of_scale,
        seconds=seconds,
    )
    return model


def _clean(surface: Surface) -> tuple[NDArray[np.float32], NDArray[np.int32], int]:
    """Closed and without crumbs, and how many were dropped. Raises: JobError `no_surface`."""
    vertices, faces = surface.vertices, surface.faces
    _check(vertices, faces)
    if not is_watertight(faces):
        vertices, faces = fill_holes(*remove_unused(*weld(vertices, faces)))
    vertices, faces, dropped = drop_floaters(vertices, faces)
    return vertices, faces, dropped


def _check(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> None:
    """Raises: JobError `no_surface` for what no solid can be made of."""
    # A tetrahedron has four faces.
    if len(faces) < 4 or not np.isfinite(vertices).all() or not np.ptp(vertices, axis=0).max() > 0:
        raise JobError("no_surface")


def _write(model: Model, path: Path, preset: Preset, name: str, extras: Mapping[str, Any]) -> None:
    for quality in JPEG_QUALITIES:
        write_glb(
            path,
            positions=model.positions,
            normals=model.normals,
            uv=model.uv,
            faces=model.faces,
            texture=model.texture,
            double_sided=not model.watertight,
            name=re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") or "model",
            extras=extras,
            jpeg_quality=quality,
        )
        if path.stat().st_size <= preset.file_bytes:
            return
