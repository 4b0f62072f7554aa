import base64
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from browser import MISSING, chromium
from conftest import until
from PIL import Image

from worker.local.demo.page import JobResult, NotedPhoto, write_page

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [
            value or "" for name, value in attrs if name in {"src", "href", "srcset", "poster", "data"}
        ]
        assert not [name for name, _ in attrs if name.startswith("on")]


@pytest.fixture
def glb(tmp_path: Path) -> Path:
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 17), np.linspace(0, 1, 9)), axis=-1).reshape(-1, 2)
    turn, lift = grid[:, 0] * 2 * np.pi, grid[:, 1] * np.pi
    points = np.stack([np.sin(lift) * np.sin(turn), np.cos(lift) + 1, np.sin(lift) * np.cos(turn)], axis=1)
    corner = (np.arange(8)[:, None] * 17 + np.arange(16)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 17, corner + 1], 1), np.stack([corner + 1, corner + 17, corner + 18], 1)]
    )
    visuals: Any = trimesh.visual  # trimesh has types in part
    gltf: Any = trimesh.exchange.gltf
    material = visuals.material.PBRMaterial(
        baseColorTexture=Image.new("RGB", (64, 64), (200, 30, 20)), metallicFactor=0.0, roughnessFactor=0.85
    )
    visual = visuals.TextureVisuals(uv=grid, material=material)
    mesh = trimesh.Trimesh(points, faces, visual=visual, process=False)
    file = tmp_path / "red ball.glb"
    file.write_bytes(gltf.export_glb(trimesh.Scene(mesh), include_normals=True))
    return file


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "poster.png"
    Image.new("RGB", (32, 32), (20, 90, 200)).save(file)
    return file


def job(**changes: Any) -> JobResult:
    known: dict[str, Any] = {
        "job_id": "1",
        "title": "Ball",
        "shop": "s.myshopify.com",
        "product": "7",
        "quality": "fast",
    }
    return JobResult(**(known | {"status": "completed", "engine": "relief", "seconds": 2.0} | changes))


def write(tmp_path: Path, *results: JobResult) -> str:
    write_page(results, tmp_path / "index.html")
    return (tmp_path / "index.html").read_text(encoding="utf-8")


def test_the_page_refers_to_nothing_outside_but_its_models(tmp_path: Path, glb: Path, picture: Path) -> None:
    page = write(
        tmp_path, job(glb=glb, poster=picture, cutout=picture, photos=[NotedPhoto(picture)], steps={"a": 1.0})
    )
    links = Links()
    links.feed(page)
    assert [link for link in links.found if not link.startswith("data:image/")] == ["red%20ball.glb"]
    assert "://" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_the_model_is_in_the_page_byte_for_byte(tmp_path: Path, glb: Path) -> None:
    page = write(tmp_path, job(), job(glb=glb))
    models = re.findall(r'<script type="text/plain" id="model-2">([^<]*)</script>', page)
    assert [base64.b64decode(model) for model in models] == [glb.read_bytes()]
    assert 'data-model="model-2"' in page


def test_words_from_outside_stay_words(tmp_path: Path, picture: Path) -> None:
    every = dict.fromkeys(("job_id", "title", "shop", "product", "quality", "status", "engine"), HOSTILE)
    failed = job(
        **every, error_code=HOSTILE, error_message=HOSTILE, events=[HOSTILE], steps={HOSTILE: 1.0}, quality_report={"warnings": [HOSTILE]},
        photos=[NotedPhoto(picture, HOSTILE), NotedPhoto(b"<svg onload=alert(3)>", HOSTILE)],
    )  # fmt: skip
    page = write(tmp_path, failed)
    links = Links()
    links.feed(page)
    assert links.tags.count("script") == 1
    assert not [link for link in links.found if not link.startswith("data:image/png;")]
    assert unescape(page).count(HOSTILE) >= 11


def test_the_score_and_what_was_noticed_are_shown(tmp_path: Path) -> None:
    page = write(
        tmp_path, job(quality_report={"score": 71.6, "detail": 0.5, "warnings": ["The photo is blurred."]})
    )
    assert "72 of 100" in page
    assert '<p class="warn">The photo is blurred.</p>' in page
    assert "50% of the photo" in page
    assert "of 100" not in write(tmp_path, job())


def test_a_photo_says_which_side_it_shows_or_why_it_was_left_out(tmp_path: Path, picture: Path) -> None:
    photos = [NotedPhoto(picture, side="front"), NotedPhoto(picture, "It shows another product.")]
    page = write(tmp_path, job(photos=photos))
    assert "<b>Photo 1</b> front, " in page
    assert "<b>Photo 2</b> It shows another product.</figcaption>" in page
    assert "front, " not in write(tmp_path, job(photos=photos[:1]))


def test_a_failed_job_says_why(tmp_path: Path) -> None:
    sentence = "The file is not a photo. Use JPEG, PNG, WebP or AVIF."
    page = write(
        tmp_path,
        job(
            status="failed",
            error_code="photo_not_an_image",
            error_message=sentence,
            photos=[NotedPhoto(b"%PDF", "refused")],
        ),
    )
    assert f"<p>{sentence}</p>" in page
    assert "<code>photo_not_an_image</code>" in page
    assert "no picture" in page
    assert 'data-model="' not in page


def test_previews_are_called_previews(tmp_path: Path) -> None:
    notice = "<b>These are previews.</b> They were made by <b>relief</b>"
    assert notice in write(tmp_path, job())
    assert notice not in write(tmp_path, job(engine="triposr"))


def test_a_page_without_jobs_is_still_a_page(tmp_path: Path) -> None:
    assert "</html>" in write(tmp_path)


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_the_viewer_is_valid_javascript() -> None:
    script = Path(__file__).parents[3] / "worker" / "ops" / "dashboard" / "static" / "viewer.js"
    subprocess.run(["node", "--check", str(script)], check=True)


@pytest.mark.integration
@pytest.mark.skipif(bool(MISSING), reason=MISSING or "")
def test_a_browser_draws_the_model(tmp_path: Path, glb: Path) -> None:
    """The ball is red and the page is not: red pixels can only come from the model, drawn by WebGL."""
    write(tmp_path, job(glb=glb))
    shot = tmp_path / "page.png"

    def red_pixels() -> int:
        tab.shot(shot)
        with Image.open(shot) as picture:
            red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB"), dtype=int), 2, 0)
        return int(((red > 120) & (green < 80) & (blue < 80)).sum())

    with chromium(tmp_path) as tab:
        tab.open((tmp_path / "index.html").as_uri())
        until(lambda: red_pixels() > 10_000, what="the ball")
