"""The picture that stands for the model until it is loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image

from worker.mesh.render import render

SIZE = 512
AZIMUTH, ELEVATION = 22.0, 14.0  # degrees: enough to show that it is solid, with the front still well in view


def poster(glb: Path, target: Path) -> None:
    """Renders what the file holds, and not what was meant to go in, as a RGBA PNG of 512 by 512."""
    mesh: Any = trimesh.load_mesh(glb, process=False)
    material = mesh.visual.material
    u, v = np.asarray(mesh.visual.uv, np.float32).T
    picture = render(
        np.asarray(mesh.vertices, np.float32),
        np.asarray(mesh.vertex_normals, np.float32),
        np.stack([u, 1 - v], axis=1),  # trimesh counts v from below
        np.asarray(mesh.faces, np.int32),
        np.asarray(material.baseColorTexture.convert("RGB")),
        azimuth=AZIMUTH,
        elevation=ELEVATION,
        size=SIZE,
        double_sided=bool(material.doubleSided),
    )
    Image.fromarray(picture).save(target)
