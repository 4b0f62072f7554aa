"""TripoSR: one photo of an object → a field of density and colour.

The network of "TripoSR: Fast 3D Object Reconstruction from a Single Image", compatible with its checkpoint::

    model = load(folder, device="cuda", dtype=torch.float16)
    codes = model.encode([photo])     # (1, 3, C, H, W)
    field = model.field(codes[0])
    field.density(points)             # (N, 3) in world units → (N,); the surface is where it equals field.level
    field.color(points)               # (N, 3) in 0..1, sRGB

The world is the cube from -radius to radius, z up; the photo was taken from +x, its right is +y.
"""

from worker.tsr.checkpoint import convert, layout, load, weights_file
from worker.tsr.config import CheckpointError, Config, ViTConfig
from worker.tsr.field import Field
from worker.tsr.image import composite_on_grey
from worker.tsr.model import TripoSR

__all__ = [
    "CheckpointError",
    "Config",
    "Field",
    "TripoSR",
    "ViTConfig",
    "composite_on_grey",
    "convert",
    "layout",
    "load",
    "weights_file",
]
