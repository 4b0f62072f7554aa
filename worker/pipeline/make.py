"""Turn the photos of a job into a model: generate → finish → assess. A poor one is made once more, from another front."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from worker.core.errors import JobError
from worker.core.stages import Stage, Step
from worker.engines import PREVIEWS
from worker.engines.presets import Preset
from worker.engines.surface import Engine, PosedView, Role
from worker.mesh.render import Scene
from worker.pipeline import provenance
from worker.pipeline.finish import Model, finish
from worker.pipeline.photo import Photo, ScoredView
from worker.pipeline.quality import assess
from worker.pipeline.timing import timed_step

LIKE_THE_FRONT = 0.25  # a photo with at least this part of the front's score may be the front instead
SECOND_TRY = 1.5  # times the seconds of the first one that must be left for a second one


@dataclass(frozen=True, kw_only=True)
class Task:
    """What does not change from one try to the next."""

    engine: Engine
    preset: Preset
    photos: Sequence[Photo]  # of the row, in its order
    dimensions: Any  # `metadata.dimensions`, as the backend wrote it
    left_out: int = 0  # stated photos that contradict the others
    review_score: float  # a model with a lower score is tried once more
    deadline: float  # on the clock `time.monotonic`, for the whole attempt


class Made(NamedTuple):
    """A model whose pictures are not drawn yet."""

    roles: Mapping[int, Role]  # of the photos that it is made from; the front first
    model: Model
    scene: Scene
    made_by: Mapping[str, Any]  # what its files say of their making
    quality: Mapping[str, Any] | None  # None if it cannot be compared with a photo


def make(
    task: Task,
    roles: Mapping[int, Role],
    folder: Path,
    report: dict[str, Any],
    on_progress: Callable[[Stage], None],
) -> Made:
    """Write `model.glb` and `cutout.png` into an existing folder.

    Args:
        task: the job.
        roles: the photos to use; the front first.
        folder: where the files go.
        report: gets `surface`, `model`, `quality`, `seconds` and `cpu_seconds`, as far as the work comes.
        on_progress: called at SURFACE and TEXTURED.

    Raises: JobError; any exception of the engine.
    """
    views = {role: _scored(task.photos[n]) for n, role in roles.items()}
    made_by = provenance.describe(
        task.engine, task.preset, {role: task.photos[n].sha256 for n, role in roles.items()}
    )
    Image.fromarray(views["front"].view).save(
        folder / "cutout.png", optimize=True, pnginfo=provenance.png_info(provenance.of_cutout(made_by))
    )
    with timed_step(report, Step.GENERATE):
        surface = task.engine.reconstruct(
            [PosedView(role, scored.view) for role, scored in views.items()], task.preset
        )
    report["surface"] = surface.report  # the engine may still add to it: the textures' share of its memory
    on_progress(Stage.SURFACE)
    with timed_step(report, Step.FINISH):
        model = finish(
            surface,
            task.preset,
            folder,
            extras=made_by,
            dimensions=task.dimensions,
            on_textured=lambda: on_progress(Stage.TEXTURED),
        )
    report["model"] = model.report
    with timed_step(report, Step.POSTER):
        scene = Scene(model.mesh)
    if not model.source_views:
        return Made(roles, model, scene, made_by, None)
    with timed_step(report, Step.QUALITY):
        report["quality"] = assess(
            model, scene, views, preview=task.engine.name in PREVIEWS, left_out=task.left_out
        )
    return Made(roles, model, scene, made_by, report["quality"])


def make_better(task: Task, first: Made, folder: Path, report: dict[str, Any], seconds: float) -> Made:
    """Make a poor model once more, from the next best photo, and return the better one. Its files are in the folder.

    There is no second try if no other photo may be the front, or if too little time is left. `report["tried"]` says what came out.

    Args:
        task: the job. Its row states no front that could be used.
        first: the model in the folder.
        folder: where the better one's files are in the end.
        report: of the first one; afterwards of the better one.
        seconds: that the first one took.
    """
    (front,) = first.roles
    other = _next_best(task.photos, front)
    score = first.quality["score"] if first.quality else None
    if score is None or score >= task.review_score or other is None:
        return first
    if time.monotonic() + SECOND_TRY * seconds > task.deadline:
        return first
    tried: list[dict[str, Any]] = [{"photo": front, "score": score}]
    report["tried"] = tried
    beside = folder / "second"
    beside.mkdir()
    # The steps' seconds add up.
    again: dict[str, Any] = {key: report[key] for key in ("seconds", "cpu_seconds")}
    try:
        second = make(task, {other: "front"}, beside, again, lambda _: None)
    except JobError as error:
        tried.append({"photo": other, "error_code": error.code})
        return first
    tried.append({"photo": other, "score": again["quality"]["score"]})
    if again["quality"]["score"] <= score:
        return first
    report |= again
    for file in beside.iterdir():
        shutil.move(
            file, folder / file.name
        )  # copies where the first Landlock forbids to move out of a folder
    return second


def _next_best(photos: Sequence[Photo], front: int) -> int | None:
    """Return the best of the other photos that show the product about as well as the front does."""
    least = LIKE_THE_FRONT * _scored(photos[front]).score.total
    others = {n: photo.scored.score.total for n, photo in enumerate(photos) if photo.scored and n != front}
    good = [n for n, total in others.items() if total >= least]
    return max(good, key=lambda n: (others[n], -n), default=None)


def _scored(photo: Photo) -> ScoredView:
    assert photo.scored  # noqa: S101 - only photos that can be used have a role
    return photo.scored
