"""The pictures that stand for the model until it is loaded."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from worker.mesh.render import Scene, Viewpoint

SIZE = 512
AZIMUTH, ELEVATION = 24.0, 14.0  # degrees: enough to show that it is solid, with the front still well in view

FRAMES = 24
FRAME_MS = 100
MOST_BYTES = 300_000
# Pixels a side and WebP's quality, tried in turn until the file is small enough; the last is for noise.
TRIES = ((384, 80), (384, 60), (384, 36), (256, 36), (160, 20), (96, 5))


def poster(scene: Scene, target: Path) -> None:
    """A RGBA PNG of 512 by 512, the product on a transparent page with its shadow."""
    viewpoint = Viewpoint(azimuth=AZIMUTH, elevation=ELEVATION)
    picture = scene.render(viewpoint, scene.camera([viewpoint]), SIZE, samples=3)
    Image.fromarray(picture).save(target, optimize=True)


def turntable(scene: Scene, target: Path) -> None:
    """An animated WebP of 24 frames, once round from the poster's side, below 300 kB whatever it shows."""
    viewpoints = [Viewpoint(azimuth=AZIMUTH + 360 * n / FRAMES, elevation=ELEVATION) for n in range(FRAMES)]
    camera = scene.camera(viewpoints)
    with ThreadPoolExecutor(2) as pool:  # numpy lets go of the lock in its loops
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
            alpha_quality=90,
            method=4,
        )
        if target.stat().st_size < MOST_BYTES:
            return
