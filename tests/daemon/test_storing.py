"""What a child leaves is copied and checked before anybody sees it, and nothing else is: no link, no other kind, no more."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tiny

from worker.core.errors import JobError
from worker.core.settings import Settings
from worker.daemon import kinds, storing
from worker.daemon.storing import FileRefused, Version
from worker.jobs.queue import Job
from worker.storage import beneath
from worker.storage.local import LocalStore

JOB = cast("Job", SimpleNamespace(shop="a.example", product_id="1", variant_id=None))
GOOD = {
    "cutout.png": tiny.png(b"cutout"),
    "poster.png": tiny.png(b"poster"),
    "turntable.webp": tiny.webp(b"turn"),
    "model.usdz": tiny.usdz(b"layer"),
    "model.glb": tiny.glb(b"model"),
}
SETTINGS = Settings().model_copy(update={"turntable": True, "usdz": True})


@dataclass
class Left:
    """The child's folder, with good files at first, and ours."""

    given: Path
    made: int
    ours: Path

    def collect(self) -> Version:
        return storing.collect(JOB, self.made, self.ours, SETTINGS)


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    given, ours = tmp_path / "lane" / "job", tmp_path / "ours"
    given.mkdir(parents=True)
    ours.mkdir()
    for name, content in GOOD.items():
        (given / name).write_bytes(content)
    with beneath.opened(given) as made:
        yield Left(given, made, ours)


def test_the_files_are_copied_with_their_hashes(left: Left) -> None:
    version = left.collect()
    for ending, name in ((".glb", "model.glb"), (".cutout.png", "cutout.png"), (".usdz", "model.usdz")):
        assert version.files[ending] == left.ours / name
        assert version.files[ending].read_bytes() == GOOD[name]
        assert version.hashes[ending] == hashlib.sha256(GOOD[name]).hexdigest()
    assert sorted(path.name for path in left.ours.iterdir()) == sorted(GOOD)


def test_what_is_checked_is_what_is_stored_whatever_the_child_does_then(left: Left, tmp_path: Path) -> None:
    kept_open = (left.given / "model.glb").open("r+b")
    with kept_open:
        version = left.collect()
        kept_open.write(b"planted")  # through a file that was open before the copy
    (left.given / "poster.png").write_bytes(b"planted")
    left.given.rename(left.given.with_name("moved"))
    left.given.mkdir()
    (left.given / "model.glb").write_bytes(b"planted")
    urls = storing.upload(LocalStore(tmp_path / "store"), version, lambda: None, lambda: None)
    stored = {Path(url).suffix: Path(url.removeprefix("file://")) for url in urls.values()}
    assert stored[".glb"].read_bytes() == GOOD["model.glb"]
    for path in (tmp_path / "store").rglob("*.*"):
        assert path.is_dir() or b"planted" not in path.read_bytes()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the daemon's user that is of the right kind, say another shop's model."""
    secret = tmp_path / "other.glb"
    secret.write_bytes(tiny.glb(b"another shop's"))
    return secret


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda file, secret: file.symlink_to(secret),
    "relative-link": lambda file, _: file.symlink_to("../../other.glb"),
    "hard-link": lambda file, secret: file.hardlink_to(secret),
    "fifo": lambda file, _: os.mkfifo(file),
    "socket": lambda file, _: os.mknod(file, 0o140600),
    "device": lambda file, _: file.symlink_to("/dev/zero"),
    "folder": lambda file, _: file.mkdir(),
    "link-to-itself": lambda file, _: file.symlink_to(file),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=list(PLANTED))
def test_nothing_but_a_file_of_the_child_s_own_is_taken(
    left: Left, secret: Path, plant: Callable[[Path, Path], object]
) -> None:
    (left.given / "model.glb").unlink()
    plant(left.given / "model.glb", secret)
    outcome: list[Exception] = []

    def collect() -> None:
        try:
            left.collect()
        except Exception as error:  # noqa: BLE001 - whatever it is
            outcome.append(error)

    thread = threading.Thread(target=collect, daemon=True)  # a FIFO must hold nobody up
    thread.start()
    thread.join(60)
    assert [type(error) for error in outcome] == [FileRefused]
    assert not (left.ours / "model.glb").exists()


def test_a_folder_that_became_a_link_is_not_followed(left: Left, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in GOOD:
        (elsewhere / name).write_bytes(tiny.glb(b"another shop's"))
    left.given.rename(left.given.with_name("moved"))
    left.given.symlink_to(elsewhere)
    assert left.collect().hashes[".glb"] == hashlib.sha256(GOOD["model.glb"]).hexdigest()


def test_a_file_that_somebody_deleted_is_not_the_child_s_fault(left: Left) -> None:
    (left.given / "poster.png").unlink()
    with pytest.raises(JobError, match="temp_unavailable"):
        left.collect()


def parts(content: bytes) -> tuple[bytes, bytes]:
    return content[: len(content) // 2], content[len(content) // 2 :]


WRONG: dict[str, tuple[str, bytes]] = {
    "empty": ("model.glb", b""),
    "text": ("model.glb", b"DATABASE_URL=postgresql://a:secret@b/c\n" * 10),
    "png-as-glb": ("model.glb", tiny.png()),
    "glb-cut": ("model.glb", parts(tiny.glb(b"x" * 100))[0]),
    "glb-and-more": ("model.glb", tiny.glb() + b"<script>"),
    "glb-with-a-longer-header": ("model.glb", tiny.glb().replace(b"glTF\x02\0\0\0", b"glTF\x01\0\0\0")),
    "glb-of-no-mesh": ("model.glb", tiny.glb(meshes=[])),
    "glb-of-two-buffers": ("model.glb", tiny.glb(buffers=[{"byteLength": 0}] * 2)),
    "glb-that-loads-a-buffer": (
        "model.glb",
        tiny.glb(buffers=[{"byteLength": 0, "uri": "https://evil.example/"}]),
    ),
    "glb-that-loads-a-picture": (
        "model.glb",
        tiny.glb(images=[{"u\u0072i": "https://evil.example/pixel.png"}]),
    ),
    "glb-that-loads-by-an-extension": ("model.glb", tiny.glb(extensions={"A": [{"uri": "//evil.example"}]})),
    "glb-beyond-its-end": ("model.glb", tiny.glb(b"1234", bufferViews=[{"byteOffset": 0, "byteLength": 5}])),
    "glb-before-its-beginning": (
        "model.glb",
        tiny.glb(b"1234", bufferViews=[{"byteOffset": -1, "byteLength": 1}]),
    ),
    "glb-nested-without-end": (
        "model.glb",
        tiny.glb(extras="x" * 200_000).replace(b'"' + b"x" * 200_000 + b'"', b"[" * 200_002),
    ),
    "glb-as-png": ("poster.png", tiny.glb()),
    "png-cut": ("poster.png", parts(tiny.png(b"x" * 100))[0]),
    "png-and-more": ("poster.png", tiny.png() + b"<script>alert(1)</script>"),
    "png-that-is-huge": ("poster.png", tiny.png(side=100_000)),
    "png-without-a-picture": ("poster.png", tiny.png().replace(b"IDAT", b"IDAU")),
    "png-twice": ("cutout.png", tiny.png() * 2),
    "html-as-webp": ("turntable.webp", b"<!doctype html><title>Sign in</title>"),
    "webp-and-more": ("turntable.webp", tiny.webp() + b"<script>"),
    "wave-as-webp": ("turntable.webp", tiny.webp().replace(b"WEBP", b"WAVE")),
    "webp-without-a-picture": ("turntable.webp", tiny.webp().replace(b"VP8L", b"VP8X")),
    "text-as-usdz": ("model.usdz", b"#usda 1.0"),
    "usdz-after-something-else": ("model.usdz", b"<html>" + tiny.usdz()),
    "zip-of-a-program": ("model.usdz", tiny.usdz().replace(b"model.usdc", b"model.html")),
}


@pytest.mark.parametrize(("name", "content"), WRONG.values(), ids=list(WRONG))
def test_a_file_of_another_kind_is_refused(left: Left, name: str, content: bytes) -> None:
    (left.given / name).write_bytes(content)
    with pytest.raises(FileRefused, match=name):
        left.collect()
    assert not (left.ours / name).exists()


def test_a_file_without_end_fills_no_disk(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "MOST_BYTES", dict.fromkeys(kinds.MOST_BYTES, 2_000_000))
    os.truncate(left.given / "model.glb", 1 << 40)  # sparse: it costs the child nothing
    with pytest.raises(FileRefused, match="too large"):
        left.collect()
    assert not any(path.name.endswith(".part") for path in left.ours.iterdir())


def test_the_largest_that_the_kinds_allow_is_read(left: Left) -> None:
    large: dict[str, Any] = {
        "model.glb": tiny.glb(bytes(9_000_000)),
        "poster.png": tiny.png(bytes(3_000_000)),
    }
    for name, content in large.items():
        (left.given / name).write_bytes(content)
    version = left.collect()
    assert version.files[".glb"].read_bytes() == large["model.glb"]
