"""What browsers show of a photo is right: the decoder is held against a real Chromium over a table of odd files."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import MISSING, Tab, chromium
from numpy.typing import NDArray
from odd_photos import ODD, jpeg
from PIL import Image

from worker.core.errors import JobError
from worker.pipeline.decoder import MAX_MISSING, decode_image

pytestmark = pytest.mark.integration  # Chromium

# The picture as it is drawn on a canvas: its size, and its pixels as base64.
SHOWN = """(async () => {
  const image = new Image();
  image.src = "data:image/%s;base64,%s";
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d", {colorSpace: "srgb"});
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let text = "";
  for (let n = 0; n < pixels.length; n += 8192) text += String.fromCharCode(...pixels.subarray(n, n + 8192));
  return {size: [canvas.height, canvas.width, 4], pixels: btoa(text)};
})()"""


def decode(file: Path) -> Image.Image:
    return decode_image(file.read_bytes())


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if MISSING:
        pytest.skip(MISSING)
    with chromium(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


def browser_pixels(tab: Tab, name: str, content: bytes) -> NDArray[np.int16]:
    """What Chromium draws: (H, W, 4), RGBA in 0..255."""
    kind = {"apng": "png"}.get(first := name.split(maxsplit=1)[0].rstrip(","), first)
    answer: dict[str, Any] = tab.ask(SHOWN % (kind, base64.b64encode(content).decode()))
    return (
        np.frombuffer(base64.b64decode(answer["pixels"]), np.uint8).reshape(answer["size"]).astype(np.int16)
    )


@pytest.mark.parametrize("name", ODD)
def test_the_decoder_shows_what_a_browser_shows(tab: Tab, tmp_path: Path, name: str) -> None:
    content = ODD[name]()
    (tmp_path / "photo").write_bytes(content)
    image = decode(tmp_path / "photo")
    ours = np.asarray(image.convert("RGBA")).astype(np.int16)
    theirs = browser_pixels(tab, name, content)
    assert ours.shape == theirs.shape
    if "short" in name:
        # Where nothing came a browser leaves the page to be seen, and we some colour.
        empty = theirs[..., 3] == 0
        assert empty.mean() < 0.05
        theirs[empty] = ours[empty]
        assert 0 <= image.info["missing"] < MAX_MISSING
    else:
        assert "missing" not in image.info
    np.testing.assert_array_equal(ours[..., 3], theirs[..., 3])
    solid = ours[..., 3] > 0
    apart = np.abs(ours - theirs)[solid]
    # A level of rounding; what is just before the missing end may differ more, and is little.
    assert (apart > 2).mean() < 0.002
    assert apart.mean() < 0.5


@pytest.mark.parametrize("progressive", [False, True])
def test_half_a_photo_is_refused(tmp_path: Path, progressive: bool) -> None:
    content = jpeg(progressive=progressive)
    (tmp_path / "photo").write_bytes(content[: len(content) // (6 if progressive else 2)])
    with pytest.raises(JobError) as caught:
        decode(tmp_path / "photo")
    assert caught.value.code == "photo_broken"
