"""Draw the sample photos anew: in tests/samples, `python -m studio.render [scene or file …]`. Minutes each; the files are committed."""

import importlib
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.cluster.vq import kmeans2
from scipy.spatial import cKDTree
from studio.tracer import Floats, render, turned

from worker.local import samples

SCENES = ("vase", "duck", "bottle", "robot", "bag")
SAMPLES = 36
SHOULDER = 0.72  # above this a photo's curve bends, so that highlights keep their shape
CONTRAST = 0.3  # how much of an S is in the curve
LIMIT = 150_000  # bytes; the files live in the repository


def calm(light: Floats) -> Floats:
    """Take out what noise is left: average each pixel with neighbours that look alike, edges stay."""
    pad = np.pad(light, ((2, 2), (2, 2), (0, 0)), mode="edge")
    tone = np.log(pad[..., :3] + 0.02)
    total, weight = np.zeros_like(light), np.zeros((*light.shape[:2], 1))
    height, width = light.shape[:2]
    for dy in range(5):
        for dx in range(5):
            near = (slice(dy, dy + height), slice(dx, dx + width))
            apart = ((tone[near] - tone[2:-2, 2:-2]) ** 2).sum(axis=2, keepdims=True)
            w = np.exp(-apart / 0.03 - ((dy - 2) ** 2 + (dx - 2) ** 2) / 4.0)
            total += w * pad[near]
            weight += w
    return total / weight


def develop(light: Floats) -> Image.Image:
    """Linear light to an sRGB picture: RGB where all is covered, else RGBA."""
    alpha = light[..., 3:]
    colour = light[..., :3] / np.maximum(alpha, 1e-6)
    room = 1.0 - SHOULDER
    bent = SHOULDER + room * (1.0 - np.exp(-(np.maximum(colour, SHOULDER) - SHOULDER) / room))
    colour = np.where(colour > SHOULDER, bent, colour).clip(0, 1)
    colour = np.where(colour <= 0.0031308, colour * 12.92, 1.055 * colour ** (1 / 2.4) - 0.055)
    colour += CONTRAST * (colour * colour * (3.0 - 2.0 * colour) - colour)
    if alpha.min() > 0.999:
        return Image.fromarray((colour * 255 + 0.5).astype(np.uint8))
    return Image.fromarray((np.concatenate([colour, alpha], axis=2) * 255 + 0.5).astype(np.uint8))


def thin_out(picture: Image.Image, colours: int) -> Image.Image:
    """A palette of colours with their alpha, chosen for this picture: a third of the bytes, and hardly to be seen."""
    pixels = np.asarray(picture, dtype=float).reshape(-1, 4)
    some = pixels[pixels[:, 3] > 0][::7]
    palette, _ = kmeans2(some, colours, iter=20, minit="points", rng=np.random.default_rng(1))
    palette = np.concatenate([np.zeros((1, 4)), palette]).round().astype(np.uint8)
    _, nearest = cKDTree(palette).query(pixels)
    nearest[pixels[:, 3] == 0] = 0
    thin = Image.fromarray(nearest.astype(np.uint8).reshape(picture.height, picture.width))
    thin.putpalette(palette.tobytes(), "RGBA")
    return thin


def encode(picture: Image.Image) -> bytes:
    """The best JPEG that is small enough; a PNG where there is transparency."""
    file = io.BytesIO()
    for quality in range(93, 60, -3):
        file = io.BytesIO()
        if picture.mode == "RGBA":
            thin_out(picture, 255 - 5 * (93 - quality)).save(file, "PNG", optimize=True)
        else:
            picture.save(file, "JPEG", quality=quality, subsampling=0, optimize=True)
        if file.tell() <= LIMIT:
            break
    return file.getvalue()


def main(names: list[str]) -> None:
    folder = Path(samples.__file__).parent
    for name in SCENES:
        scene = importlib.import_module(f"studio.scenes.{name}")
        for file, photo in scene.PHOTOS.items():
            if names and not {name, file} & set(names):
                continue
            distance, surface, studio = turned(scene.distance, scene.surface, photo.studio, photo.azimuth)
            light = render(distance, surface, studio, width=photo.width, height=photo.height, samples=SAMPLES)
            data = encode(develop(calm(light)))
            (folder / file).write_bytes(data)
            sys.stderr.write(f"{file}: {len(data) // 1000} kB\n")


if __name__ == "__main__":
    main(sys.argv[1:])
