"""The kinds of files that a job leaves, as far as they can be told without decoding a picture or a mesh: the daemon never does that.

A file is of its kind from its first byte to its last, so that nothing is hidden behind it, and points to nothing outside of it.
"""

import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

MOST_JSON = 1 << 20  # bytes of a GLB's description
MOST_PIXELS = 8192  # of a picture's side


class WrongKind(Exception):
    """A file is not of its kind. The message says why, for the operator."""


def check_kind(suffix: str, file: BinaryIO, size: int) -> None:
    """Check an open file of `size` bytes by its suffix, from its beginning. Raises: WrongKind; OSError if it cannot be read."""
    if size > MOST_BYTES[suffix]:
        raise WrongKind(f"it has {size} bytes")
    try:
        file.seek(0)
        _CHECKS[suffix](file, size)
    except (struct.error, ValueError, KeyError, TypeError, RecursionError, zipfile.BadZipFile) as error:
        raise WrongKind(f"it cannot be read ({type(error).__name__})") from error


def _glb(file: BinaryIO, size: int) -> None:
    magic, version, length, json_size, kind = struct.unpack("<4sIII4s", file.read(20))
    if (magic, version, length, kind) != (b"glTF", 2, size, b"JSON") or json_size > MOST_JSON:
        raise WrongKind("its header is not a GLB's")
    document = json.loads(file.read(json_size))
    binary_size, kind = struct.unpack("<I4s", file.read(8))
    if kind != b"BIN\0" or 28 + json_size + binary_size != size:
        raise WrongKind("its parts do not fill it")
    (buffer,) = document["buffers"]
    if document["asset"]["version"] != "2.0" or not document["meshes"] or buffer["byteLength"] > binary_size:
        raise WrongKind("it describes no mesh")
    for view in document["bufferViews"]:
        if (
            not 0
            <= view.get("byteOffset", 0)
            <= view.get("byteOffset", 0) + view["byteLength"]
            <= binary_size
        ):
            raise WrongKind("it describes more than it holds")
    if _has_key(document, "uri"):
        raise WrongKind("it points to another file")


def _has_key(value: Any, key: str) -> bool:
    todo = [value]
    while todo:
        match todo.pop():
            case dict() as found:
                if key in found:
                    return True
                todo += found.values()
            case list() as found:
                todo += found
    return False


def _png(file: BinaryIO, size: int) -> None:
    if file.read(8) != b"\x89PNG\r\n\x1a\n":
        raise WrongKind("its header is not a PNG's")
    at, kinds = 8, list[bytes]()
    while at < size:
        length, kind = struct.unpack(">I4s", file.read(8))
        if not kinds:
            width, height = struct.unpack(">II", file.read(8))
            if kind != b"IHDR" or not 0 < max(width, height) <= MOST_PIXELS:
                raise WrongKind("it has no size")
        kinds.append(kind)
        at += 12 + length
        file.seek(at)
    if at != size or b"IDAT" not in kinds or kinds.index(b"IEND") != len(kinds) - 1:
        raise WrongKind("it does not end where its picture ends")


def _webp(file: BinaryIO, size: int) -> None:
    riff, length, kind = struct.unpack("<4sI4s", file.read(12))
    if (riff, length + 8, kind) != (b"RIFF", size, b"WEBP"):
        raise WrongKind("its header is not a WebP's")
    at, kinds = 12, set[bytes]()
    while at < size:
        kind, length = struct.unpack("<4sI", file.read(8))
        kinds.add(kind)
        at += 8 + length + length % 2
        file.seek(at)
    if at != size or not kinds & {b"VP8 ", b"VP8L", b"ANMF"}:
        raise WrongKind("it does not end where its picture ends")


def _usdz(file: BinaryIO, _size: int) -> None:
    with zipfile.ZipFile(file) as package:
        entries = package.infolist()
    if not entries or not entries[0].filename.endswith(".usdc") or entries[0].header_offset:
        raise WrongKind("it does not begin with a layer")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or not entry.filename.endswith((".usdc", ".jpg")):
            raise WrongKind("it holds something else than layers and pictures")


MOST_BYTES: Mapping[str, int] = {
    ".glb": 64_000_000,
    ".png": 32_000_000,
    ".webp": 16_000_000,
    ".usdz": 64_000_000,
}
"""More than the largest that the pipeline makes."""

_CHECKS: Mapping[str, Callable[[BinaryIO, int], None]] = {
    ".glb": _glb,
    ".png": _png,
    ".webp": _webp,
    ".usdz": _usdz,
}
