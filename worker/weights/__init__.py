"""The weights on this machine's disk: which ones are known, where they lie, whether they are right, how to get them.

Nothing is ever fetched while a job runs. The daemon verifies at its start; an operator fetches beforehand.
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
from worker.weights.transfer import Progress, Say

__all__ = [
    "FetchFailed",
    "NotOfficial",
    "Progress",
    "Say",
    "SourceRefused",
    "SourceUnreachable",
    "WeightsMissing",
    "WrongContent",
    "fetch",
    "path",
    "verify",
]


def path(folder: Path, name: str) -> Path:
    """Where a model belongs: the file of a background model, the folder of TripoSR.

    Raises: WeightsMissing when the name is not a known model.
    """
    if name == triposr.NAME:
        return triposr.path(folder)
    _require_known(name)
    return rembg.path(folder, name)


def verify(folder: Path, name: str) -> Path:
    """As `path`, when the weights are present and have the right checksum.

    Raises: WeightsMissing; NotOfficial, which is one, when they can be used but are not the published ones.
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
    progress: Progress | None = None,
    say: Say | None = None,
) -> Path:
    """Gets the weights unless they are there and right; a file appears whole and checked, or not at all.

    Args:
        folder: where all weights are.
        name: a background model of rembg, or triposr.
        source: an address or a folder to get the files from, instead of where they are published.
        half: of TripoSR only: in half precision.
        keep: of TripoSR only: leave the published file beside what is made from it.
        progress: told of the bytes as they come.
        say: told what begins.

    Raises: FetchFailed, SourceUnreachable among it; WeightsMissing when the name is not a known model.
    """
    if folder.parts[:1] == ("~",):
        raise FetchFailed("This user has no home folder. Set WORKER_WEIGHTS_DIR to a folder for the models.")
    if name == triposr.NAME:
        return triposr.fetch(
            folder, source=source, half=half, keep=keep, files=triposr.FILES, progress=progress, say=say
        )
    _require_known(name)
    return rembg.fetch(folder, name, source=source, progress=progress, say=say)


def _require_known(name: str) -> None:
    if name not in rembg.MODELS:
        raise WeightsMissing(
            f"There is no model '{name}'. Use {triposr.NAME}, or a background model: {', '.join(rembg.MODELS)}."
        )
