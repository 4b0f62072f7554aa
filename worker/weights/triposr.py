"""TripoSR's checkpoint: the official files from the hub, a mirror or a folder, converted once to a file that loads fast.

The folder `triposr` holds `config.yaml`, `model.safetensors`, and `provenance.json`, which says what the second was made
from; or, unconverted, `config.yaml` and `model.ckpt`. The daemon can use other checkpoints too, as `worker.tsr` says.
Only `verify` requires the official one, and `fetch` never overwrites another one that can be used.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.core.errors import redact_url
from worker.weights import transfer
from worker.weights.errors import (
    FetchFailed,
    NotOfficial,
    SourceRefused,
    SourceUnreachable,
    WeightsMissing,
    WrongContent,
)
from worker.weights.transfer import Expected, OnProgress, OnStep

NAME = "triposr"
HUB = "https://huggingface.co/stabilityai/TripoSR/resolve/5b521936b01fbe1890f6f9baed0254ab6351c04a"

CKPT = "model.ckpt"
SAFETENSORS = "model.safetensors"
DINO = "dino_config.json"  # not in the official checkpoint; if present, it changes the network
PROVENANCE = "provenance.json"
CONVERTED = ".model.safetensors.new"  # its name until it is whole and recorded

HALF = 0.6  # of the bytes at most remain in half precision: biases, norms and the field stay float32


@dataclass(frozen=True, kw_only=True)
class File(Expected):
    """A file of a published checkpoint."""

    name: str


FILES = (
    File(
        name="config.yaml",
        size=987,
        digest="sha256:74ca708ce086bf68e97709ea6b3d91f14717921c04691e84043f0eb8fcc68e62",
    ),
    File(
        name=CKPT,
        size=1_677_246_742,
        digest="sha256:429e2c6b22a0923967459de24d67f05962b235f79cde6b032aa7ed2ffcd970ee",
    ),
)
# Nobody has downloaded the files where this was written.
PINNED = (
    "The expected checksums are those that several independent public projects pin; "
    "this project could not confirm them."
)
REMEDY = f"Run: worker weights fetch {NAME}"
ELSEWHERE = (
    f"Use a mirror of the two files, `worker weights fetch {NAME} --from URL`, "
    f"or copy config.yaml and {CKPT} to this machine and use `--from FOLDER`."
)


def path(folder: Path) -> Path:
    """Return the checkpoint's folder, as `worker.tsr.load` takes it."""
    return folder / NAME


def verify(folder: Path, *, files: Sequence[File] = FILES) -> Path:
    """Check that the checkpoint is the official one, or was converted here from the official one. Return its folder.

    `provenance.json` proves a conversion. It protects against damage and mistakes, not against whoever can write there.

    Raises:
        WeightsMissing: a file is missing or cannot be used.
        NotOfficial: the checkpoint can be used but is another one.
    """
    home = path(folder)
    if not any((home / name).is_file() for name in (SAFETENSORS, CKPT)):
        begun = transfer.size_of(transfer.unfinished(home / CKPT))
        state = f"; {begun:,} bytes of the latter have been fetched so far" if begun else ""
        raise WeightsMissing(
            f"The weights of '{NAME}' are missing: {home} has neither {SAFETENSORS} nor {CKPT}{state}. {REMEDY}"
        )
    try:
        problems = list(filter(None, _problems(home, files)))
    except OSError as error:
        raise WeightsMissing(
            f"The weights of '{NAME}' are missing: {error.filename} ({error.strerror}). {REMEDY}"
        ) from error
    if not problems:
        return home
    found = "; ".join(problems)
    if reason := _unusable(home):
        raise WeightsMissing(
            f"The weights of '{NAME}' are wrong: {found}. They cannot be loaded: {reason} {REMEDY}"
        )
    raise NotOfficial(
        f"{home} holds another checkpoint than the official one: {found}. "
        f"It loads, and the worker can use it, but its origin is unknown. {PINNED}"
    )


def fetch(
    folder: Path,
    *,
    source: str | None = None,
    half: bool = False,
    keep: bool = False,
    files: Sequence[File] = FILES,
    on_progress: OnProgress | None = None,
    on_step: OnStep | None = None,
) -> Path:
    """Fetch and convert the official checkpoint unless that was done before. Return its folder.

    Args:
        folder: the folder of all weights.
        source: a URL below which the files lie, or a folder with them. Default: the hub.
        half: convert to half precision, in half the space. If false, a file in half precision is kept as it is.
        keep: keep `model.ckpt` after its conversion.
        files: the files that make up the checkpoint.
        on_progress: called as the bytes of `model.ckpt` arrive.
        on_step: called when a step begins.

    Raises:
        FetchFailed: the message says from where and why, and what else can be done.
    """
    home = path(folder)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with transfer.fetch_lock(home, on_step):
            ready = _ready(folder, files, half=half)
            if ready == home:
                return home
            for left in home.glob(f"{CONVERTED}*"):  # by a conversion that was killed
                left.unlink()
            origin = ready or _obtain(
                home, source or HUB, files, half=half, keep=keep, on_progress=on_progress, on_step=on_step
            )
            if on_step:
                on_step(f"Converting {origin} to {'half' if half else 'single'} precision.")
            _convert(origin, home, files, half=half)
            if not keep:
                (home / CKPT).unlink(missing_ok=True)
    except OSError as error:
        raise FetchFailed(f"The weights of '{NAME}' could not be written to {home}: {error}.") from error
    return home


def _ready(folder: Path, files: Sequence[File], *, half: bool) -> Path | None:
    """Return the folder if nothing is left to do, the file if it only needs conversion, None if files must be fetched."""
    home = path(folder)
    if (home / DINO).exists() and DINO not in {file.name for file in files}:
        raise FetchFailed(
            f"{home / DINO} is of another checkpoint. Move the folder away, or set WORKER_WEIGHTS_DIR."
        )
    try:
        verify(folder, files=files)
    except NotOfficial as error:
        raise FetchFailed(
            f"{error} It is not overwritten: move it away, or set WORKER_WEIGHTS_DIR."
        ) from None
    except WeightsMissing:
        return None
    converted = home / SAFETENSORS
    if not converted.is_file():
        return home / CKPT
    known = _provenance(home)["conversions"]
    return converted if half and known[_digest(converted)] != "float16" else home


def _obtain(
    home: Path,
    source: str,
    files: Sequence[File],
    *,
    half: bool,
    keep: bool,
    on_progress: OnProgress | None,
    on_step: OnStep | None,
) -> Path:
    """Get the official `model.ckpt`. Return its path, in our folder or in the local folder that is the source."""
    wanted = [file for file in files if not transfer.is_valid(home / file.name, file)]
    if "://" in source:
        _require_space(home, wanted, files, half=half)
        if on_step:
            on_step(f"Fetching {redact_url(source)}.")
        _from_web(home, source.rstrip("/"), wanted, on_progress)
        return home / CKPT
    in_place = not keep and any(file.name == CKPT for file in wanted)
    if in_place:  # convert the source itself: a copy would be removed afterwards
        wanted = [file for file in wanted if file.name != CKPT]
    _require_space(home, wanted, files, half=half)
    if on_step:
        on_step(f"Checking {source}.")
    _from_folder(home, Path(source), wanted, files)
    return (Path(source) if in_place else home) / CKPT


def _require_space(home: Path, wanted: Sequence[File], files: Sequence[File], *, half: bool) -> None:
    """Check the space for the download and the conversion before a download that may take an hour."""
    come = sum(
        max(0, (file.size or 0) - transfer.size_of(transfer.unfinished(home / file.name))) for file in wanted
    )
    converted = next(file.size or 0 for file in files if file.name == CKPT)
    transfer.require_space(home, come + int(converted * (HALF if half else 1)))


def _from_web(home: Path, base: str, wanted: Sequence[File], on_progress: OnProgress | None) -> None:
    if not base.startswith(("http://", "https://")):
        raise FetchFailed(f"{redact_url(base)} is neither a folder nor a URL that begins with https://.")
    for file in wanted:
        try:
            transfer.download(
                f"{base}/{file.name}",
                home / file.name,
                file,
                on_progress=on_progress if file.name == CKPT else None,
            )
        except WrongContent as error:
            raise WrongContent(f"{error} {_advice()}") from error
        except (SourceRefused, SourceUnreachable) as error:
            raise type(error)(f"{error} {ELSEWHERE}") from error


def _from_folder(home: Path, source: Path, wanted: Sequence[File], files: Sequence[File]) -> None:
    for file in files:
        origin = source / file.name
        if not origin.is_file():
            raise FetchFailed(
                f"{source} has no {file.name}. It must hold {' and '.join(each.name for each in files)}."
            )
        with origin.open("rb") as opened:
            pointer = opened.read(40).startswith(b"version https://git-lfs.github.com/")
        if pointer:
            raise WrongContent(f"{origin} is a pointer of Git LFS, not the file. Run `git lfs pull` there.")
        if wrong := transfer.mismatch(origin, file):
            raise WrongContent(f"{origin} {wrong}. {_advice()}")
    for file in wanted:
        transfer.copy(source / file.name, home / file.name, file)


def _advice() -> str:
    return (
        f"{PINNED} The file is not used. Fetch it again, then from another source (--from). "
        "If both send the same file, the expected checksum may be wrong: report it."
    )


def _convert(origin: Path, home: Path, files: Sequence[File], *, half: bool) -> None:
    # Imported here because it takes seconds, and only a conversion needs it.
    import torch  # noqa: PLC0415

    from worker.tsr import CheckpointError, convert  # noqa: PLC0415

    new = home / CONVERTED
    try:
        convert(origin, new, torch.float16 if half else torch.float32)
        # Recorded before the rename: if we are killed between the two, the file is on record.
        _record(home, files, _digest(new), "float16" if half else "float32")
        new.replace(home / SAFETENSORS)
    except CheckpointError as error:
        raise FetchFailed(f"The checkpoint is the expected one and cannot be converted: {error}") from None
    finally:
        new.unlink(missing_ok=True)


def _problems(home: Path, files: Sequence[File]) -> list[str]:
    """Return the differences between the folder and the official checkpoint. Raises: OSError."""
    there = [file for file in files if file.name != CKPT or (home / CKPT).is_file()]
    problems = [
        f"{home / file.name} {wrong}"
        for file in there
        if (wrong := transfer.mismatch(home / file.name, file))
    ]
    if (home / DINO).exists() and DINO not in {file.name for file in files}:
        problems.append(f"{home / DINO} changes the network")
    if (home / SAFETENSORS).is_file():
        problems.append(_unproved(home, files))
    return problems


def _unproved(home: Path, files: Sequence[File]) -> str:
    """Say why nothing proves that the converted file is the official checkpoint; empty if something does."""
    record = _provenance(home)
    file = home / SAFETENSORS
    if not record["conversions"]:
        return f"{file} was not converted here (no {PROVENANCE} beside it)"
    if record["source"] != _digests(files):
        return f"{file} was converted from another checkpoint ({record['source'].get(CKPT, 'unknown')})"
    found = _digest(file)
    if found not in record["conversions"]:
        return f"{file} has the sha256 {found.removeprefix('sha256:')}, which no conversion on record gave"
    return ""


def _record(home: Path, files: Sequence[File], converted: str, precision: str) -> None:
    record = _provenance(home)
    if record["source"] != _digests(files):
        record = {"source": _digests(files), "conversions": {}}
    record["conversions"][converted] = precision
    part = home / f".{PROVENANCE}.part"
    part.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    part.replace(home / PROVENANCE)


def _provenance(home: Path) -> dict[str, Any]:
    """Read `source`, the official files' digests by name, and `conversions`, each converted file's precision by digest."""
    try:
        record = json.loads((home / PROVENANCE).read_text("utf-8"))
        return {"source": dict(record["source"]), "conversions": dict(record["conversions"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"source": {}, "conversions": {}}


def _digest(file: Path) -> str:
    """Return the file's checksum as `provenance.json` has it: algorithm:hex."""
    return f"sha256:{transfer.file_digest(file)}"


def _digests(files: Sequence[File]) -> dict[str, str]:
    return {file.name: file.digest for file in files}


def _unusable(home: Path) -> str:
    """Say why the checkpoint cannot be loaded; empty if it can. The weights are mapped, not read into memory."""
    from worker.tsr import CheckpointError, load  # noqa: PLC0415 - as in `_convert`

    try:
        load(home)
    except CheckpointError as error:
        return str(error)
    return ""
