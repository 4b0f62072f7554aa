"""Turn a request into files and a report: download → decode → cut out → frame → assign → generate → finish → preview → assess.

The request's folder then holds `model.glb`, `poster.png` and `cutout.png`, and `turntable.webp` and `model.usdz` if they were
requested. The pipeline knows nothing of rows, buckets or backends.
"""

import math
import resource
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worker.core.errors import JobError
from worker.core.stages import Stage, Step
from worker.engines.surface import Engine, Role
from worker.mesh.usdz import write_usdz
from worker.pipeline import fingerprint, provenance
from worker.pipeline.address import Policy
from worker.pipeline.choose import score_photo
from worker.pipeline.cutout import Cutter
from worker.pipeline.decode import decode_in_subprocess
from worker.pipeline.download import TOTAL_S, download
from worker.pipeline.frame import frame
from worker.pipeline.make import Made, Task, make, make_better
from worker.pipeline.photo import Photo, ScoredView
from worker.pipeline.preset import choose_preset
from worker.pipeline.preview import poster, turntable
from worker.pipeline.roles import assign, subject_photo
from worker.pipeline.subject import read_subject
from worker.pipeline.timing import timed_step
from worker.weights.transfer import file_digest

DOWNLOADS_S = 60.0
"""The longest that all downloads of a job take together: no shop keeps a lane busy with slow servers."""
AT_ONCE = 8  # downloads; 16 photos, the most of a job, are two rounds of the longest download


@dataclass(frozen=True, kw_only=True)
class Request:
    """The request of a job."""

    image_urls: list[str]  # in the order in which the backend prefers them
    quality: str  # a key of PRESETS, or "auto"
    excluded: Collection[int] = ()  # indices of photos that are not to be used, nor downloaded
    folder: Path  # an existing folder, for the downloads and the results
    policy: Policy  # which hosts photos may come from
    dimensions: Any = None  # `metadata.dimensions`, as the backend wrote it
    views: Any = None  # `metadata.views`, as the backend wrote it
    subject: Any = None  # `metadata.subject`, as the backend wrote it
    review_score: float = (
        0.0  # a model with a lower score is made once more, if another photo may be its front
    )
    limit_s: float = (
        math.inf
    )  # seconds that all of this may take; there is no second try if it might take longer
    turntable: bool = True  # False leaves out turntable.webp
    usdz: bool = False  # True makes model.usdz as well; needs usd-core


def run(
    request: Request,
    engine: Engine,
    cutter: Cutter,
    report: dict[str, Any],
    on_progress: Callable[[Stage], None],
    is_known: Callable[[str], bool] = lambda _: False,
) -> bool:
    """Make the model and its pictures in the request's folder. True if they are made, False if the result is known.

    Args:
        request: what to make.
        engine: turns the photos into a surface.
        cutter: cuts the product out of a photo.
        report: filled step by step, so that it also says how far a failed job came: engine, engine_version, quality_asked, photos,
            preset, preset_reason, surface, model, quality, tried, bytes, peak_rss_mb, seconds and cpu_seconds by step. JSON-able.
        on_progress: called at each stage from DOWNLOADING to WRITTEN.
        is_known: called once with the result's key (`worker.pipeline.fingerprint`), when the photos are there. If it returns true, nothing
            is made.

    Raises: JobError; any exception of the engine.
    """
    began = time.monotonic()
    report |= {"engine": engine.name, "engine_version": engine.version, **engine.details}
    report["quality_asked"] = request.quality

    on_progress(Stage.DOWNLOADING)
    subject = read_subject(request.subject)
    marked = subject_photo(request.views, len(request.image_urls)) if subject.box else None
    with timed_step(report, Step.DOWNLOAD):
        photos = _download(request)
    if any(photo.sha256 for photo in photos) and is_known(_result_key(request, photos, engine, cutter)):
        return False
    with timed_step(report, Step.CUTOUT):
        photos = [
            photo
            if photo.error or photo.excluded
            else _cut_out(photo, cutter, request.subject if n == marked else None)
            for n, photo in enumerate(photos)
        ]
    assigned = assign(request.views, photos, marked)
    report["photos"] = _report_photos(photos, assigned.roles, assigned.reasons)
    if not assigned.roles:
        raise _no_photo_left(photos)
    choice = choose_preset(request.quality, [scored for n in assigned.roles if (scored := photos[n].scored)])
    report |= choice.report
    on_progress(Stage.FRAMED)

    on_progress(Stage.GENERATING)
    task = Task(
        engine=engine,
        preset=choice.preset,
        photos=photos,
        dimensions=request.dimensions,
        left_out=len(assigned.reasons) if assigned.front_stated else 0,
        review_score=request.review_score,
        deadline=began + request.limit_s,
    )
    generating = time.monotonic()
    made = make(task, assigned.roles, request.folder, report, on_progress)
    if not assigned.front_stated:
        made = make_better(task, made, request.folder, report, time.monotonic() - generating)
        report["photos"] = _report_photos(photos, made.roles, assigned.reasons)
        if choice.reason and made.roles != assigned.roles:
            (first,) = assigned.roles
            report["preset_reason"] += f" This is about photo {first} of image_urls, which was tried first."
    if made.quality:
        report["quality"]["warnings"][:0] = [*assigned.warnings, *subject.warnings]
    _draw(request, made, report)
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
    return True


def _result_key(request: Request, photos: Sequence[Photo], engine: Engine, cutter: Cutter) -> str:
    """Hash all that the files and the report depend on."""
    return fingerprint.digest(
        {
            "photos": [photo.sha256 or (photo.error.code if photo.error else "excluded") for photo in photos],
            "quality": request.quality,
            "dimensions": request.dimensions,
            "views": request.views,
            "subject": request.subject,
            "review_score": request.review_score,
            "turntable": request.turntable,
            "usdz": request.usdz,
            "engine": [engine.name, engine.version, dict(engine.details)],
            "background_model": cutter.digest,
            "code": fingerprint.code(),
        }
    )


def _report_photos(
    photos: Sequence[Photo], roles: Mapping[int, Role], reasons: Mapping[int, str]
) -> list[dict[str, Any]]:
    return [photo.report(roles.get(n), reasons.get(n)) for n, photo in enumerate(photos)]


def _draw(request: Request, made: Made, report: dict[str, Any]) -> None:
    """Write the poster, and the turntable and the USDZ if they are requested."""
    with timed_step(report, Step.POSTER):
        poster(made.scene, request.folder / "poster.png", provenance.png_info(made.made_by))
    if request.turntable:
        with timed_step(report, Step.TURNTABLE):
            turntable(made.scene, request.folder / "turntable.webp", provenance.xmp(made.made_by))
    if request.usdz:
        with timed_step(report, Step.USDZ):
            write_usdz(request.folder / "model.usdz", made.scene.mesh, made.made_by)


def _download(request: Request) -> list[Photo]:
    photos = [
        Photo(url, request.folder / f"photo-{n}", excluded=n in request.excluded)
        for n, url in enumerate(request.image_urls)
    ]
    end = time.monotonic() + DOWNLOADS_S
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        return list(pool.map(lambda photo: _downloaded(photo, request.policy, end), photos))
    finally:
        # If the job is stopped in the middle, nothing waits for the downloads in progress.
        pool.shutdown(wait=False, cancel_futures=True)


def _downloaded(photo: Photo, policy: Policy, end: float) -> Photo:
    if photo.excluded:
        return photo
    left_s = end - time.monotonic()
    if left_s <= 0:
        message = f"The photos did not arrive within {DOWNLOADS_S:.0f} seconds in all."
        return replace(photo, error=JobError("photo_too_slow", message))
    try:
        download(photo.url, photo.file, policy, total_s=min(TOTAL_S, left_s))
    except JobError as error:
        return replace(photo, error=error)
    return replace(photo, sha256=file_digest(photo.file))


def _cut_out(photo: Photo, cutter: Cutter, subject: Any) -> Photo:
    try:
        image = decode_in_subprocess(photo.file)
        photo = replace(photo, incomplete=image.info["missing"] > 0)
        cutout = cutter.cut(image, subject)
        view = frame(cutout.rgba)
    except JobError as error:
        return replace(photo, error=error)
    return replace(photo, scored=ScoredView(view, score_photo(cutout, view), cutout.warnings))


def _no_photo_left(photos: list[Photo]) -> JobError:
    """Return the first error that a retry may cure, else the first one; of several photos the message counts them."""
    errors = [photo.error for photo in photos if photo.error]
    if not errors:
        return JobError("no_object", "All photos were left out. Use at least one.")
    chosen = next((error for error in errors if error.retryable), errors[0])
    if len(errors) == 1:
        return chosen
    return JobError(chosen.code, f"None of the {len(errors)} photos could be used. {chosen.message}")
