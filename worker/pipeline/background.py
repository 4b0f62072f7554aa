"""The background model: a photo → how much of each pixel is the product, as a network of rembg gives it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Alpha = NDArray[np.float32]  # (H, W), 0..1


class BackgroundModel:
    """A rembg session on the CPU whose raw output is read. rembg scales each mask to 0..255, and then an empty photo has an object too."""

    def __init__(self, model: str, folder: Path) -> None:
        with _rembg_environment(folder):
            # Imported here because it takes seconds, and a photo with its own transparency does not need it.
            import onnxruntime  # noqa: PLC0415
            import rembg  # noqa: PLC0415

            options = onnxruntime.SessionOptions()
            # Waiting threads sleep: spinning would take CPU time from the engine and from other lanes.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._session: Any = rembg.new_session(
                model, sess_opts=options, providers=["CPUExecutionProvider"]
            )
        self._tap = _Tap(self._session.inner_session)
        self._session.inner_session = self._tap
        self._logits = model.startswith("birefnet")
        self.side = 0  # pixels of the square in which the network saw the last photo

    def predict(self, image: Image.Image) -> Alpha:
        """Return how much of each pixel is the product, (H, W) in 0..1."""
        with np.errstate(all="ignore"):  # rembg divides 0 by 0 where the network's output is constant
            self._session.predict(image)
        raw = self._tap.outputs[0][0, 0].astype(np.float32)
        if self._logits:
            raw = 1 / (1 + np.exp(-raw))
        self.side = raw.shape[-1]
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
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for good: onnxruntime would send what it does to its maker
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
