"""The presets: what each value of `jobs.quality` stands for."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The size of a model: of its grid, its mesh, its texture and its file."""

    name: str
    grid: int  # samples of the isosurface's grid along its longest axis
    triangles: int  # of the finished mesh, at most
    texture: int  # width and height of the base-colour texture in pixels
    file_bytes: int = 5_000_000  # of the GLB, at most


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(name="fast", grid=128, triangles=10_000, texture=1024, file_bytes=1_000_000),
        Preset(name="balanced", grid=256, triangles=30_000, texture=1024, file_bytes=3_000_000),
        Preset(name="quality", grid=384, triangles=50_000, texture=2048),
    )
}
