"""Draw docs/dashboard.jpg anew: the list and the page of a job, light and dark, from jobs that a real daemon has just done.

.venv/bin/python tests/samples/dashboard.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import io
import os
import tempfile
from base64 import b64decode
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from browser import Tab, chromium
from conftest import until
from PIL import Image
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy.engine import Engine

from worker import database
from worker.core import settings
from worker.engines.surface import Role
from worker.jobs import queue
from worker.local import samples
from worker.local.stack import Stack, start_daemon, start_stack
from worker.local.weights import ensure_weights
from worker.ops import dashboard

TARGET = Path(__file__).parents[2] / "docs" / "dashboard.jpg"
WIDTH, HEIGHT = 1280, 1120  # of each of the four pictures
SCALE = 0.62
TOKEN = "a-token-for-the-pictures"
SIDES: dict[Role, int] = {"front": 0, "left": 1, "back": 2, "right": 3}

# Shop, product, photos (a text stands for a file that is none), how many show its sides.
JOBS = (
    ("nordic-toys", "pull-along-duck", ("duck.jpg",), 0),
    ("nordic-toys", "pull-along-duck", ("duck.jpg", "duck-left.jpg", "duck-back.jpg", "duck-right.jpg"), 4),
    ("nordic-toys", "tin-robot", ("robot.jpg", "robot-side.jpg"), 2),
    ("clay-and-co", "drip-vase", ("vase.png",), 0),
    ("clay-and-co", "stoneware-mug", ("a text",), 0),
    ("atelier-nord", "leather-bag", ("bag.jpg",), 0),
    ("atelier-nord", "glass-bottle", ("bottle.jpg",), 0),
)
SHOWN = 1  # the place in JOBS of the job whose page is shown


def main() -> None:
    """Write the picture."""
    ensure_weights(Console(stderr=True), "relief")
    with tempfile.TemporaryDirectory() as name, start_stack(Path(name), engine="relief") as stack:
        environment = {
            **stack.environment,
            "WORKER_REVIEW": "flagged",
            "WORKER_NAME": "gpu-1",
            "WORKER_TURNTABLE": "false",
        }
        os.environ.update(environment)
        configured = settings.load().model_copy(update={"dashboard_act_token": SecretStr(f"anna:{TOKEN}")})
        engine = database.connect(database.url(configured), pool_size=2)
        with start_daemon(environment), dashboard.serve(configured, host="127.0.0.1", port=0) as url:
            ids = [_enqueue(engine, stack, *job) for job in JOBS]
            until(lambda: all(row["completed_at"] for row in queue.get_jobs(engine, ids)), 600, "the jobs")
            with chromium(Path(name)) as tab:
                _write(tab, url, engine, stack, ids)
        engine.dispose()


def _write(tab: Tab, url: str, engine: Engine, stack: Stack, ids: Sequence[UUID]) -> None:
    tab.open(f"{url}/?token={TOKEN}")
    running = _enqueue(
        engine, stack, "nordic-toys", "walking-robot", ("robot.jpg", "robot-side.jpg"), 2, "quality"
    )
    _enqueue(engine, stack, "clay-and-co", "tall-vase", ("vase.png",), 0)
    until(lambda: queue.get_jobs(engine, [running])[0]["progress"] >= 50, 120, "a job that runs")
    lists = [_shot(tab, url, dark=dark) for dark in (False, True)]
    job = f"{url}/jobs/{ids[SHOWN]}"
    pages = [_shot(tab, job, dark=dark) for dark in (False, True)]
    sheet = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT))
    for n, picture in enumerate((lists[0], pages[0], pages[1], lists[1])):
        sheet.paste(picture, (n % 2 * WIDTH, n // 2 * HEIGHT))
    small = sheet.resize((round(2 * WIDTH * SCALE), round(2 * HEIGHT * SCALE)), Image.Resampling.LANCZOS)
    small.save(TARGET, quality=86, optimize=True)
    sys.stderr.write(f"{TARGET}: {TARGET.stat().st_size // 1000} kB\n")


def _enqueue(
    engine: Engine,
    stack: Stack,
    shop: str,
    product: str,
    photos: Sequence[str],
    sides: int,
    quality: str = "fast",
) -> UUID:
    urls = []
    for photo in photos:
        file = stack.files / photo
        file.write_bytes(samples.path(photo).read_bytes() if "." in photo else photo.encode())
        urls.append(f"{stack.server.url}/{photo.replace(' ', '%20')}")
    metadata: dict[str, Any] = {"views": dict(list(SIDES.items())[:sides])} if sides else {}
    found = queue.enqueue(
        engine, shop=f"{shop}.myshopify.com", product_id=f"gid://shopify/Product/{sum(product.encode())}",
        product_handle=product, image_urls=urls, quality=quality, metadata=metadata,
    )  # fmt: skip
    assert found
    return found


def _shot(tab: Tab, url: str, *, dark: bool) -> Image.Image:
    """The top of a page, when its pictures and its model are there."""
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    tab.call("Emulation.setEmulatedMedia", features=features)
    tab.call("Emulation.setScrollbarsHidden", hidden=True)
    tab.call(
        "Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False
    )
    tab.open(url)
    tab.wait_for("[...document.images].filter(each => each.checkVisibility()).every(each => each.complete)")
    tab.wait_for(
        "document.querySelector('.model') === null || document.querySelector('.model [data-state=live] canvas') !== null"
    )
    tab.ask("new Promise(done => setTimeout(done, 500))")
    return Image.open(io.BytesIO(b64decode(tab.call("Page.captureScreenshot")["data"]))).convert("RGB")


if __name__ == "__main__":
    main()
