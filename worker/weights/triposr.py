"""TripoSR's checkpoint: the official files from the hub, a mirror or a folder, converted once to what loads fast.

In the folder `triposr`: `config.yaml`, `model.safetensors`, and `provenance.json`, which says what the latter was made
from. Or, unconverted, `config.yaml` and `model.ckpt`. The daemon can use other checkpoints there, as `worker.tsr` says;
only `verify` insists on the official one, and `fetch` never overwrites another one that can be used.
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
from worker.weights.transfer import Expected, Progress, Say

NAME = "triposr"
HUB = "https://huggingface.co/stabilityai/TripoSR/resolve/5b521936b01fbe1890f6f9baed0254ab6351c04a"

CKPT = "model.ckpt"
SAFETENSORS = "model.safetensors"
DINO = "dino_config.json"  # not in the official checkpoint; where it lies, it changes the network
PROVENANCE = "provenance.json"
CONVERTED = ".model.safetensors.new"  # until it is whole and recorded

HALF = 0.6  # of the bytes, at most, are left by half precision: the biases, norms and the field keep theirs


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
# We have never had the files themselves in our hands.
PINNED = (
    "The expected checksums are those that several independent public projects pin; "
    "we could not confirm them ourselves."
)
REMEDY = f"Run: worker weights fetch {NAME}"
ELSEWHERE = (
    f"Use a mirror of the two files, `worker weights fetch {NAME} --from URL`, "
    f"or copy config.yaml and {CKPT} to this machine and use `--from FOLDER`."
)


def path(folder: Path) -> Path:
    """The checkpoint's folder, as `worker.tsr.load` wants it."""
    return folder / NAME


def verify(folder: Path, *, files: Sequence[File] = FILES) -> Path:
    """The checkpoint's folder, with the official files in it, or with what was converted from them here.

    A conversion is proved by `provenance.json`: against damage and mistakes, not against somebody who can write there.

    Raises:
        WeightsMissing: something is not there, or cannot be used.
        NotOfficial: it can be used, but is another checkpoint.
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
        f"It loads, and the worker can use it, but nobody vouches for it. {PINNED}"
    )


def fetch(
    folder: Path,
    *,
    source: str | None = None,
    half: bool = False,
    keep: bool = False,
    files: Sequence[File] = FILES,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Path:
    """Gets and converts the official checkpoint unless that has been done.

    Args:
        folder: where all weights are.
        source: the address under which the files lie, or a folder with them; the hub without one.
        half: convert to half precision, in half the space. What is there in half precision is kept as it is without.
        keep: leave `model.ckpt` there too, once it is converted.
        files: what the checkpoint must be.
        progress: told of the bytes of `model.ckpt`.
        say: told what begins.

    Raises:
        FetchFailed: the message says from where and why, and what else can be done.
    """
    home = path(folder)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with transfer.fetch_lock(home, say):
            ready = _ready(folder, files, half=half)
            if ready == home:
                return home
            for left in home.glob(f"{CONVERTED}*"):  # by one that was killed
                left.unlink()
            origin = ready or _obtain(
                home, source or HUB, files, half=half, keep=keep, progress=progress, say=say
            )
            if say:
                say(f"Converting {origin} to {'half' if half else 'single'} precision.")
            _convert(origin, home, files, half=half)
            if not keep:
                (home / CKPT).unlink(missing_ok=True)
    except OSError as error:
        raise FetchFailed(f"The weights of '{NAME}' could not be written to {home}: {error}.") from error
    return home


def _ready(folder: Path, files: Sequence[File], *, half: bool) -> Path | None:
    """The folder if nothing is left to do, the file to convert if only that is, None if there is nothing to use."""
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
    progress: Progress | None,
    say: Say | None,
) -> Path:
    """The official `model.ckpt`: in our folder, or in the local one that is the source."""
    wanted = [file for file in files if not transfer.is_valid(home / file.name, file)]
    if "://" in source:
        _require_space(home, wanted, files, half=half)
        if say:
            say(f"Fetching {redact_url(source)}.")
        _from_web(home, source.rstrip("/"), wanted, progress)
        return home / CKPT
    in_place = not keep and any(file.name == CKPT for file in wanted)
    if in_place:  # instead of a copy that would be removed
        wanted = [file for file in wanted if file.name != CKPT]
    _require_space(home, wanted, files, half=half)
    if say:
        say(f"Checking {source}.")
    _from_folder(home, Path(source), wanted, files)
    return (Path(source) if in_place else home) / CKPT


def _require_space(home: Path, wanted: Sequence[File], files: Sequence[File], *, half: bool) -> None:
    """At once, before an hour's download: for what is to come and for the conversion."""
    come = sum(
        max(0, (file.size or 0) - transfer.size_of(transfer.unfinished(home / file.name))) for file in wanted
    )
    converted = next(file.size or 0 for file in files if file.name == CKPT)
    transfer.require_space(home, come + int(converted * (HALF if half else 1)))


def _from_web(home: Path, base: str, wanted: Sequence[File], progress: Progress | None) -> None:
    if not base.startswith(("http://", "https://")):
        raise FetchFailed(f"{redact_url(base)} is neither a folder nor an address that begins with https://.")
    for file in wanted:
        try:
            transfer.download(
                f"{base}/{file.name}",
                home / file.name,
                file,
                progress=progress if file.name == CKPT else None,
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
            raise WrongContent(f"{origin} is Git LFS's pointer, not the file. Run `git lfs pull` there.")
        if wrong := transfer.mismatch(origin, file):
            raise WrongContent(f"{origin} {wrong}. {_advice()}")
    for file in wanted:
        transfer.copy(source / file.name, home / file.name, file)


def _advice() -> str:
    return (
        f"{PINNED} Nothing of it is used. Fetch it again, then from another source (--from): "
        "if both give the same, the pin may be wrong: report it."
    )


def _convert(origin: Path, home: Path, files: Sequence[File], *, half: bool) -> None:
    # Seconds to import, and of no use to any other command or to the daemon's parent process.
    import torch  # noqa: PLC0415

    from worker.tsr import CheckpointError, convert  # noqa: PLC0415

    new = home / CONVERTED
    try:
        convert(origin, new, torch.float16 if half else torch.float32)
        # Recorded first: whatever is killed in between, what lies there is on record.
        _record(home, files, _digest(new), "float16" if half else "float32")
        new.replace(home / SAFETENSORS)
    except CheckpointError as error:
        raise FetchFailed(f"The checkpoint is the expected one and cannot be converted: {error}") from None
    finally:
        new.unlink(missing_ok=True)


def _problems(home: Path, files: Sequence[File]) -> list[str]:
    """What keeps the folder from being the official checkpoint. Raises: OSError."""
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
    """Why the converted file cannot be said to be the official checkpoint; empty if it can."""
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
    """`source`: the official files' digests by name. `conversions`: the precision of each converted file by digest."""
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
    """Why the checkpoint cannot be loaded; empty if it can. Its weights stay on the disk."""
    from worker.tsr import CheckpointError, load  # noqa: PLC0415 - as in `_convert`

    try:
        load(home)
    except CheckpointError as error:
        return str(error)
    return ""
