"""Turn a request into files and a report: download → decode → cut out → frame → assign → generate → finish → preview → assess.

The request's folder then holds `model.glb`, `poster.png` and `cutout.png`, and `turntable.webp` and `model.usdz` if they were
requested. The pipeline knows nothing of rows, buckets or backends.
"""

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from worker.core.errors import JobError
from worker.core.stages import Stage, Step
from worker.engines import PREVIEWS
from worker.engines.presets import PRESETS
from worker.engines.surface import Engine, PosedView
from worker.mesh.render import Scene
from worker.mesh.usdz import write_usdz
from worker.pipeline.address import Policy
from worker.pipeline.choose import score_photo
from worker.pipeline.cutout import Cutter
from worker.pipeline.decode import decode_in_subprocess
from worker.pipeline.download import download
from worker.pipeline.finish import Model, finish
from worker.pipeline.frame import frame
from worker.pipeline.photo import Photo, ScoredView
from worker.pipeline.preview import poster, turntable
from worker.pipeline.quality import assess
from worker.pipeline.roles import assign
from worker.pipeline.timing import timed_step
from worker.weights.transfer import file_digest


@dataclass(frozen=True, kw_only=True)
class Request:
    """The request of a job."""

    job_id: str
    name: str  # of the product; the mesh in the file is named after it
    image_urls: list[str]  # in the order in which the backend prefers them
    quality: str  # a key of PRESETS
    folder: Path  # an existing folder, for the downloads and the results
    policy: Policy  # which hosts photos may come from
    dimensions: Any = None  # `metadata.dimensions`, as the backend wrote it
    views: Any = None  # `metadata.views`, as the backend wrote it
    subject: Any = None  # `metadata.subject`, as the backend wrote it
    turntable: bool = True  # False leaves out turntable.webp
    usdz: bool = False  # True makes model.usdz as well; needs usd-core


def run(
    request: Request,
    engine: Engine,
    cutter: Cutter,
    report: dict[str, Any],
    on_progress: Callable[[Stage], None],
) -> None:
    """Make the model and its pictures in the request's folder.

    Args:
        request: what to make.
        engine: turns the photos into a surface.
        cutter: cuts the product out of a photo.
        report: filled step by step, so that it also says how far a failed job came: engine, engine_version, preset, photos,
            surface, model, quality, bytes, peak_rss_mb, seconds and
            cpu_seconds by step. JSON-able.
        on_progress: called at each stage from DOWNLOADING to WRITTEN.

    Raises: JobError; any exception of the engine.
    """
    preset = PRESETS[request.quality]
    made_by = {
        "engine": engine.name,
        "engine_version": engine.version,
        **engine.details,
        "preset": preset.name,
    }
    report |= made_by

    on_progress(Stage.DOWNLOADING)
    photos = _get_photos(request, cutter, report)
    assigned = assign(request.views, photos)
    report["photos"] = [
        photo.report(assigned.roles.get(n), assigned.reasons.get(n)) for n, photo in enumerate(photos)
    ]
    used = [(role, scored) for n, role in assigned.roles.items() if (scored := photos[n].scored)]
    if not used:
        raise _no_photo_left(photos)
    _, front = used[0]
    Image.fromarray(front.view).save(request.folder / "cutout.png", optimize=True)
    on_progress(Stage.FRAMED)

    on_progress(Stage.GENERATING)
    with timed_step(report, Step.GENERATE):
        surface = engine.reconstruct([PosedView(role, scored.view) for role, scored in used], preset)
    report["surface"] = surface.report  # the engine may still add to it: the textures' share of its memory
    on_progress(Stage.SURFACE)
    provenance = {
        "job_id": request.job_id,
        **made_by,
        "input_sha256": [file_digest(photo.file) for photo in photos if photo.scored],
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with timed_step(report, Step.FINISH):
        model = finish(
            surface,
            preset,
            request.folder,
            name=request.name,
            extras=provenance,
            dimensions=request.dimensions,
            on_textured=lambda: on_progress(Stage.TEXTURED),
        )
    report["model"] = model.report
    scene = _draw(request, model, report)
    if model.source_views:
        with timed_step(report, Step.QUALITY):
            report["quality"] = assess(
                model, scene, [scored for _, scored in used], preview=engine.name in PREVIEWS
            )
            report["quality"]["warnings"][:0] = assigned.warnings
    report["bytes"] = {
        name: (request.folder / name).stat().st_size
        for name in ("model.glb", "poster.png", "turntable.webp", "model.usdz")
        if (request.folder / name).exists()
    }
    # Linux counts in KiB, macOS in bytes.
    report["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (
        20 if sys.platform == "darwin" else 10
    )
    on_progress(Stage.WRITTEN)


def _draw(request: Request, model: Model, report: dict[str, Any]) -> Scene:
    """Write the poster, and the turntable and the USDZ if they are requested. Return the scene that they show."""
    with timed_step(report, Step.POSTER):
        scene = Scene(model.mesh)
        poster(scene, request.folder / "poster.png")
    if request.turntable:
        with timed_step(report, Step.TURNTABLE):
            turntable(scene, request.folder / "turntable.webp")
    if request.usdz:
        with timed_step(report, Step.USDZ):
            write_usdz(request.folder / "model.usdz", model.mesh)
    return scene


def _get_photos(request: Request, cutter: Cutter, report: dict[str, Any]) -> list[Photo]:
    """Download the photos, and cut out and score those that arrived. Each has `scored` or `error` then."""
    with timed_step(report, Step.DOWNLOAD):
        photos = _download(request)
    with timed_step(report, Step.CUTOUT):
        return [photo if photo.error else _cut_out(photo, cutter) for photo in photos]


def _download(request: Request) -> list[Photo]:
    photos = [Photo(url, request.folder / f"photo-{n}") for n, url in enumerate(request.image_urls)]
    # Four at a time, so that one slow server does not hold up the rest.
    pool = ThreadPoolExecutor(4)
    try:
        return list(pool.map(lambda photo: _downloaded(photo, request.policy), photos))
    finally:
        # If the job is stopped in the middle, nothing waits for the downloads in progress.
        pool.shutdown(wait=False, cancel_futures=True)


def _downloaded(photo: Photo, policy: Policy) -> Photo:
    try:
        download(photo.url, photo.file, policy)
    except JobError as error:
        return replace(photo, error=error)
    return photo


def _cut_out(photo: Photo, cutter: Cutter) -> Photo:
    try:
        image = decode_in_subprocess(photo.file)
        photo = replace(photo, incomplete=image.info["missing"] > 0)
        cutout = cutter.cut(image)
        view = frame(cutout.rgba)
    except JobError as error:
        return replace(photo, error=error)
    return replace(photo, scored=ScoredView(view, score_photo(cutout, view), cutout.warnings))


def _no_photo_left(photos: list[Photo]) -> JobError:
    """Return the first error that a retry may cure, else the first one; of several photos the message counts them."""
    errors = [photo.error for photo in photos if photo.error]
    chosen = next((error for error in errors if error.retryable), errors[0])
    if len(errors) == 1:
        return chosen
    return JobError(chosen.code, f"None of the {len(errors)} photos could be used. {chosen.message}")
