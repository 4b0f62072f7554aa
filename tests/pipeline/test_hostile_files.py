"""Untrusted files, through the decoder's own process: refused by their code, or an upright photo within the limits."""

import io
import json
import resource
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_decode import corners, picture, png, wide_profile

from worker.core import landlock
from worker.core.errors import ERRORS, JobError
from worker.pipeline.decode import decode_in_subprocess

pytestmark = pytest.mark.integration  # a process for each file

NONE, DAMAGED, PIXELS = "photo_not_an_image", "photo_broken", "photo_too_many_pixels"
FINE = "red green blue gray"  # the quadrants of `picture`, as they should come out


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(kind: str, share: float) -> bytes:
    """A photo that ends too early."""
    content = saved(Image.fromarray(np.random.default_rng(1).integers(0, 255, (200, 200, 3), np.uint8)), kind)
    return content[: int(len(content) * share)]


def animated(kind: str, frames: int = 20) -> bytes:
    # The frames differ, or an encoder would make them one.
    others = [Image.new("RGB", (160, 120), (n * 255 // frames, 0, 0)) for n in range(frames)]
    return saved(picture(), kind, save_all=True, append_images=others, duration=20)


def rotated(orientation: int, transposed: Image.Transpose) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture().transpose(transposed), "JPEG", exif=exif)


def many_codecs() -> Image.Exif:
    """Texts as cameras write them. No codec can be imported once the decoder is shut in."""
    tags = Image.Exif()
    tags[0x010E], tags[0x8298] = "ä日本", "© café"
    tags[0x9C9B] = "tïtle".encode("utf-16le")
    tags.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "äö".encode("utf-16be")
    return tags


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: few bytes each, a pass over all blocks each."""
    content = saved(Image.new("L", (6000, 6000), 128), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + b"\xff\xd9"


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("index.html", "<script>alert(1)</script>")
    return buffer.getvalue()


def rows(width: int, height: int, depth: int = 8, channels: int = 3) -> bytes:
    return bytes((1 + (width * channels * depth + 7) // 8) * height)


def sixteen_bits() -> bytes:
    wide = np.asarray(picture()).astype(">u2") * 257
    return png(160, 120, 16, 2, b"".join(b"\x00" + row.tobytes() for row in wide))


def text_chunk(name: bytes, size: int) -> tuple[bytes, bytes]:
    return name, b"x\x00\x00" + zlib.compress(bytes(size))


def with_patched_size(content: bytes, at: int, form: str, *size: int) -> bytes:
    patched = bytearray(content)
    struct.pack_into(form, patched, at, *size)
    return bytes(patched)


def cpu_of_children() -> float:
    """Seconds, of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # No photo, whatever it is called
    "text": (lambda: b"Not a picture at all, only its name says so.\n" * 10, NONE),
    "html": (lambda: b"<!doctype html><title>Sign in</title>", NONE),
    "svg": (
        lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        NONE,
    ),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", NONE),
    "pdf": (lambda: b"%PDF-1.7\n", NONE),
    "heic": (lambda: b"\x00\x00\x00\x18ftypheic" + bytes(100), NONE),
    "heic-by-another-brand": (lambda: b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic" + bytes(100), NONE),
    "zeros": (lambda: bytes(5000), NONE),
    "gif": (lambda: saved(picture(), "GIF"), NONE),
    "gif-animated": (lambda: animated("GIF"), NONE),
    "tiff": (lambda: saved(picture(), "TIFF"), NONE),
    "bmp": (lambda: saved(picture(), "BMP"), NONE),
    "ico": (lambda: saved(picture(), "ICO"), NONE),
    "jpeg-2000": (lambda: saved(picture(), "JPEG2000"), NONE),
    "zip": (zipped, NONE),
    "executable": (lambda: b"\x7fELF\x02\x01\x01" + bytes(100), NONE),
    # Broken
    "zero-bytes": (lambda: b"", DAMAGED),
    "one-byte": (lambda: b"\xff", NONE),
    "signature-alone": (lambda: b"\x89PNG\r\n\x1a\n", DAMAGED),
    "truncated-jpeg": (lambda: noise("JPEG", 0.5), DAMAGED),
    "truncated-png": (lambda: noise("PNG", 0.5), DAMAGED),
    "truncated-webp": (lambda: noise("WEBP", 0.5), DAMAGED),
    "truncated-avif": (lambda: noise("AVIF", 0.5), DAMAGED),
    "webp-of-nothing": (lambda: b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + bytes(100), DAMAGED),
    "avif-of-nothing": (
        lambda: b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf" + bytes(100),
        DAMAGED,
    ),
    "png-with-a-jpeg-s-body": (lambda: b"\x89PNG\r\n\x1a\n" + saved(picture(), "JPEG"), DAMAGED),
    "png-of-a-wrong-checksum": (lambda: saved(picture(), "PNG").replace(b"IDAT", b"IDAU"), DAMAGED),
    # Bombs
    "100-megapixels": (lambda: saved(Image.new("L", (10_000, 10_000)), "JPEG"), PIXELS),
    "100-megapixels-by-header": (
        lambda: with_patched_size(saved(picture(), "WEBP", lossless=False), 26, "<HH", 10_000, 10_000),
        PIXELS,
    ),
    "just-above-the-limit": (lambda: png(8000, 5001, 8, 2, bytes(1000)), PIXELS),
    "400-megapixels": (lambda: png(20_000, 20_000, 8, 2, bytes(1000)), PIXELS),
    "4-exapixels": (lambda: png(2**31 - 1, 2**31 - 1, 8, 2, bytes(1000)), PIXELS),
    "bomb-of-text": (lambda: png(100, 100, 8, 2, rows(100, 100), text_chunk(b"zTXt", 80_000_000)), DAMAGED),
    "bomb-of-many-texts": (
        lambda: png(100, 100, 8, 2, rows(100, 100), *[text_chunk(b"zTXt", 1_000_000)] * 100),
        DAMAGED,
    ),
    "bomb-of-a-profile": (
        lambda: png(100, 100, 8, 2, rows(100, 100), text_chunk(b"iCCP", 80_000_000)),
        DAMAGED,
    ),
    "bomb-of-rows": (lambda: png(100, 100, 8, 2, bytes(60_000_000)), "black"),
    "bomb-of-scans": (lambda: scans(3000), "photo_too_complex"),
    "tiny": (lambda: saved(Image.new("RGB", (1, 1)), "PNG"), "photo_too_small"),
    "a-line": (lambda: saved(Image.new("RGB", (2000, 63)), "PNG"), "photo_too_small"),
    # Two things at once
    "jpeg-and-zip": (lambda: saved(picture(), "JPEG") + zipped(), FINE),
    "png-and-html": (lambda: saved(picture(), "PNG") + b"<script>alert(1)</script>", FINE),
    "gif-and-jpeg": (lambda: b"GIF89a" + saved(picture(), "JPEG"), NONE),
    "pdf-and-jpeg": (lambda: b"%PDF-1.7\n" + saved(picture(), "JPEG"), NONE),
    "two-jpegs": (
        lambda: saved(picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (160, 120))]),
        FINE,  # as phones write them, with a depth map or an HDR layer behind
    ),
    # Odd, but photos
    "cmyk": (lambda: saved(picture().convert("CMYK"), "JPEG", quality=95), FINE),
    "16-bit": (sixteen_bits, FINE),
    "palette": (lambda: saved(picture().quantize(8), "PNG"), FINE),
    "palette-transparent": (lambda: saved(picture().quantize(8), "PNG", transparency=255), FINE),
    "bilevel": (lambda: saved(Image.new("1", (160, 120)), "PNG"), "black"),
    "40-megapixels": (lambda: png(8000, 5000, 1, 0, rows(8000, 5000, 1, 1)), "black"),
    "interlaced-progressive": (lambda: saved(picture(), "JPEG", progressive=True), FINE),
    "animated-png": (lambda: animated("PNG"), FINE),
    "animated-webp": (lambda: animated("WEBP"), FINE),
    "animated-avif": (lambda: animated("AVIF"), FINE),
    "exif-rotated": (lambda: rotated(6, Image.Transpose.ROTATE_90), FINE),
    "exif-mirrored": (lambda: rotated(5, Image.Transpose.TRANSPOSE), FINE),
    "exif-of-many-codecs": (lambda: saved(picture(), "JPEG", exif=many_codecs()), FINE),
    "exif-absurd": (lambda: saved(picture(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"), FINE),
    "with-icc": (
        lambda: saved(
            picture(), "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        ),
        FINE,
    ),
    "with-icc-that-matters": (
        lambda: saved(picture(), "JPEG", quality=95, icc_profile=wide_profile()),
        "green red blue gray",
    ),
    "with-icc-of-garbage": (lambda: saved(picture(), "JPEG", quality=95, icc_profile=bytes(4000)), FINE),
}


@pytest.mark.parametrize(
    ("content", "end"), HOSTILE.values(), ids=[f"hostile-file-{name}" for name in HOSTILE]
)
def test_a_stranger_s_file_ends_as_it_should(tmp_path: Path, content: Callable[[], bytes], end: str) -> None:
    file = tmp_path / "photo.webp"  # the name says nothing
    file.write_bytes(content())
    cpu_s = 1 if end == "photo_too_complex" else 10
    began = cpu_of_children()
    if end in ERRORS:
        with pytest.raises(JobError) as caught:
            decode_in_subprocess(file, cpu_s=cpu_s, wall_s=60)
        assert (caught.value.code, caught.value.retryable) == (end, False)
    else:
        image = decode_in_subprocess(file, cpu_s=cpu_s, wall_s=60)
        assert image.mode in ("RGB", "RGBA")
        assert max(image.size) <= 2048
        if end == "black":
            assert image.getextrema()[:3] == ((0, 0),) * 3
        else:
            assert " ".join(corners(image)) == end
    assert cpu_of_children() - began < cpu_s + 2
    assert list(tmp_path.iterdir()) == [file]


def test_what_needs_more_memory_than_allowed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "photo"
    file.write_bytes(png(3000, 3000, 8, 2, rows(3000, 3000)))
    assert decode_in_subprocess(file).size == (2048, 2048)
    with pytest.raises(JobError, match="photo_too_complex"):
        decode_in_subprocess(file, memory=90 << 20)


@pytest.mark.parametrize(
    ("decoder", "code"),
    [
        ("kill -SEGV $$", "photo_broken"),
        ("kill -ABRT $$", "photo_broken"),
        ("kill -KILL $$", "out_of_memory"),
        ("kill -XCPU $$", "photo_too_complex"),
        ("exec sleep 60", "photo_too_complex"),
        ("exit 1", "internal_error"),
        ("echo no JSON", "photo_broken"),
        ("exec yes", "photo_broken"),
        ('echo \'{"mode": "RGB", "size": [30000, 30000]}\'', "photo_broken"),
        ('echo \'{"mode": "CMYK", "size": [1, 1]}\'; echo xxx', "photo_broken"),
        ('echo \'{"refused": "nonsense"}\'', "photo_broken"),
        ("echo '[]'", "photo_broken"),
    ],
    ids=lambda value: f"hostile-file-makes-its-decoder-{value}" if " " in value else value,
)
def test_a_decoder_that_a_photo_has_taken_over_costs_that_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: str, code: str
) -> None:
    taken_over = tmp_path / "decoder"
    taken_over.write_text(f"#!/bin/sh\n{decoder}\n")
    taken_over.chmod(0o755)
    (tmp_path / "photo").write_bytes(saved(picture(), "JPEG"))
    monkeypatch.setattr(sys, "executable", str(taken_over))
    with pytest.raises(JobError) as caught:
        decode_in_subprocess(tmp_path / "photo", wall_s=1)
    assert caught.value.code == code


def test_a_file_that_somebody_deleted_is_not_called_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode_in_subprocess(tmp_path / "photo")


TAKEN_OVER = """
import ctypes, json, os, signal, socket, subprocess, sys
from worker.core.errors import JobError
from worker.pipeline import decoder

folder, port, parent = sys.argv.pop(), int(sys.argv.pop()), os.getppid()
address = ctypes.create_string_buffer(bytes([2, 0]) + port.to_bytes(2, "big") + bytes([127, 0, 0, 1] + [0] * 8))
libc = ctypes.CDLL(None, use_errno=True)

def fails(act):
    try:
        return act() in (-1, None) and ctypes.get_errno() != 0
    except OSError as error:
        return True

def attack(content):
    tried = {
        "read": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "write": lambda: os.open(f"{folder}/new", os.O_WRONLY | os.O_CREAT),
        "list": lambda: len(os.listdir("/")),
        "truncate": lambda: os.truncate(f"{folder}/kept", 0) or 0,
        "remove": lambda: os.unlink(f"{folder}/kept") or 0,
        "rename": lambda: os.rename(f"{folder}/kept", f"{folder}/moved") or 0,
        "link": lambda: os.symlink("/etc", f"{folder}/link") or 0,
        "folder": lambda: os.mkdir(f"{folder}/made") or 0,
        "connect": lambda: libc.connect(libc.socket(2, 1, 0), address, 16),
        "udp": lambda: libc.socket(2, 2, 0),
        "unix": lambda: libc.socket(1, 1, 0),
        "signal": lambda: os.kill(parent, 0) or 0,
        "trace": lambda: libc.ptrace(16, parent, 0, 0),
    }
    sys.stderr.write(json.dumps([name for name, act in tried.items() if not fails(act)]))
    sys.stderr.flush()
    fails(lambda: os.execv("/bin/echo", ["echo", "run"]))
    raise JobError("photo_broken")

decoder.decode_image = attack
decoder.main()
"""


def test_a_decoder_that_a_photo_has_taken_over_has_neither_files_nor_network(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [
            sys.executable,
            "-c",
            TAKEN_OVER,
            "10",
            str(1 << 30),
            str(server.getsockname()[1]),
            str(tmp_path),
        ]
        done = subprocess.run(command, input=b"photo", capture_output=True, check=False)
    # Without Landlock it can still change what it cannot open, and start a program that can open nothing either.
    left = {"truncate", "remove", "rename", "link", "folder", "signal", "trace"}
    if landlock.abi() >= landlock.SCOPES:
        left = set()
        assert done.stdout == b'{"refused": "photo_broken"}\n'
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("kept", "kept")]
    assert set(json.loads(done.stderr.splitlines()[0])) <= left
    assert b"run" not in done.stdout
