"""What the reference's camera sees at azimuth 0 is what a viewer of the GLB sees from +z."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from scipy import ndimage
from test_network import render as volume_render

from worker.engines.presets import PRESETS
from worker.engines.triposr import surface_of
from worker.mesh.render import Scene, Viewpoint
from worker.mesh.textured import TexturedMesh
from worker.pipeline.finish import finish
from worker.tsr import Config, Field
from worker.tsr.field import Decoder

pytestmark = pytest.mark.integration  # seconds of computing: from the network to the picture

SCENE = Path(__file__).parent.parent / "data" / "tsr-fitted"
SIZE = 96


def fitted() -> Field:
    decoder = Decoder(Config())
    decoder.load_state_dict(load_file(SCENE / "decoder.safetensors"))
    code = torch.from_numpy(np.load(SCENE / "scene_code.npy").astype(np.float32))
    return Field(code, decoder, Config())


def reference_picture(field: Field) -> NDArray[np.float32]:
    """From +x at 1.9, 40 degrees wide, image right +y, image up +z: (S, S, 3) on white."""
    u, v = np.meshgrid(*[(np.arange(SIZE) + 0.5) / SIZE * 2 - 1] * 2)
    slope = np.tan(np.radians(20))
    rays = np.stack([-np.ones_like(u), slope * u, -slope * v], axis=-1).astype(np.float32)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    origins = np.broadcast_to(np.array([1.9, 0, 0], np.float32), rays.shape).copy()
    return np.asarray(volume_render(field, origins, rays, samples=64).numpy(), np.float32)


def boxed(
    picture: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What fills the mask's box, at one size for all."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    colors = Image.fromarray((picture * 255).astype(np.uint8)).crop(box).resize((96, 96))
    shape = Image.fromarray(mask).convert("L").crop(box).resize((96, 96))
    return np.asarray(np.asarray(colors) / 255, np.float32), np.asarray(shape) > 127


def _product(seen: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Without the haze around it, and without the ball beside it, which finishing drops as a floater."""
    parts, _ = ndimage.label((seen < 0.75).any(axis=-1))
    return np.asarray(parts == np.argmax(np.bincount(parts[parts > 0])))


def test_front_is_front_and_nothing_is_mirrored(tmp_path: Path) -> None:
    field = fitted()
    seen = reference_picture(field)
    wanted, wanted_shape = boxed(seen, _product(seen))

    finish(surface_of(field, 96), PRESETS["fast"], tmp_path, extras={})
    mesh: Any = trimesh.load_mesh(tmp_path / "model.glb", process=False)
    u, v = np.asarray(mesh.visual.uv, np.float32).T
    scene = Scene(
        TexturedMesh(
            positions=np.asarray(mesh.vertices, np.float32),
            normals=np.asarray(mesh.vertex_normals, np.float32),
            uv=np.stack([u, 1 - v], axis=1),
            faces=np.asarray(mesh.faces, np.int32),
            texture=np.asarray(mesh.visual.material.baseColorTexture.convert("RGB")),
            watertight=True,
        )
    )

    def differences(azimuth: float, *, mirrored: bool = False) -> tuple[float, float]:
        viewpoint = Viewpoint(azimuth=azimuth, elevation=0)
        picture = scene.render(viewpoint, scene.camera([viewpoint]), SIZE, samples=2)
        picture = picture[:, ::-1] if mirrored else picture
        colors, shape = boxed(np.asarray(picture[..., :3] / 255, np.float32), picture[..., 3] > 127)
        both = shape & wanted_shape
        overlap = float(both.sum() / (shape | wanted_shape).sum())
        return overlap, float(np.abs(colors - wanted)[both].mean())

    overlap, off = differences(0)
    assert overlap > 0.9
    assert off < 0.12
    for wrong in (differences(0, mirrored=True), differences(90), differences(180), differences(270)):
        # The outline is as good as symmetric; the colours are not.
        assert wrong[1] > 1.5 * off
