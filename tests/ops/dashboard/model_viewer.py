"""Pictures of a model by Google's <model-viewer>, which is what shops show it in, and by our viewer, from the same places.

python tests/ops/dashboard/model_viewer.py: draw those in tests/data/model-viewer anew.
"""

import base64
import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copy
from threading import Thread
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import seeded
from browser import Tab, chromium
from conftest import NPM
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion
from skimage.color import deltaE_ciede2000, rgb2lab

SCRIPT = NPM / "node_modules" / "@google" / "model-viewer" / "dist" / "model-viewer.min.js"
REFERENCE = Path(__file__).parents[2] / "data" / "model-viewer"
PLACES = ((20, 0), (140, 25), (250, -20))  # azimuth and elevation of the camera, in degrees
SIDE = 256  # pixels
DISTANCE = 0.8  # metres from the middle of the ball of seeded.py, which the camera looks at

PAGE = f"""<!doctype html><meta charset="utf-8"><title>The same model</title>
<style>model-viewer {{ width: {SIDE}px; height: {SIDE}px }}</style><script type="module" src="model-viewer.js"></script>
<model-viewer src="ball.glb" interaction-prompt="none" shadow-intensity="0" field-of-view="30deg"
 min-camera-orbit="auto auto 0m" max-camera-orbit="auto auto 10m"></model-viewer>"""

THEIRS = """(async () => {
  const viewer = document.querySelector("model-viewer");
  viewer.cameraTarget = "0m 0.15m 0m";
  viewer.cameraOrbit = "%fdeg %fdeg %fm";
  viewer.jumpCameraToGoal();
  for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
  return viewer.toDataURL("image/png");
})()"""

OURS = f"""(() => {{
  const [viewer] = poses.get(document.querySelector("[data-pair]")).viewers;
  Object.assign(viewer.view.style, {{ width: "{SIDE}px", height: "{SIDE}px", border: 0, borderRadius: 0 }});
  const {{ half, wide }} = viewer.box;
  const near = {DISTANCE} / (Math.max(half * 1.16, wide * 1.06) / Math.tan(FIELD / 2) + wide);
  viewer.pose.move({{ turn: %f * DEGREE, lift: %f * DEGREE, near }}, true);
  viewer.draw(performance.now());
  return viewer.canvas.toDataURL("image/png");
}})()"""

Picture = NDArray[np.uint8]  # (SIDE, SIDE, 4)


def ours(tab: Tab, place: tuple[float, float]) -> Picture:
    """What our viewer draws on the page that is open."""
    return _picture(tab.ask(OURS % place))


def theirs(tab: Tab, place: tuple[float, float]) -> Picture:
    """What model-viewer draws on the page of `page`."""
    azimuth, elevation = place
    return _picture(tab.ask(THEIRS % (azimuth, 90 - elevation, DISTANCE)))


def reference(place: tuple[float, float]) -> Picture:
    """What model-viewer drew when its version was chosen."""
    return np.asarray(Image.open(_file(place)).convert("RGBA"))


def difference(first: Picture, second: Picture) -> NDArray[np.float64]:
    """ΔE2000 of each pixel that is inside the model on both pictures."""
    inside = binary_erosion((first[..., 3] == 255) & (second[..., 3] == 255), iterations=2)
    assert inside.sum() > 0.2 * SIDE**2
    one, other = (rgb2lab(picture[..., :3][inside] / 255) for picture in (first, second))
    apart: Any = deltaE_ciede2000  # without types
    return np.asarray(apart(one, other))


@contextmanager
def page(folder: Path) -> Iterator[str]:
    """Serve a page with model-viewer; yield its URL."""
    copy(SCRIPT, folder / "model-viewer.js")
    (folder / "ball.glb").write_bytes(seeded.glb())
    (folder / "index.html").write_text(PAGE)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/index.html"
        finally:
            server.shutdown()


def open_page(tab: Tab, url: str) -> None:
    """Open the page and wait until model-viewer shows the model."""
    tab.open(url)
    tab.wait_for("document.querySelector('model-viewer').loaded", 120)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def _file(place: tuple[float, float]) -> Path:
    return REFERENCE / f"ball-{place[0]}-{place[1]}.png"


def _picture(uri: str) -> Picture:
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA")
    return np.asarray(picture.resize((SIDE, SIDE)) if picture.size != (SIDE, SIDE) else picture)


def main() -> None:
    """Write the reference pictures."""
    REFERENCE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, page(Path(name)) as url, chromium(Path(name)) as tab:
        open_page(tab, url)
        for place in PLACES:
            Image.fromarray(theirs(tab, place)).save(_file(place), optimize=True)


if __name__ == "__main__":
    main()
