"""Draw the pictures that a page shows until the model is loaded."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from worker.mesh.render import Scene, Viewpoint

SIZE = 512  # pixels a side of the poster
AZIMUTH, ELEVATION = (
    24.0,
    14.0,
)  # degrees; they show that the product is solid, with its front still in full view

FRAMES = 24
FRAME_MS = 100
MOST_BYTES = 300_000
# Pixels a side and WebP's quality, tried in turn until the file is small enough; only noise needs the last one.
TRIES = ((384, 80), (384, 60), (384, 36), (256, 36), (160, 20), (96, 5))


def poster(scene: Scene, target: Path, info: PngInfo | None = None) -> None:
    """Write a PNG of 512 by 512 pixels: the product and its shadow on transparency. `info` goes into the file."""
    viewpoint = Viewpoint(azimuth=AZIMUTH, elevation=ELEVATION)
    picture = scene.render(viewpoint, scene.camera([viewpoint]), SIZE, samples=3)
    Image.fromarray(picture).save(target, pnginfo=info)


def turntable(scene: Scene, target: Path, xmp: bytes = b"") -> None:
    """Write an animated WebP of 24 frames, once round from the poster's viewpoint, below 300 kB whatever it shows.

    `xmp` is the packet that goes into the file, if any.
    """
    viewpoints = [Viewpoint(azimuth=AZIMUTH + 360 * n / FRAMES, elevation=ELEVATION) for n in range(FRAMES)]
    camera = scene.camera(viewpoints)
    with ThreadPoolExecutor(2) as pool:  # numpy releases the GIL in its loops
        pictures = list(
            pool.map(lambda viewpoint: scene.render(viewpoint, camera, TRIES[0][0], samples=2), viewpoints)
        )
    for size, quality in TRIES:
        first, *others = (
            Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS) for picture in pictures
        )
        first.save(
            target,
            save_all=True,
            append_images=others,
            duration=FRAME_MS,
            loop=0,  # for ever
            quality=quality,
            xmp=xmp,
            alpha_quality=90,
            method=2,  # 4 takes four times as long for an eighth less
        )
        if target.stat().st_size < MOST_BYTES:
            return
