"""A photo → the product alone: straight alpha, from the photo itself where it has one, else from a rembg model."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from worker import weights
from worker.core.errors import JobError

Rgba = NDArray[np.uint8]  # (H, W, 4), sRGB, straight alpha
Alpha = NDArray[np.float32]  # (H, W), 0..1

SOLID = 0.5  # above it a pixel is the product's; networks give products 1.0 and an empty photo 0.06 at most
LEAST_AREA = 0.001  # of the photo; less is a speck and no product
KEPT_SHARE = 0.05  # of the largest part's area: a second part as small as this still belongs to the product
VIEW_SIDE = 435  # pixels of the product's longest side in a view
MARGIN = 0.12  # of the product's longest side, left around it for a second look
AGREEMENT = 0.85  # intersection over union; below it the second look saw another object than the first
RIM = 0.95  # below this alpha a pixel's colour is mixed with the background's
PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}


class CutoutUnavailable(Exception):
    """The background model cannot run as it was asked to; the message says what to do."""


class Cutter:
    """Cuts products out of photos, with one model that is loaded once, when the first photo needs it."""

    def __init__(self, model: str, folder: Path, device: str = "cpu") -> None:
        """`folder` holds the weights (`worker.weights`); `device` is "cpu" or "cuda", and no other is fallen back to.

        Raises: WeightsMissing, CutoutUnavailable.
        """
        weights.verify(folder, model)
        self.model = model
        self._folder = folder
        self._providers = PROVIDERS[device]
        self._network: _Network | None = None
        if device != "cpu":
            self._load()  # the graphics card's libraries may be missing: known at the start, not in a job

    def cut(self, image: Image.Image) -> Rgba:
        """An RGB or RGBA photo, as `decode` gives it, to RGBA of the same size.

        Raises: JobError `no_object`.
        """
        if image.mode == "RGBA":
            rgba = np.array(image)
            match _judge(rgba[..., 3]):
                case "cut out":
                    return _assemble(
                        rgba[..., :3], _without_specks(np.divide(rgba[..., 3], 255, dtype=np.float32))
                    )
                case "empty":
                    raise JobError("no_object")
            # Its transparency is decoration: a photo with rounded corners or a faint veil.
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        alpha = self._load().alpha(image)
        return _assemble(_without_fringe(np.asarray(image), alpha), alpha)

    def _load(self) -> "_Network":
        if self._network is None:
            self._network = _Network(self.model, self._folder, self._providers)
        return self._network


def _judge(alpha: NDArray[np.uint8]) -> str:
    """What a photo's own transparency is worth: "cut out", "empty" or "decoration".

    Cut out means at least 1 % of the pixels transparent and something solid of more than a speck. A solid part that
    reaches all four edges and fills more than 95 % of the photo is a photo with rounded corners instead.
    """
    solid = alpha > 127
    share = solid.mean()
    if share > 0.99:
        return "decoration"
    if not share or _largest(solid) < LEAST_AREA * solid.size:
        return "empty"
    edges = (solid[0], solid[-1], solid[:, 0], solid[:, -1])
    return "decoration" if share > 0.95 and all(edge.any() for edge in edges) else "cut out"


def _largest(mask: NDArray[np.bool_]) -> int:
    labels, _ = ndimage.label(mask)
    return int(np.bincount(labels.ravel())[1:].max(initial=0))


def _assemble(rgb: NDArray[np.uint8], alpha: Alpha) -> Rgba:
    rgba = np.dstack([rgb, (alpha * 255).round().astype(np.uint8)])
    rgba[rgba[..., 3] == 0] = 0  # what was cut away is gone, not only hidden
    return rgba


def _without_specks(alpha: Alpha) -> Alpha:
    """Keeps the largest part and those of some size beside it, each with its soft rim. Holes stay holes."""
    labels, _ = ndimage.label(alpha > SOLID)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    if areas.max() < LEAST_AREA * alpha.size:
        raise JobError("no_object")
    kept = (areas >= KEPT_SHARE * areas.max())[labels]
    reach = max(2, round(max(alpha.shape) / 100))  # as far as a rim is soft
    # Filled, because what is translucent inside the product is the product's; a drop shadow outside is not.
    near = ndimage.distance_transform_edt(~ndimage.binary_fill_holes(kept)) <= reach
    dropped = (labels > 0) & ~kept
    return np.where(near & ~dropped, alpha, np.float32(0))


def _surroundings(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is set, with a margin, within the photo."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    margin = int(MARGIN * max(np.ptp(rows), np.ptp(columns)))
    height, width = mask.shape
    left, top = max(columns[0] - margin, 0), max(rows[0] - margin, 0)
    right, bottom = min(columns[-1] + 1 + margin, width), min(rows[-1] + 1 + margin, height)
    return int(left), int(top), int(right), int(bottom)


def _without_fringe(rgb: NDArray[np.uint8], alpha: Alpha) -> NDArray[np.uint8]:
    """Gives the pixels of the rim the colour of the nearest pixel that is the product's alone."""
    rim = (alpha > 0) & (alpha < RIM)
    if not (alpha >= RIM).any():
        return rgb
    nearest = ndimage.distance_transform_edt(alpha < RIM, return_distances=False, return_indices=True)
    cleaned = rgb.copy()
    cleaned[rim] = rgb[nearest[0][rim], nearest[1][rim]]
    return cleaned


class _Network:
    """A rembg session of which the network's own output is read, before rembg stretches it.

    rembg scales every mask to 0..255, so that an empty photo too has an "object"; only the raw values tell.
    """

    def __init__(self, model: str, folder: Path, providers: list[str]) -> None:
        with _rembg_environment(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a missing provider; what counts is asked for below
            # Here, not above: it takes seconds, and a photo with its own transparency needs none of it.
            import onnxruntime  # noqa: PLC0415
            import rembg  # noqa: PLC0415

            options = onnxruntime.SessionOptions()
            # Threads that wait sleep: spinning takes the processor from the engine and from other lanes.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._session: Any = rembg.new_session(model, sess_opts=options, providers=providers)
        active = self._session.inner_session.get_providers()
        if active[0] != providers[0]:
            raise CutoutUnavailable(
                f"The background model '{model}' cannot use {providers[0]}, only {', '.join(active)}. "
                "Install onnxruntime-gpu with fitting CUDA libraries, or let the background model run on the CPU."
            )
        self._tap = _Tap(self._session.inner_session)
        self._session.inner_session = self._tap
        self._logits = model.startswith("birefnet")

    def alpha(self, image: Image.Image) -> Alpha:
        """Raises: JobError `no_object`."""
        whole = _without_specks(self._look(image))
        left, top, right, bottom = box = _surroundings(whole > SOLID)
        # A network sees every photo in a small square. Where the product is smaller there than in a view, and fills
        # less than half of the photo, a look at it alone finds finer outlines (IoU 0.94 → 0.98 at a quarter).
        seen = max(right - left, bottom - top) / max(image.size) * self._side
        if seen > VIEW_SIDE or 2 * (right - left) * (bottom - top) > whole.size:
            return whole
        closer = np.zeros_like(whole)
        closer[top:bottom, left:right] = self._look(image.crop(box))
        # It may take a part for the whole, the food without its plate; then the first look stands.
        common, either = (closer > SOLID) & (whole > SOLID), (closer > SOLID) | (whole > SOLID)
        return _without_specks(closer) if common.sum() > AGREEMENT * either.sum() else whole

    def _look(self, image: Image.Image) -> Alpha:
        with np.errstate(all="ignore"):  # rembg divides 0 by 0 where the network's output is constant
            self._session.predict(image)
        raw = self._tap.outputs[0][0, 0].astype(np.float32)
        if self._logits:
            raw = 1 / (1 + np.exp(-raw))
        self._side = raw.shape[-1]
        resized = Image.fromarray(raw).resize(image.size, Image.Resampling.BICUBIC)
        return np.asarray(resized).clip(0, 1)


class _Tap:
    """An onnxruntime session that remembers its last outputs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.outputs: list[NDArray[np.float32]] = []

    def run(
        self, names: list[str] | None, inputs: dict[str, NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        self.outputs = self._session.run(names, inputs)
        return self.outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@contextmanager
def _rembg_environment(folder: Path) -> Iterator[None]:
    """Makes rembg look for weights in our folder and nowhere else, and spares its import a minute and a half.

    rembg imports pymatting, which compiles itself with numba at its first import (90 s, again in each process where
    the cache cannot be written). We use none of it, so its compiler stays off.
    """
    ours = {"REMBG_HOME": str(folder), "NUMBA_DISABLE_JIT": "1"}
    before = {name: os.environ.pop(name, None) for name in (*ours, "U2NET_HOME")}  # U2NET_HOME would win
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
