"""Photos → surface. `ENGINES` is the one list of engines; `load` makes one by its name.

A new engine is a module `worker/engines/NAME.py` with a function
`load(weights_dir, device, precision, gate, views)`, and a line here.
`tests/engines/test_contract.py` holds each of them to what `worker.engines.surface` says. This file imports no numpy:
the daemon and the commands read the table, and only the child process loads an engine.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from worker.core.settings import ConfigError, Device, Precision, TripoSRViews
from worker.engines.gate import Gate

if TYPE_CHECKING:
    from worker.engines.surface import Engine


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """The requirements of an engine on its host, and the kind of its models."""

    devices: tuple[Device, ...]  # the kinds it can compute on, best first
    ram_gb: float  # of the host, for each lane: engine, background model, mesh and a photo
    weights: tuple[str, ...] = ()  # as `worker weights fetch` names them
    gpu_ram_gb: float = 0.0  # of the host, for each lane whose engine is on a GPU
    vram_gb: float = (
        0.0  # of the GPU, for each lane; of TripoSR by arithmetic (docs/triposr.md), not measured
    )
    preview: bool = False  # all but the front view is invented


ENGINES = {
    "triposr": EngineSpec(
        devices=("cuda", "mps", "cpu"), ram_gb=6, gpu_ram_gb=3.5, vram_gb=2, weights=("triposr",)
    ),
    "relief": EngineSpec(devices=("cpu",), ram_gb=2, preview=True),
}
PREVIEWS = frozenset(name for name, spec in ENGINES.items() if spec.preview)
TRAINED = frozenset(name for name, spec in ENGINES.items() if spec.weights)
WITHOUT_WEIGHTS = next(name for name, spec in ENGINES.items() if not spec.weights)
"""The engine that runs where nothing has been fetched: what `worker dev` and `worker demo` take by default."""


class EngineUnavailable(Exception):
    """The engine cannot be loaded on this machine; the message says what to do."""


class DeviceBusy(EngineUnavailable):
    """The engine cannot be loaded now, since others use up the device's memory; later it may."""


class DeviceLost(BaseException):
    """The accelerator is in a state from which only a new process recovers. Only the child's main may catch this."""


def find(name: str) -> EngineSpec:
    """Return the engine of that name. Raises: ConfigError, which lists the names, where there is none."""
    if name not in ENGINES:
        raise ConfigError(f"WORKER_ENGINE: there is no engine '{name}'. Use one of: {', '.join(ENGINES)}.")
    return ENGINES[name]


def weights_needed(name: str, background_model: str) -> list[str]:
    """Return the names of the models that a worker with this engine needs on its disk. Raises: ConfigError."""
    return [background_model, *find(name).weights]


def load(
    name: str,
    weights_dir: Path,
    device: Device = "auto",
    precision: Precision = "auto",
    gate: Gate | None = None,
    views: TripoSRViews = "texture",
) -> "Engine":
    """Load the engine with its weights. Only the chosen engine's libraries are imported.

    Args:
        name: one of ENGINES.
        weights_dir: the folder of all weights, as `worker.weights` fills it.
        device: where to compute; "auto" takes the first of the engine's devices that is there.
        precision: of the engine's large matrices; an engine without any ignores it.
        gate: the places of the device that other lanes use too; an engine without large matrices ignores it.
        views: what other photos than the front give to TripoSR's models; other engines ignore it.

    Raises:
        ConfigError: there is no such engine.
        EngineUnavailable: its weights or the device are missing, or it cannot compute there.
    """
    spec = find(name)
    if device not in ("auto", *spec.devices):
        raise EngineUnavailable(
            f"WORKER_DEVICE is {device}, and the engine {name} runs on {' or '.join(spec.devices)} only. "
            "Set WORKER_DEVICE=auto, or another WORKER_ENGINE."
        )
    engine: Engine = import_module(f"worker.engines.{name}").load(weights_dir, device, precision, gate, views)
    return engine
