"""The device that an engine computes on with torch: which one, its turns and its memory, and what its errors mean."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TypeVar

import torch

from worker.core.errors import JobError
from worker.core.settings import Device
from worker.engines import DeviceLost, EngineUnavailable
from worker.engines.gate import Gate

Kind = Literal["cuda", "mps", "cpu"]
T = TypeVar("T")

# Of torch's errors these say that memory is short, on a GPU, in cuBLAS and cuDNN, on a Mac, and of the host.
MEMORY_SHORT = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
NEEDS = "a driver of version 580 or later and a GPU of compute capability 7.5 or later"
"""What the CUDA of the pinned torch needs; docs/deployment.md says it too."""


class _MemoryShort(Exception):
    """There is no memory for this just now."""


class Accelerator:
    """One device, as one lane uses it.

    Args:
        device: "auto" takes CUDA, MPS or the CPU, the first that torch finds.
        gate: the places of the device, which its lanes share; None for a process that is alone on it.

    Raises: EngineUnavailable if torch cannot use the device.
    """

    def __init__(self, device: Device, gate: Gate | None = None) -> None:
        self.kind = _pick(device)
        self.gate = gate or Gate.create(1)

    @property
    def name(self) -> str:
        """The GPU's name, or the kind of the device."""
        return torch.cuda.get_device_name() if self.kind == "cuda" else self.kind

    def run(self, work: Callable[[], T]) -> T:
        """Compute on the device when there is a place on it, and wait until the result is there.

        If memory runs out, fewer lanes may compute at the same time from then on, and the work is done again. So a job
        fails only after its lane was alone on the device.

        Raises: JobError `out_of_memory`; DeviceLost; what `work` raises that has nothing to do with the device.
        """
        alone = False
        while True:
            with self.gate.enter() as places:
                try:
                    return self._attempt(work)
                except _MemoryShort as error:
                    if alone:
                        raise JobError("out_of_memory") from error
                finally:
                    self._release_memory()
            alone = not self.gate.lower(places)

    def reset_peak(self) -> None:
        """Measure the peak of memory from now on."""
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats()

    @property
    def peak_mb(self) -> int | None:
        """The peak of this process's memory on the GPU since `reset_peak`, in MiB; None on other devices."""
        return torch.cuda.max_memory_allocated() >> 20 if self.kind == "cuda" else None

    def synchronize(self) -> None:
        """Wait until all that was asked of the device is computed. Errors of it are raised here."""
        if self.kind == "cuda":
            torch.cuda.synchronize()
        elif self.kind == "mps":
            torch.mps.synchronize()

    def _attempt(self, work: Callable[[], T]) -> T:
        try:
            result = work()
            self.synchronize()
        except RuntimeError as error:  # torch's own errors are subclasses of it
            text = " ".join(str(error).split())
            if isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in MEMORY_SHORT):
                raise _MemoryShort(text) from error
            # cuBLAS and cuDNN raise plain RuntimeErrors. After any of them the device may refuse all that follows.
            if isinstance(error, torch.AcceleratorError) or self.kind != "cpu":
                raise DeviceLost(text) from error
            raise
        return result

    def _release_memory(self) -> None:
        """Give the cached memory back, which other lanes of the device could not use otherwise."""
        with suppress(RuntimeError):  # of a device that is lost, which has been said
            if self.kind == "cuda":
                torch.cuda.empty_cache()
            elif self.kind == "mps":
                torch.mps.empty_cache()


def _pick(device: Device) -> Kind:
    there: dict[Kind, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(kind for kind, usable in there.items() if usable)
    if there[device]:
        return device
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    asked = f"cuda{f' (GPU {gpu})' if gpu else ''}" if device == "cuda" else device
    if device == "mps":
        reason = "finds no such device"
    elif torch.version.cuda is None:
        reason = "is built for CPUs only: install the build for CUDA"
    else:
        reason = f"cannot use it: its CUDA {torch.version.cuda} needs {NEEDS}"
    raise EngineUnavailable(
        f"The device is {asked}, and torch {torch.__version__} {reason}. WORKER_DEVICE=cpu computes on the CPU instead."
    )
