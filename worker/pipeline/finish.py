"""Surface → the GLB that a storefront shows."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.engines import Surface
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


def finish(
    surface: Surface, preset: Preset, folder: Path, *, name: str = "model", extras: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes `folder/model.glb`: a closed mesh with one texture, standing on the origin, its front towards +z.

    Args:
        surface: what the engine made.
        preset: how many triangles and texels.
        folder: is there.
        name: of the mesh in the file.
        extras: JSON-able, for `asset.extras`.

    Returns:
        A JSON-able report: triangles, vertices, texture_px, glb_bytes, glb_sha256, watertight, size_m (width,
        height, depth), scale_source, components_dropped, seconds by step.

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
        positions = _stand(vertices)
        # By position, as a reader sees it: the vertices along the seams of the texture stand twice in the file.
        watertight = is_watertight(weld(positions[source], corners)[1])
        path = folder / "model.glb"
        write_glb(
            path,
            positions=positions[source],
            normals=normals(positions, faces)[source],
            uv=uv,
            faces=corners,
            texture=texture,
            double_sided=not watertight,
            name=name,
            extras=extras,
        )
    data = path.read_bytes()
    return {
        "triangles": len(corners),
        "vertices": len(source),
        "texture_px": preset.texture,
        "glb_bytes": len(data),
        "glb_sha256": hashlib.sha256(data).hexdigest(),
        "watertight": watertight,
        "size_m": [round(float(side), 4) for side in np.ptp(positions, axis=0)],
        "scale_source": "default",
        "components_dropped": dropped,
        "seconds": seconds,
    }


def _stand(vertices: NDArray[np.float32]) -> NDArray[np.float32]:
    """In metres, the middle of the base at the origin."""
    points = vertices.astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    base = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    return np.asarray((points - base) * (LONGEST_SIDE / (high - low).max()), np.float32)
