"""Photo → surface. `ENGINES` lists the engines by name; `load` makes one."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from worker.engines.surface import Engine

Name = Literal["triposr", "relief"]
Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]


class EngineUnavailable(Exception):
    """The engine cannot be loaded on this machine; the message says what to do."""


class DeviceLost(BaseException):
    """The accelerator is in a state from which only a new process recovers: nothing may catch this but the runner."""


def load(name: Name, weights_dir: Path, device: Device = "auto", precision: Precision = "auto") -> "Engine":
    """Raises: EngineUnavailable."""
    # Only the chosen engine's libraries are imported.
    if name == "relief":
        from worker.engines.relief import Relief  # noqa: PLC0415

        return Relief()
    from worker.engines.triposr import TripoSR  # noqa: PLC0415

    return TripoSR(weights_dir / "triposr", device, precision)
