"""The engine TripoSR: one framed photo → the surface that the network reconstructs."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worker import tsr
from worker.core.errors import JobError
from worker.core.settings import Device, Precision
from worker.engines import DeviceLost, EngineUnavailable
from worker.engines.presets import Preset
from worker.engines.surface import Colors, Points, PosedView, SourceView, Surface, View
from worker.mesh.camera import Camera
from worker.mesh.isosurface import extract
from worker.tsr.field import GPU_CHUNK
from worker.weights.transfer import file_digest

CAMERA = Camera(side=2 * 1.9 * math.tan(math.radians(20)), distance=1.9)
"""The reference's camera: 1.9 in front of the centre, 40 degrees wide. The network takes the photo for its view."""


def load(weights_dir: Path, device: Device, precision: Precision) -> "TripoSR":
    """Load TripoSR from its folder below `weights_dir`. Raises: EngineUnavailable."""
    return TripoSR(weights_dir / "triposr", device, precision)


class TripoSR:
    """The engine `triposr`: the network, loaded once and kept.

    Args:
        folder: holds config.yaml and model.safetensors or model.ckpt.
        device: "auto" takes CUDA, MPS or the CPU, the first that is there.
        precision: of the transformers; "auto" is float16 on CUDA and float32 elsewhere. The field is always float32
            and never TF32, whose ten bits would move vertices.

    Raises: EngineUnavailable.
    """

    name = "triposr"
    version = "1"

    def __init__(self, folder: Path, device: Device = "auto", precision: Precision = "auto") -> None:
        self.device = _pick(device)
        torch.set_float32_matmul_precision("highest")
        if precision == "auto":
            precision = "float16" if self.device == "cuda" else "float32"
        try:
            self.model = tsr.load(folder, self.device, getattr(torch, precision))
        except tsr.CheckpointError as error:
            raise EngineUnavailable(
                f"{error} Get the official checkpoint with: worker weights fetch triposr"
            ) from error
        self.details: Mapping[str, Any] = {
            "device": torch.cuda.get_device_name() if self.device == "cuda" else self.device,
            "precision": precision,
            "weights_sha256": file_digest(tsr.weights_file(folder)),
        }

    def reconstruct(self, views: Sequence[PosedView], preset: Preset) -> Surface:
        """Make the surface of the front view. The network takes one photo; the others are not used.

        Raises: JobError `no_surface`, `out_of_memory`; DeviceLost.
        """
        view = views[0].view
        if not (view[..., 3] > 127).any():
            raise JobError("no_surface")
        with _device_errors():
            try:
                return self._reconstruct(view, preset)
            except torch.OutOfMemoryError:
                chunk = GPU_CHUNK // 2
            # Outside of the handler, because its traceback still holds the tensors.
            torch.cuda.empty_cache()
            return self._reconstruct(view, preset, chunk)

    def _reconstruct(self, view: View, preset: Preset, chunk: int | None = None) -> Surface:
        began = time.perf_counter()
        code = self.model.encode([tsr.composite_on_grey(view)])[0]
        report: dict[str, Any] = {"encode_s": round(time.perf_counter() - began, 3)}
        surface = surface_of(self.model.field(code, chunk), preset.grid)
        if self.device == "cuda":
            report["peak_vram_mb"] = torch.cuda.max_memory_allocated() >> 20
        return replace(
            surface,
            source_views=[SourceView(role="front", view=view, camera=CAMERA)],
            report=report | dict(surface.report),
        )


def surface_of(field: tsr.Field, grid: int) -> Surface:
    """Extract the surface at the field's level on a grid with `grid` samples an axis. Raises: JobError `no_surface`."""

    def density(points: Points) -> NDArray[np.float32]:
        return np.asarray(field.density(points).cpu().numpy(), np.float32)

    def color(points: Points) -> Colors:
        with _device_errors():
            return np.asarray(field.color(_to_world(points)).cpu().numpy(), np.float32)

    began = time.perf_counter()
    found = extract(density, resolution=grid, radius=field.radius, level=field.level)
    if not len(found.faces):
        raise JobError("no_surface")
    report = {"extract_s": round(time.perf_counter() - began, 3), "queries": found.queries}
    return Surface(vertices=_from_world(found.vertices), faces=found.faces, color=color, report=report)


def _from_world(points: Points) -> Points:
    """Rotate from TripoSR's axes, z up and photographed from +x, to those of glTF, y up and photographed from +z."""
    return np.ascontiguousarray(points[:, [1, 2, 0]])


def _to_world(points: Points) -> Points:
    return np.ascontiguousarray(points[:, [2, 0, 1]])


def _pick(device: Device) -> str:
    """Return the device to use. Raises: EngineUnavailable if it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, usable in there.items() if usable)
    if not there[device]:
        raise EngineUnavailable(
            f"WORKER_DEVICE is {device}, and torch {torch.__version__} finds no such device."
        )
    return device


@contextmanager
def _device_errors() -> Iterator[None]:
    """Turn torch's errors into ours. Out of memory fails the job; after any other error only a new process can go on."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise JobError("out_of_memory") from error
    except torch.AcceleratorError as error:
        raise DeviceLost(str(error)) from error
