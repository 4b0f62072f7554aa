"""A photo → the product alone. The alpha is straight: the photo's own if it has one, else that of a rembg model."""

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

SOLID = 0.5  # a pixel above it belongs to the product; networks give products 1.0, and an empty photo at most 0.06
MIN_AREA = 0.001  # of the photo; a smaller part is a speck and no product
KEPT_SHARE = 0.05  # of the largest part's area; a smaller part does not belong to the product
VIEW_SIDE = 435  # pixels that the product's longer side has in a view
MARGIN = 0.12  # of the product's longer side, kept around it in the second pass
AGREEMENT = 0.85  # intersection over union; below it the second pass found another object than the first
RIM = 0.95  # below this alpha a pixel's colour contains the background's
PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}


class CutoutUnavailable(Exception):
    """The background model cannot run on this device; the message says what to do."""


class Cutter:
    """Cut products out of photos with one model. It is loaded when the first photo needs it, and kept."""

    def __init__(self, model: str, folder: Path, device: str = "cpu") -> None:
        """Check the weights of `model` in `folder` (see `worker.weights`). `device` is "cpu" or "cuda", with no fallback.

        Raises: WeightsMissing, CutoutUnavailable.
        """
        weights.verify(folder, model)
        self.model = model
        self._folder = folder
        self._providers = PROVIDERS[device]
        self._network: _Network | None = None
        if device != "cpu":
            self._load()  # the GPU's libraries may be missing: fail now and not in a job

    def cut(self, image: Image.Image) -> Rgba:
        """Cut the product out of an RGB or RGBA photo. Returns (H, W, 4) uint8 of the photo's size.

        Raises: JobError `no_object`.
        """
        if image.mode == "RGBA":
            rgba = np.array(image)
            match _classify_alpha(rgba[..., 3]):
                case "cut out":
                    return _assemble(
                        rgba[..., :3], _without_specks(np.divide(rgba[..., 3], 255, dtype=np.float32))
                    )
                case "empty":
                    raise JobError("no_object")
            # The transparency is decoration: rounded corners, or a photo that is slightly transparent everywhere.
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        alpha = self._load().alpha(image)
        return _assemble(_without_fringe(np.asarray(image), alpha), alpha)

    def _load(self) -> "_Network":
        if self._network is None:
            self._network = _Network(self.model, self._folder, self._providers)
        return self._network


def _classify_alpha(alpha: NDArray[np.uint8]) -> str:
    """Say what a photo's own transparency is: "cut out", "empty" or "decoration".

    A photo is cut out if at least 1 % of its pixels are transparent and its solid part is larger than a speck. If the
    solid part reaches all four edges and fills more than 95 %, it is a photo with rounded corners instead.
    """
    solid = alpha > 127
    share = solid.mean()
    if share > 0.99:
        return "decoration"
    if not share or _largest(solid) < MIN_AREA * solid.size:
        return "empty"
    edges = (solid[0], solid[-1], solid[:, 0], solid[:, -1])
    return "decoration" if share > 0.95 and all(edge.any() for edge in edges) else "cut out"


def _largest(mask: NDArray[np.bool_]) -> int:
    labels, _ = ndimage.label(mask)
    return int(np.bincount(labels.ravel())[1:].max(initial=0))


def _assemble(rgb: NDArray[np.uint8], alpha: Alpha) -> Rgba:
    rgba = np.dstack([rgb, (alpha * 255).round().astype(np.uint8)])
    rgba[rgba[..., 3] == 0] = 0  # the background is removed and not only hidden
    return rgba


def _without_specks(alpha: Alpha) -> Alpha:
    """Keep the largest part and others of some size, each with its soft rim. Holes stay holes. Raises: JobError."""
    labels, _ = ndimage.label(alpha > SOLID)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    if areas.max() < MIN_AREA * alpha.size:
        raise JobError("no_object")
    kept = (areas >= KEPT_SHARE * areas.max())[labels]
    reach = max(2, round(max(alpha.shape) / 100))  # pixels that a rim is soft
    # Filled, because a translucent region inside the product belongs to it; a drop shadow outside does not.
    near = ndimage.distance_transform_edt(~ndimage.binary_fill_holes(kept)) <= reach
    dropped = (labels > 0) & ~kept
    return np.where(near & ~dropped, alpha, np.float32(0))


def _surroundings(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the mask's set pixels, with a margin, inside the photo."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    margin = int(MARGIN * max(np.ptp(rows), np.ptp(columns)))
    height, width = mask.shape
    left, top = max(columns[0] - margin, 0), max(rows[0] - margin, 0)
    right, bottom = min(columns[-1] + 1 + margin, width), min(rows[-1] + 1 + margin, height)
    return int(left), int(top), int(right), int(bottom)


def _without_fringe(rgb: NDArray[np.uint8], alpha: Alpha) -> NDArray[np.uint8]:
    """Give each pixel of the rim the colour of the nearest pixel without background in it."""
    rim = (alpha > 0) & (alpha < RIM)
    if not (alpha >= RIM).any():
        return rgb
    nearest = ndimage.distance_transform_edt(alpha < RIM, return_distances=False, return_indices=True)
    cleaned = rgb.copy()
    cleaned[rim] = rgb[nearest[0][rim], nearest[1][rim]]
    return cleaned


class _Network:
    """A rembg session whose raw output is read. rembg scales each mask to 0..255, and then an empty photo has an object too."""

    def __init__(self, model: str, folder: Path, providers: list[str]) -> None:
        with _rembg_environment(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a missing provider, which is checked below
            # Imported here because it takes seconds, and a photo with its own transparency does not need it.
            import onnxruntime  # noqa: PLC0415
            import rembg  # noqa: PLC0415

            options = onnxruntime.SessionOptions()
            # Waiting threads sleep: spinning would take CPU time from the engine and from other lanes.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._session: Any = rembg.new_session(model, sess_opts=options, providers=providers)
        active = self._session.inner_session.get_providers()
        if active[0] != providers[0]:
            raise CutoutUnavailable(
                f"The background model '{model}' cannot use {providers[0]}, only {', '.join(active)}. "
                "Install onnxruntime-gpu with matching CUDA libraries, or run the background model on the CPU."
            )
        self._tap = _Tap(self._session.inner_session)
        self._session.inner_session = self._tap
        self._logits = model.startswith("birefnet")

    def alpha(self, image: Image.Image) -> Alpha:
        """Return the product's alpha, (H, W) in 0..1. Raises: JobError `no_object`."""
        whole = _without_specks(self._predict(image))
        left, top, right, bottom = box = _surroundings(whole > SOLID)
        # The network sees each photo in a small square. If the product is smaller there than in a view, and fills less than
        # half of the photo, a second pass over the product alone finds finer outlines (IoU 0.94 → 0.98 at a quarter).
        seen = max(right - left, bottom - top) / max(image.size) * self._side
        if seen > VIEW_SIDE or 2 * (right - left) * (bottom - top) > whole.size:
            return whole
        closer = np.zeros_like(whole)
        closer[top:bottom, left:right] = self._predict(image.crop(box))
        # The second pass may find only a part, such as the food without its plate. Then the first result is kept.
        common, either = (closer > SOLID) & (whole > SOLID), (closer > SOLID) | (whole > SOLID)
        return _without_specks(closer) if common.sum() > AGREEMENT * either.sum() else whole

    def _predict(self, image: Image.Image) -> Alpha:
        with np.errstate(all="ignore"):  # rembg divides 0 by 0 where the network's output is constant
            self._session.predict(image)
        raw = self._tap.outputs[0][0, 0].astype(np.float32)
        if self._logits:
            raw = 1 / (1 + np.exp(-raw))
        self._side = raw.shape[-1]
        resized = Image.fromarray(raw).resize(image.size, Image.Resampling.BICUBIC)
        return np.asarray(resized).clip(0, 1)


class _Tap:
    """An onnxruntime session that keeps its last outputs."""

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
    """Make rembg read weights from our folder only, and keep its import fast.

    rembg imports pymatting, which compiles itself with numba at its first import: 90 s, in each process if the cache
    cannot be written. We do not use it, so the compiler is turned off.
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
