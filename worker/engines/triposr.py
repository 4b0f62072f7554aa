"""The engine TripoSR: the front photo → the surface that the network reconstructs; all photos → its colours."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker import tsr
from worker.core.errors import JobError, one_line
from worker.core.settings import Device, Precision, TripoSRViews
from worker.engines import DeviceBusy, DeviceLost, EngineUnavailable
from worker.engines.accelerator import NEEDS, Accelerator
from worker.engines.gate import Gate
from worker.engines.presets import Preset
from worker.engines.sides import Correction, correct
from worker.engines.surface import AZIMUTHS, Points, PosedView, SourceView, Surface
from worker.mesh.camera import Camera
from worker.mesh.clean import drop_floaters
from worker.mesh.isosurface import extract
from worker.tsr.image import GREY, RgbImage
from worker.weights.transfer import file_digest

CAMERA = Camera(side=2 * 1.9 * math.tan(math.radians(20)), distance=1.9)
"""The reference's camera: 1.9 in front of the centre, 40 degrees wide. The network takes the photo for its view."""


COARSE = 96  # samples an axis of the grid on which the guessed depth is compared with photos from the sides
EDGE = 0.01  # in the world's unit: how far inside of an outline the density may be e times its level


class Field(Protocol):
    """Density and colour at (N, 3) points of TripoSR's world, as `tsr.Field` has them."""

    radius: float
    level: float
    device: torch.device

    def density(self, points: Points) -> Tensor:
        """Return (N,) densities above 0. A point is inside where it exceeds `level`."""
        ...

    def color(self, points: Points) -> Tensor:
        """Return (N, 3) colours in 0..1, sRGB."""
        ...


def load(
    weights_dir: Path, device: Device, precision: Precision, gate: Gate | None, views: TripoSRViews
) -> "TripoSR":
    """Load TripoSR from its folder below `weights_dir`. Raises: EngineUnavailable."""
    return TripoSR(weights_dir / "triposr", device, precision, gate, views)


class TripoSR:
    """The engine `triposr`: the network, loaded once and kept.

    Args:
        folder: holds config.yaml and model.safetensors or model.ckpt.
        device: "auto" takes CUDA, MPS or the CPU, the first that is there.
        precision: of the transformers; "auto" is float16 on CUDA and float32 elsewhere. The field is always float32
            and never TF32, whose ten bits would move vertices.
        gate: the places of the device, if other lanes use it too.
        views: "texture": all photos give their colours; "shape": those from the sides also correct the depth.

    Raises: EngineUnavailable.
    """

    name = "triposr"
    version = "1"

    def __init__(
        self,
        folder: Path,
        device: Device = "auto",
        precision: Precision = "auto",
        gate: Gate | None = None,
        views: TripoSRViews = "texture",
    ) -> None:
        self.views = views
        self.accelerator = Accelerator(device, gate)
        if precision == "auto":
            precision = "float16" if self.accelerator.kind == "cuda" else "float32"
        try:
            self.model = self.accelerator.run(
                lambda: tsr.load(folder, self.accelerator.kind, getattr(torch, precision))
            )
        except tsr.CheckpointError as error:
            raise EngineUnavailable(
                f"{error} Get the official checkpoint with: worker weights fetch triposr"
            ) from error
        except (DeviceLost, JobError) as error:
            raise self._unusable(error) from error
        self.details: Mapping[str, Any] = {
            "device": self.accelerator.name,
            "precision": precision,
            "triposr_views": views,
            "weights_sha256": file_digest(tsr.weights_file(folder)),
        }
        if self.accelerator.kind != "cpu":
            self.warm_up()

    def warm_up(self) -> None:
        """Compute everything once: a device that cannot, an old GPU say, is found before a job is. Raises: EngineUnavailable."""
        side = self.model.config.image_size
        grey = np.full((side, side, 3), GREY, np.float32)
        try:
            code, _ = self._encode(grey)
            self.accelerator.run(lambda: self.model.field(code)(np.zeros((1, 3), np.float32)))
        except (DeviceLost, JobError, NotImplementedError) as error:
            raise self._unusable(error) from error

    def reconstruct(self, views: Sequence[PosedView], preset: Preset) -> Surface:
        """Make the surface of the front view, the one photo that the network takes.

        All views give it their colours. With `views="shape"` those from the sides correct its depth.

        Raises: JobError `no_surface`, `out_of_memory`, `internal_error`; DeviceLost.
        """
        front = views[0].view
        if not (front[..., 3] > 127).any():
            raise JobError("no_surface")
        self.accelerator.reset_peak()
        code, report = self._encode(tsr.composite_on_grey(front))
        field: Field = self.accelerator.run(lambda: self.model.field(code))
        if self.views == "shape":
            field = self._corrected(field, views, report)
        surface = surface_of(field, preset.grid, self.accelerator, report)
        # Each photo was framed alone: finishing moves its camera to where the outlines agree.
        sources = [
            SourceView(role=role, view=view, camera=replace(CAMERA, azimuth=AZIMUTHS[role]))
            for role, view in views
        ]
        return replace(surface, source_views=sources)

    def _corrected(self, guess: Field, views: Sequence[PosedView], report: dict[str, Any]) -> Field:
        """Correct the guessed depth by what photos from the sides show; the guess itself if there are none."""
        if not any(role in ("left", "right") for role, _ in views):
            return guess
        coarse = surface_of(guess, COARSE, self.accelerator)
        vertices, faces, _ = drop_floaters(coarse.vertices, coarse.faces)
        correction = correct(vertices, faces, views, CAMERA)
        if correction is None:
            return guess
        report["depth_scale"] = [round(float(end(correction.scale)), 3) for end in (np.min, np.max)]
        report["cut_to_outlines"] = len(correction.outlines)
        return Corrected(guess, correction)

    def _encode(self, image: RgbImage) -> tuple[Tensor, dict[str, Any]]:
        """Encode a photo: the (3, C, side, side) scene code, and figures for the report.

        A code that is not finite, as half precision may give where it overflows, is computed once more in float32.

        Raises: JobError `out_of_memory`, `internal_error`; DeviceLost.
        """
        report: dict[str, Any] = {}

        def encode() -> tuple[Tensor, bool]:
            code = self.model.encode([image])[0]
            return code, bool(code.isfinite().all())

        def encode_in_float32() -> tuple[Tensor, bool]:
            with self.model.in_float32():
                return encode()

        began = time.perf_counter()
        code, finite = self.accelerator.run(encode)
        if not finite and self.model.dtype != torch.float32:
            report["encoded_again_in"] = "float32"
            code, finite = self.accelerator.run(encode_in_float32)
        if not finite:
            raise JobError("internal_error")
        report["encode_s"] = round(time.perf_counter() - began, 3)
        return code, report

    def _unusable(self, error: BaseException) -> EngineUnavailable:
        if isinstance(error, JobError) and error.code == "out_of_memory":
            return DeviceBusy(f"{self.accelerator.name} has no memory for the network now.")
        if isinstance(error, JobError):
            return EngineUnavailable(
                "The network's answer to a grey photo is not finite: the checkpoint or the device is broken."
            )
        return EngineUnavailable(
            f"{self.accelerator.name} cannot compute the network: {one_line(error)} "
            f"torch {torch.__version__} needs {NEEDS} for CUDA. WORKER_DEVICE=cpu computes on the CPU instead."
        )


class Corrected:
    """A field whose depth is corrected, and which is empty outside of the photos' outlines."""

    def __init__(self, guess: Field, correction: Correction) -> None:
        self.guess, self.correction = guess, correction
        self.radius, self.level, self.device = guess.radius, guess.level, guess.device

    def density(self, points: Points) -> Tensor:
        """Return (N,) densities above 0. A point is inside where it exceeds `level`."""
        here = _from_world(np.asarray(points))
        guessed = self.correction.guess_of(here)
        found = self.guess.density(_to_world(guessed))
        most = np.full(len(here), np.inf, np.float32)
        if self.correction.outlines:
            most = self.level * np.exp(np.clip(self.correction.inside(here) / EDGE, -5, 5))
        most[np.abs(guessed).max(axis=1) > self.radius] = 0  # the guess ends with its cube
        return torch.minimum(found, torch.from_numpy(most).to(found))

    def color(self, points: Points) -> Tensor:
        """Return (N, 3) colours in 0..1, sRGB."""
        return self.guess.color(_to_world(self.correction.guess_of(_from_world(np.asarray(points)))))


def surface_of(
    field: Field,
    grid: int,
    accelerator: Accelerator | None = None,
    report: dict[str, Any] | None = None,
) -> Surface:
    """Extract the surface at the field's level on a grid with `grid` samples an axis.

    `accelerator` is the field's device; without one its lane is alone there. The figures are added to `report`, which becomes the surface's: its `peak_vram_mb` also counts the colours that are
    asked of the surface later.

    Raises: JobError `no_surface`, `out_of_memory`; DeviceLost.
    """
    accelerator = accelerator or Accelerator(cast("Device", field.device.type))
    report = {} if report is None else report

    def ask(query: Callable[[Points], Tensor], points: Points) -> NDArray[np.float32]:
        answer = accelerator.run(lambda: np.asarray(query(points).cpu().numpy(), np.float32))
        if accelerator.peak_mb is not None:
            report["peak_vram_mb"] = accelerator.peak_mb
        return answer

    began = time.perf_counter()
    found = extract(
        lambda points: ask(field.density, points),
        resolution=grid,
        radius=field.radius,
        level=field.level,
    )
    if not len(found.faces):
        raise JobError("no_surface")
    report |= {"extract_s": round(time.perf_counter() - began, 3), "queries": found.queries}
    return Surface(
        vertices=_from_world(found.vertices),
        faces=found.faces,
        color=lambda points: ask(field.color, _to_world(points)),
        report=report,
    )


def _from_world(points: Points) -> Points:
    """Rotate from TripoSR's axes, z up and photographed from +x, to those of glTF, y up and photographed from +z."""
    return np.ascontiguousarray(points[:, [1, 2, 0]])


def _to_world(points: Points) -> Points:
    return np.ascontiguousarray(points[:, [2, 0, 1]])
