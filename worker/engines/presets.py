"""What `jobs.quality` stands for."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Preset:
    name: str
    grid: int  # samples along the longest axis of the isosurface's grid
    triangles: int  # the finished mesh has at most so many
    texture: int  # width and height of the base-colour texture, pixels
    file_bytes: int = 5_000_000  # the GLB is at most so large


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(name="fast", grid=128, triangles=10_000, texture=1024, file_bytes=1_000_000),
        Preset(name="balanced", grid=256, triangles=30_000, texture=1024, file_bytes=3_000_000),
        Preset(name="quality", grid=384, triangles=50_000, texture=2048),
    )
}
