"""Surface → the GLB that a storefront shows."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.engines import Front, Surface
from worker.errors import JobError
from worker.mesh.clean import drop_floaters, is_watertight, weld
from worker.mesh.gltf import write_glb
from worker.mesh.normals import normals
from worker.mesh.simplify import simplify
from worker.mesh.texture import bake
from worker.mesh.unwrap import unwrap
from worker.pipeline.timing import timed
from worker.presets import Preset

LONGEST_SIDE = 0.3
"""Metres. A photo tells no size; in AR this is a product on a table, neither lost nor in the way."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What the GLB holds, in metres, and what is known of it."""

    positions: NDArray[np.float32]  # (V, 3) y up, the front towards +z, the middle of the base at the origin
    normals: NDArray[np.float32]  # (V, 3) unit vectors
    uv: NDArray[np.float32]  # (V, 2) in 0..1, v downwards
    faces: NDArray[np.int32]  # (F, 3), counter-clockwise from outside
    texture: NDArray[np.uint8]  # (S, S, 3) sRGB
    watertight: bool
    front: Front | None  # the photo that was used, and its camera in these coordinates
    report: dict[str, Any]


def finish(
    surface: Surface,
    preset: Preset,
    folder: Path,
    *,
    name: str = "model",
    extras: Mapping[str, Any],
    dimensions: Any = None,  # noqa: ARG001
) -> Model:
    """Writes `folder/model.glb`: a closed mesh with one texture, standing on the origin, its front towards +z.

    Args:
        surface: what the engine made.
        preset: how many triangles and texels.
        folder: is there.
        name: of the mesh in the file.
        extras: JSON-able, for `asset.extras`.
        dimensions: `metadata.dimensions` as the backend wrote it; what makes no sense costs a warning, never the job.

    Returns:
        The model, with a JSON-able report: triangles, vertices, texture_px, glb_bytes, glb_sha256, watertight, size_m (width,
        height, depth), scale_source, components_dropped, warnings (sentences), seconds by step.

    Raises: JobError `no_surface`.
    """
    if not len(surface.faces) or not np.isfinite(surface.vertices).all():
        raise JobError("no_surface")
    seconds: dict[str, float] = {}
    with timed(seconds, "clean"):
        vertices, faces, dropped = drop_floaters(surface.vertices, surface.faces)
    with timed(seconds, "simplify"):
        vertices, faces = simplify(vertices, faces, preset.triangles)
    if not len(faces) or not np.ptp(vertices, axis=0).max() > 0:
        raise JobError("no_surface")
    with timed(seconds, "unwrap"):
        source, corners, uv = unwrap(vertices, faces, preset.texture)
    with timed(seconds, "bake"):
        texture = bake(vertices[source], corners, uv, surface.color, preset.texture)
    with timed(seconds, "write"):
        base, scale = _stand(vertices)
        positions = np.asarray((vertices - base) * scale, np.float32)
        # By position, as a reader sees it: the vertices along the seams of the texture stand twice in the file.
        watertight = is_watertight(weld(positions[source], corners)[1])
        path = folder / "model.glb"
        model = Model(
            positions=positions[source],
            normals=normals(positions, faces)[source],
            uv=uv,
            faces=corners,
            texture=texture,
            watertight=watertight,
            front=surface.front
            and Front(view=surface.front.view, camera=surface.front.camera.moved(base, scale)),
            report={},
        )
        write_glb(
            path,
            positions=model.positions,
            normals=model.normals,
            uv=uv,
            faces=corners,
            texture=texture,
            double_sided=not watertight,
            name=name,
            extras=extras,
        )
    data = path.read_bytes()
    model.report.update(
        triangles=len(corners),
        vertices=len(source),
        texture_px=preset.texture,
        glb_bytes=len(data),
        glb_sha256=hashlib.sha256(data).hexdigest(),
        watertight=watertight,
        size_m=[round(float(side), 4) for side in np.ptp(positions, axis=0)],
        scale_source="default",
        components_dropped=dropped,
        warnings=[],
        seconds=seconds,
    )
    return model


def _stand(vertices: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """The middle of the base, and the metres of a unit: (vertices - base) * scale stands on the origin."""
    low, high = vertices.min(axis=0).astype(np.float64), vertices.max(axis=0).astype(np.float64)
    base = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    return base, LONGEST_SIDE / float((high - low).max())
