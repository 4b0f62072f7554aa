"""The report of a child: what it may say about a job, field by field. It goes into the row's `metadata.worker`, logs and pages.

A new field of the pipeline's or an engine's report gets its line here. Every field may be missing: a job that fails reports as far
as it came.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, with_config
from typing_extensions import TypedDict

from worker.core.errors import ERRORS
from worker.core.stages import STEPS

MAX_TEXT = 1000  # characters of a sentence for people
MAX_URL = 65_536  # the most that a row takes for all URLs
MAX_PHOTOS = 16
MAX_WARNINGS = 100

_exact = ConfigDict(extra="forbid", strict=True)


def _without_nul(text: str) -> str:
    if "\0" in text:  # which Postgres cannot store
        raise ValueError("a NUL character")
    return text


def _known_code(code: str) -> str:
    if code not in ERRORS:
        raise ValueError("an unknown error code")
    return code


def _known_step(name: str) -> str:
    if name not in STEPS:
        raise ValueError("an unknown step")
    return name


Text = Annotated[str, StringConstraints(max_length=MAX_TEXT), AfterValidator(_without_nul)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Code = Annotated[str, AfterValidator(_known_code)]
Url = Annotated[str, StringConstraints(max_length=MAX_URL), AfterValidator(_without_nul)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)] | None  # null: it was not finite
Warnings = Annotated[list[Text], Field(max_length=MAX_WARNINGS)]
Seconds = Annotated[dict[Word, Number], Field(max_length=32)]
StepSeconds = dict[Annotated[str, AfterValidator(_known_step)], Number]
Figure = bool | Count | Number | Text
Figures = Annotated[dict[Word, Figure], Field(max_length=32)]
Role = Literal["front", "back", "left", "right"]


@with_config(_exact)
class Photo(TypedDict, total=False):
    """Of `worker.pipeline.photo`."""

    url: Url
    status: Literal["used", "spare", "refused"]
    view: Role | None
    reason: Text
    score: Figures
    warning: Text
    error_code: Code
    error_message: Text


@with_config(_exact)
class View(TypedDict, total=False):
    """What a photo gave to the model."""

    overlap: Number
    used: Number


@with_config(_exact)
class Model(TypedDict, total=False):
    """Of `worker.pipeline.finish`."""

    triangles: Count
    vertices: Count
    texture_px: Count
    texture_used: Number
    glb_bytes: Count
    glb_sha256: Hash
    watertight: bool
    size_m: Annotated[list[Number], Field(max_length=3)]
    scale_source: Word
    depth_factor: Number
    components_dropped: Count
    photo_overlap: Number
    photo_used: Number
    coverage: Number
    views: dict[Role, View]
    warnings: Warnings
    seconds: Seconds


@with_config(_exact)
class Quality(TypedDict, total=False):
    """Of `worker.pipeline.quality`."""

    score: Number
    parts: Figures
    coverage: Number
    cutout_certainty: Number
    views_agreement: Number
    silhouette_iou: Number
    delta_e: Number
    detail: Number
    photo_px: Count
    photo_blur: Number
    triangles: Count
    watertight: bool
    components_dropped: Count
    texture_use: Number
    warnings: Warnings


@with_config(_exact)
class Try(TypedDict, total=False):
    """A photo that was tried as the front."""

    photo: Annotated[int, Field(ge=0, lt=MAX_PHOTOS)]
    score: Number
    error_code: Code


@with_config(_exact)
class Details(TypedDict, total=False):
    """How an engine was loaded: `details` of `worker.engines.surface.Engine`."""

    device: Text
    precision: Word
    triposr_views: Word
    weights_sha256: Hash


@with_config(_exact)
class Report(Details, total=False):
    """Of `worker.pipeline.run`."""

    engine: Text
    engine_version: Text
    quality_asked: Text
    photos: Annotated[list[Photo], Field(max_length=MAX_PHOTOS)]
    preset: Word
    preset_reason: Text
    surface: Annotated[
        dict[Word, Figure | Annotated[list[Number], Field(max_length=16)] | Figures], Field(max_length=32)
    ]
    model: Model
    quality: Quality
    tried: Annotated[list[Try], Field(max_length=2)]
    bytes: dict[Literal["model.glb", "poster.png", "turntable.webp", "model.usdz"], Count]
    peak_rss_mb: Count
    seconds: StepSeconds
    cpu_seconds: StepSeconds
