"""The results page: one HTML file that shows each job from photo to model and needs neither server nor network."""

import base64
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from worker import engines
from worker.ops import dashboard
from worker.ops.dashboard import score
from worker.ops.dashboard.job import AZIMUTHS
from worker.ops.terminal.formats import duration, file_size

FOLDER = Path(__file__).parent
PARTS = Path(dashboard.__file__).parent  # the templates, the style and the viewer that both pages use
SMALL = 160  # pixels, the longer side of a small picture

# What a browser can show, by its first bytes. A photo that is none of these is shown as a file with its note.
SIGNATURES = (
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"GIF8", 0, "image/gif"),
    (b"WEBP", 8, "image/webp"),
    (b"ftypavif", 4, "image/avif"),
)


class NotedPhoto(NamedTuple):
    """A photo of a job as the page shows it."""

    image: bytes | Path
    note: str = ""  # why it was not used; empty if it was
    side: str = ""  # of the product, which it was used for; empty if it was not


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """One job as it ended."""

    job_id: str
    title: str
    shop: str
    product: str
    status: str
    quality: str
    engine: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    photos: Sequence[NotedPhoto] = ()
    cutout: Path | None = None
    poster: Path | None = None
    glb: Path | None = None
    seconds: float | None = None  # from claim to end
    steps: dict[str, float] = field(default_factory=dict)  # seconds by step, in order
    glb_bytes: int | None = None
    triangles: int | None = None
    watertight: bool | None = None
    quality_report: Mapping[str, Any] = field(
        default_factory=dict
    )  # `metadata.worker.quality`, docs/models.md
    events: Sequence[str] = ()  # the webhooks, in the order in which they arrived


def media_type(data: bytes) -> str | None:
    """Return the media type of a picture that a browser can show, else None."""
    return next((kind for start, at, kind in SIGNATURES if data[at : at + len(start)] == start), None)


def data_uri(image: bytes | Path | None) -> str | None:
    """Return a picture as a data: URI, or None if no browser can show it."""
    if image is None:
        return None
    data = image.read_bytes() if isinstance(image, Path) else image
    kind = media_type(data)
    return kind and f"data:{kind};base64,{base64.b64encode(data).decode()}"


def small_uri(image: bytes | Path) -> str | None:
    """Return a picture as a small one in a data: URI, or None if it cannot be opened."""
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
            picture.thumbnail((SMALL, SMALL))
            out = io.BytesIO()
            picture.convert("RGBA").save(out, "PNG")
    except (OSError, ValueError):
        return None
    return data_uri(out.getvalue())


def shots(job: JobResult) -> list[dict[str, Any]]:
    """Return the photos and the cut-out of a job, as `pair` in the dashboard's model.html.j2 shows them."""
    found = []
    for number, photo in enumerate(job.photos, 1):
        size = file_size(photo.image.stat().st_size if isinstance(photo.image, Path) else len(photo.image))
        several = len(job.photos) > 1
        name = f"Photo {number}" if several else "Photo"
        found.append(
            _shot(name, photo.image)
            | {
                "note": photo.note or (f"{photo.side}, {size}" if photo.side and several else size),
                "text": f"no picture, {size}",
                "alt": f"{name} of {job.title}",
                "turn": None if photo.note else AZIMUTHS.get(photo.side, 0),
                "refused": bool(photo.note),
                "first": photo.side == "front",
            }
        )
    if job.cutout:
        found.append(
            _shot("Cut-out", job.cutout)
            | {"alt": f"{job.title} without its background", "checker": True, "turn": 0}
        )
    return found


def _shot(name: str, image: bytes | Path) -> dict[str, Any]:
    return {
        "name": name, "note": "", "src": data_uri(image), "href": None, "small": small_uri(image), "text": "no picture",
        "alt": name, "turn": None, "refused": False, "checker": False, "first": False, "model": None,
    }  # fmt: skip


def write_page(results: Sequence[JobResult], target: Path) -> None:
    """Write `target`. The GLBs stay where they are; the page links to them and carries a copy for its viewers."""
    environment = Environment(
        loader=FileSystemLoader([FOLDER, PARTS / "templates"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "data_uri": data_uri,
        "duration": duration,
        "file_size": file_size,
        "explain": score.explain,
        "shots": shots,
    }
    viewer = (PARTS / "static" / "viewer.js").read_text(encoding="utf-8")
    page = environment.get_template("page.html.j2").render(
        results=results,
        done=[result for result in results if result.status == "completed"],
        previews=engines.PREVIEWS,
        style=(PARTS / "static" / "style.css").read_text(encoding="utf-8"),
        viewer=viewer,
        # The page's policy names this one script by its hash: whatever else slipped in, it would not run.
        viewer_hash=base64.b64encode(hashlib.sha256(viewer.encode()).digest()).decode(),
        base64=lambda path: base64.b64encode(path.read_bytes()).decode(),
        link=lambda path: quote(Path(os.path.relpath(path, target.parent)).as_posix()),
    )
    target.write_text(page, encoding="utf-8", newline="\n")
