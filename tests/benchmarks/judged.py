"""Compare the score with the judgement of people.

    .venv/bin/python tests/benchmarks/judged.py [--engine triposr] [--background-model u2netp] FOLDER

Each photo in the folder is named after the verdict on its model: `yes-` if it could be published, `no-` if not; `poster-` if only
its still picture could, which may score anything. The models are made as a job makes them. Prints a table, the area under the
curve, and which photos fall on the wrong side of WORKER_REVIEW_SCORE; the exit status is 1 if one does.
"""

import sys
from pathlib import Path

# Not this folder, which Python puts first: its `queue` would hide the standard library's.
sys.path.pop(0)

import argparse
import tempfile
from itertools import product
from typing import Any

from worker import engines
from worker.core import settings
from worker.core.errors import JobError
from worker.engines.presets import PRESETS
from worker.engines.surface import Engine, PosedView
from worker.mesh.render import Scene
from worker.pipeline.choose import score_photo
from worker.pipeline.cutout import Cutter
from worker.pipeline.decode import decode_in_subprocess
from worker.pipeline.finish import finish
from worker.pipeline.frame import frame
from worker.pipeline.photo import ScoredView
from worker.pipeline.quality import assess

VERDICTS = ("yes", "poster", "no")


def judge(photo: Path, engine: Engine, cutter: Cutter) -> dict[str, Any]:
    """Return the report on the quality of the model that the engine makes of the photo. Raises: JobError."""
    cutout = cutter.cut(decode_in_subprocess(photo))
    view = frame(cutout.rgba)
    preset = PRESETS["fast"]
    with tempfile.TemporaryDirectory() as folder:
        surface = engine.reconstruct([PosedView("front", view)], preset)
        model = finish(surface, preset, Path(folder), extras={})
    scored = ScoredView(view, score_photo(cutout, view), cutout.warnings)
    return assess(model, Scene(model.mesh), {"front": scored}, preview=engine.name in engines.PREVIEWS)


def area_under_curve(good: list[float], bad: list[float]) -> float:
    """Return the probability that a good model scores higher than a bad one; a draw counts half."""
    wins = [(a > b) + (a == b) / 2 for a, b in product(good, bad)]
    return sum(wins) / len(wins)


def main() -> int:
    """Print the table. Return 1 if a score contradicts its verdict, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", choices=list(engines.ENGINES), default=engines.WITHOUT_WEIGHTS)
    parser.add_argument("--background-model", default="u2netp")
    chosen = parser.parse_args()
    configured = settings.load()
    engine = engines.load(chosen.engine, configured.weights_dir)
    cutter = Cutter(chosen.background_model, configured.weights_dir)
    scores: dict[str, list[float]] = {verdict: [] for verdict in VERDICTS}
    wrong = []
    for photo in sorted(chosen.folder.iterdir()):
        verdict = photo.name.split("-")[0]
        if verdict not in VERDICTS:
            continue
        try:
            report = judge(photo, engine, cutter)
        except JobError as error:
            print(f"{photo.name:24} {error.code}: {error.message}")
            continue
        scores[verdict].append(report["score"])
        low = report["score"] < configured.review_score
        if verdict != "poster" and low == (verdict == "yes"):
            wrong.append(photo.name)
        print(f"{photo.name:24} {report['score']:5.1f}  {' '.join(report['warnings'])}")
    if scores["yes"] and scores["no"]:
        print(f"area under the curve {area_under_curve(scores['yes'], scores['no']):.3f}")
    print(f"on the wrong side of {configured.review_score}: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
