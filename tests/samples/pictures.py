"""Draw the models' pictures in docs/ anew, from the results of `make demo` and from the worker's own steps.

make demo && .venv/bin/python tests/samples/pictures.py results [SHEETS]

SHEETS is a folder with the contact sheets of tests/benchmarks/views.py, for docs/models-views*.jpg.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tempfile
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from benchmarks import known
from numpy.typing import NDArray
from PIL import Image

from worker.core import settings
from worker.engines.presets import PRESETS
from worker.engines.relief import Relief
from worker.engines.surface import PosedView, Role
from worker.local import samples
from worker.mesh.render import Scene
from worker.pipeline.cutout import Cutter
from worker.pipeline.decode import decode_in_subprocess
from worker.pipeline.finish import finish
from worker.pipeline.frame import frame
from worker.pipeline.preview import poster, turntable

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (245, 245, 245)
TILE = 264  # pixels a side
AZIMUTHS = (0, 45, 90, 135, 180)
# The rows of the first picture: a model of the demo, and the photos that it was made from.
ROWS = (
    ("duck", ("duck.jpg", "duck-left.jpg", "duck-back.jpg", "duck-right.jpg")),
    ("robot", ("robot.jpg", "robot-side.jpg")),
    ("duck-preview", ("duck.jpg",)),
    ("vase", ("vase.png",)),
)
SHEET = 900  # pixels, the width of a contact sheet
FRAMES = (0, 4, 8, 12, 16, 20)  # of the turntable


def main() -> None:
    """Write docs/demo.jpg, docs/models-presets.jpg, docs/models-turntable.jpg, and from sheets docs/models-views*.jpg."""
    results, *sheets = map(Path, sys.argv[1:])
    for folder in sheets:
        for name, sheet in (("models-views.jpg", "duck.png"), ("models-views-triposr.jpg", "fitted.png")):
            picture = Image.open(folder / sheet)
            picture.thumbnail((SHEET, 2 * SHEET), Image.Resampling.LANCZOS)
            _save(name, np.asarray(picture))
    rows = [[_photos(photos), *_turned(results / f"{product}.glb")] for product, photos in ROWS]
    _save("demo.jpg", _grid(rows))
    cutter = Cutter("u2netp", settings.load().weights_dir)
    robot: dict[Role, str] = {"front": "robot.jpg", "left": "robot-side.jpg"}
    views = [
        PosedView(role, frame(cutter.cut(decode_in_subprocess(samples.path(name))).rgba))
        for role, name in robot.items()
    ]
    posters, frames = [], []
    for preset in PRESETS.values():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            scene = Scene(finish(Relief().reconstruct(views, preset), preset, folder, extras={}).mesh)
            poster(scene, folder / "poster.png")
            posters.append(_on_page(Image.open(folder / "poster.png"), 448))
            if preset.name == "balanced":
                turntable(scene, folder / "turntable.webp")
                with Image.open(folder / "turntable.webp") as turning:
                    for n in FRAMES:
                        turning.seek(n)
                        frames.append(_on_page(turning, 256))
    _save("models-presets.jpg", _grid([posters]))
    _save("models-turntable.jpg", _grid([frames]))


def _photos(names: Sequence[str]) -> Image.Image:
    """Put up to four photos into one tile."""
    side = TILE if len(names) == 1 else TILE // 2
    tile = Image.new("RGB", (TILE, TILE), PAGE)
    for n, name in enumerate(names):
        top = (TILE - side) // 2 if len(names) == 2 else n // 2 * side  # two stand in the middle
        tile.paste(_on_page(Image.open(samples.path(name)), side), (n % 2 * side, top))
    return tile


def _turned(glb: Path) -> list[Image.Image]:
    """Draw a model from the front, the side and the back, and from between."""
    model = known.from_glb(glb, 0)
    cameras = [replace(model.turntable(azimuth), elevation=8.0) for azimuth in AZIMUTHS]
    return [_on_page(Image.fromarray(model.photograph(camera, TILE, lit=True)), TILE) for camera in cameras]


def _on_page(picture: Image.Image, side: int) -> Image.Image:
    """Fit a picture into a square of the page's colour."""
    square = Image.new("RGBA", (side, side), (*PAGE, 255))
    small = picture.convert("RGBA")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    square.alpha_composite(small, ((side - small.width) // 2, (side - small.height) // 2))
    return square.convert("RGB")


def _grid(rows: Sequence[Sequence[Image.Image]]) -> NDArray[np.uint8]:
    return np.concatenate([np.concatenate([np.asarray(tile) for tile in row], axis=1) for row in rows])


def _save(name: str, picture: NDArray[np.uint8]) -> None:
    Image.fromarray(picture).save(DOCS / name, quality=88, subsampling=0, optimize=True)
    sys.stderr.write(f"docs/{name}: {(DOCS / name).stat().st_size // 1000} kB\n")


if __name__ == "__main__":
    main()
