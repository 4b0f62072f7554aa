"""The weights on this disk: which models are known, where they lie, their verification and their download.

No job ever fetches weights. An operator fetches them beforehand, and the daemon verifies them at its start.
"""

from pathlib import Path

from worker.weights import rembg, triposr
from worker.weights.errors import (
    FetchFailed,
    NotOfficial,
    SourceRefused,
    SourceUnreachable,
    WeightsMissing,
    WrongContent,
)
from worker.weights.transfer import OnProgress, OnStep

__all__ = [
    "NAMES",
    "FetchFailed",
    "NotOfficial",
    "OnProgress",
    "OnStep",
    "SourceRefused",
    "SourceUnreachable",
    "WeightsMissing",
    "WrongContent",
    "digest",
    "fetch",
    "path",
    "verify",
]

NAMES = (triposr.NAME, *rembg.MODELS)  # of all models


def path(folder: Path, name: str) -> Path:
    """Return where a model belongs: the file of a background model, the folder of TripoSR.

    Raises: WeightsMissing if no model has that name.
    """
    if name == triposr.NAME:
        return triposr.path(folder)
    _require_known(name)
    return rembg.path(folder, name)


def digest(model: str) -> str:
    """Return the checksum, algorithm:hex, that the file of a background model must have. Raises: WeightsMissing."""
    _require_known(model)
    return rembg.MODELS[model].digest


def verify(folder: Path, name: str) -> Path:
    """Check that the weights are present and have the right checksum. Return their `path`.

    Raises: WeightsMissing; its subclass NotOfficial if they can be used but are not the published ones.
    """
    if name == triposr.NAME:
        return triposr.verify(folder, files=triposr.FILES)
    _require_known(name)
    return rembg.verify(folder, name)


def fetch(
    folder: Path,
    name: str,
    *,
    source: str | None = None,
    half: bool = False,
    keep: bool = False,
    on_progress: OnProgress | None = None,
    on_step: OnStep | None = None,
) -> Path:
    """Fetch the weights unless they are there and right. A file appears whole and checked, or not at all.

    Args:
        folder: the folder of all weights.
        name: a background model of rembg, or triposr.
        source: a URL or a folder with the files, instead of the place where they are published.
        half: for TripoSR only: convert to half precision.
        keep: for TripoSR only: keep the published file after its conversion.
        on_progress: called as bytes arrive.
        on_step: called when a step begins.

    Raises: FetchFailed, or its subclass SourceUnreachable if a later try may succeed; WeightsMissing if no model has
    that name.
    """
    if folder.parts[:1] == ("~",):
        raise FetchFailed("This user has no home folder. Set WORKER_WEIGHTS_DIR to a folder for the models.")
    if name == triposr.NAME:
        return triposr.fetch(
            folder,
            source=source,
            half=half,
            keep=keep,
            files=triposr.FILES,
            on_progress=on_progress,
            on_step=on_step,
        )
    _require_known(name)
    return rembg.fetch(folder, name, source=source, on_progress=on_progress, on_step=on_step)


def _require_known(name: str) -> None:
    if name not in rembg.MODELS:
        raise WeightsMissing(
            f"There is no model '{name}'. Use {triposr.NAME}, or a background model: {', '.join(rembg.MODELS)}."
        )
