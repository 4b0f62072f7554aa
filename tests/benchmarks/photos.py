"""Measure what becomes of a photo at each preset, and what laying it over the model adds.

    .venv/bin/python tests/benchmarks/photos.py [--engine triposr] [PHOTO …]

Without photos it takes the samples. The columns "dB" compare the model's front with the photo, inside both outlines, by the
peak signal-to-noise ratio: with the engine's colours alone, and with the photo laid over them, as the worker does.
"""

import sys
from pathlib import Path

# Not this folder, which Python puts first: its `queue` would hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import tempfile
import time
from dataclasses import replace

import numpy as np

from worker import engines
from worker.core import settings
from worker.core.errors import JobError
from worker.engines.presets import PRESETS
from worker.engines.surface import Engine, PosedView, View
from worker.local import samples
from worker.mesh.camera import Camera
from worker.mesh.render import Scene
from worker.pipeline.choose import score_photo
from worker.pipeline.cutout import Cutter
from worker.pipeline.decode import decode_in_subprocess
from worker.pipeline.finish import Model, finish
from worker.pipeline.frame import frame
from worker.pipeline.photo import ScoredView
from worker.pipeline.preview import poster
from worker.pipeline.quality import assess

HEAD = "photo            preset    triangles  GLB kB poster kB    IoU    ΔE score dB without dB with     s"


def psnr(model: Model, camera: Camera, view: View) -> float:
    """Return the peak signal-to-noise ratio in dB between the model, seen by `camera`, and the photo."""
    seen = Scene(model.mesh).render_unlit(camera, len(view))
    both = (seen[..., 3] > 250) & (view[..., 3] > 250)
    off = (seen[..., :3][both].astype(float) - view[..., :3][both]) / 255
    return float(-10 * np.log10((off**2).mean()))


def measure(photo: Path, engine: Engine, cutter: Cutter) -> None:
    """Print a line for each preset. Raises: JobError."""
    cutout = cutter.cut(decode_in_subprocess(photo))
    view = frame(cutout.rgba)
    for preset in PRESETS.values():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            began = time.perf_counter()
            surface = engine.reconstruct([PosedView("front", view)], preset)
            model = finish(surface, preset, folder, extras={})
            seconds = time.perf_counter() - began
            drawn = Scene(model.mesh)
            poster(drawn, folder / "poster.png")
            glb_kb, poster_kb = (
                (folder / file).stat().st_size / 1000 for file in ("model.glb", "poster.png")
            )
            plain = finish(replace(surface, source_views=[]), preset, folder, extras={})
        assert model.source_views
        scored = ScoredView(view, score_photo(cutout, view), cutout.warnings)
        quality = assess(model, drawn, {"front": scored}, preview=engine.name in engines.PREVIEWS)
        without, laid_over = (psnr(made, model.source_views[0].camera, view) for made in (plain, model))
        print(
            f"{photo.name:16} {preset.name:9} {len(model.mesh.faces):9} {glb_kb:7.0f} {poster_kb:9.0f}"
            f" {quality['silhouette_iou']:6.3f} {quality['delta_e']:5.1f} {quality['score']:5}"
            f" {without:10.1f} {laid_over:7.1f} {seconds:5.1f}"
        )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="*", type=Path, metavar="PHOTO")
    parser.add_argument("--engine", choices=list(engines.ENGINES), default=engines.WITHOUT_WEIGHTS)
    parser.add_argument("--background-model", default="u2netp")
    chosen = parser.parse_args()
    folder = settings.load().weights_dir
    engine = engines.load(chosen.engine, folder)
    cutter = Cutter(chosen.background_model, folder)
    print(HEAD)
    for photo in chosen.photos or sorted(Path(samples.__file__).parent.glob("*.[jp][pn]g")):
        try:
            measure(photo, engine, cutter)
        except JobError as error:
            print(f"{photo.name:16} {error.code}: {error.message}")


if __name__ == "__main__":
    main()
