import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from worker import tsr, weights
from worker.cli.app import execute
from worker.local.server import in_background
from worker.weights import (
    FetchFailed,
    NotOfficial,
    SourceUnreachable,
    WeightsMissing,
    WrongContent,
    transfer,
    triposr,
)
from worker.weights.triposr import File

TINY = Path(__file__).parents[1] / "data" / "tsr-tiny"


def pinned(folder: Path) -> tuple[File, ...]:
    return tuple(
        File(
            name=name,
            size=(folder / name).stat().st_size,
            digest="sha256:" + hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        )
        for name in ("config.yaml", "dino_config.json", "model.ckpt")
    )


FILES = pinned(TINY)
fetch = partial(triposr.fetch, files=FILES)
verify = partial(triposr.verify, files=FILES)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint's three files, to spoil."""
    folder = tmp_path / "source"
    folder.mkdir()
    for file in FILES:
        shutil.copy(TINY / file.name, folder)
    return folder


@pytest.fixture
def mirror(source: Path) -> Iterator[str]:
    """The same over HTTP, from a server that knows no ranges."""
    with in_background(
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(source)))
    ) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE_S", 0)


def files(folder: Path) -> set[str]:
    return {file.name for file in (folder / "triposr").iterdir()}


CONVERTED = {"config.yaml", "dino_config.json", "model.safetensors", "provenance.json"}


def test_from_a_mirror_fetched_converted_proved_and_fetched_no_more(tmp_path: Path, mirror: str) -> None:
    seen: list[tuple[int, int | None]] = []
    home = fetch(tmp_path, source=mirror, on_progress=lambda done, total: seen.append((done, total)))
    assert home == verify(tmp_path) == weights.path(tmp_path, "triposr") == tmp_path / "triposr"
    assert files(tmp_path) == CONVERTED
    assert seen[-1] == (FILES[-1].size, FILES[-1].size)
    assert sum(each.numel() for each in tsr.load(home).parameters()) > 90_000
    fetch(tmp_path, source="http://127.0.0.1:1")


def test_from_a_folder_without_a_second_copy_and_with_keep_with_one(tmp_path: Path, source: Path) -> None:
    fetch(tmp_path / "a", source=str(source))
    assert files(tmp_path / "a") == CONVERTED
    fetch(tmp_path / "b", source=str(source), keep=True)
    assert files(tmp_path / "b") == CONVERTED | {"model.ckpt"}
    verify(tmp_path / "b")
    assert {file.name for file in source.iterdir()} == {file.name for file in FILES}


def test_half_precision_from_the_start_and_afterwards(tmp_path: Path) -> None:
    fetch(tmp_path / "a", source=str(TINY), half=True)
    fetch(tmp_path / "b", source=str(TINY))
    whole = (tmp_path / "b/triposr/model.safetensors").stat().st_size
    fetch(tmp_path / "b", source="http://127.0.0.1:1", half=True)
    sizes = {(tmp_path / name / "triposr/model.safetensors").stat().st_size for name in "ab"}
    assert len(sizes) == 1
    assert max(sizes) < whole
    fetch(tmp_path / "b", source="http://127.0.0.1:1")  # is not made whole again
    assert set(
        json.loads((verify(tmp_path / "b") / "provenance.json").read_text())["conversions"].values()
    ) == {
        "float32",
        "float16",
    }


def test_an_interrupted_fetch_is_told_and_goes_on(tmp_path: Path, mirror: str) -> None:
    home = tmp_path / "triposr"
    home.mkdir()
    (home / ".model.ckpt.part").write_bytes((TINY / "model.ckpt").read_bytes()[:200_000])
    with pytest.raises(WeightsMissing, match=r"200,000 bytes of the latter .* worker weights fetch triposr"):
        verify(tmp_path)
    fetch(tmp_path, source=mirror)
    assert files(tmp_path) == CONVERTED


def test_a_conversion_that_was_killed_is_done_again_without_a_download(tmp_path: Path, source: Path) -> None:
    shutil.copytree(source, tmp_path / "triposr")
    (tmp_path / "triposr" / ".model.safetensors.new").write_bytes(bytes(1000))
    verify(tmp_path)
    fetch(tmp_path, source="http://127.0.0.1:1")
    assert files(tmp_path) == CONVERTED


def test_wrong_content_says_whose_word_the_checksum_is(tmp_path: Path, source: Path, mirror: str) -> None:
    content = bytearray((source / "model.ckpt").read_bytes())
    content[-1000] ^= 1
    (source / "model.ckpt").write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    for origin in (mirror, str(source)):
        with pytest.raises(WrongContent) as caught:
            fetch(tmp_path, source=origin)
        message = str(caught.value)
        assert f"sha256 {found} instead of {FILES[-1].digest.removeprefix('sha256:')}" in message
        assert "public projects pin; this project could not confirm them" in message
        assert "from another source (--from)" in message
        assert "\n" not in message
    assert "model.ckpt" not in files(tmp_path)


@pytest.mark.parametrize(
    ("url", "error", "reason"),
    [
        ("http://127.0.0.1:1", SourceUnreachable, "refused.*--from URL.*--from FOLDER"),
        ("{mirror}/nothing", FetchFailed, "answered 404.*--from FOLDER"),
        ("ftp://host/", FetchFailed, "neither a folder nor a URL"),
        ("no/such/folder", FetchFailed, r"has no config\.yaml\. It must hold"),
    ],
)
def test_a_source_of_no_use_says_what_helps(
    tmp_path: Path, mirror: str, url: str, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        fetch(tmp_path, source=url.format(mirror=mirror))


def test_a_pointer_of_git_lfs_is_told(tmp_path: Path, source: Path) -> None:
    (source / "model.ckpt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:42\n")
    with pytest.raises(WrongContent, match="git lfs pull"):
        fetch(tmp_path, source=str(source))


def test_the_room_for_the_conversion_too_is_asked_for_beforehand(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=500_000))
    with pytest.raises(FetchFailed, match=r"500,000 bytes free, and 865,252 are needed"):
        fetch(tmp_path, source=mirror)
    assert files(tmp_path) == set()


def test_another_checkpoint_is_told_and_never_overwritten(tmp_path: Path, source: Path) -> None:
    home = tmp_path / "triposr"
    shutil.copytree(source, home)
    (home / "model.ckpt").unlink()
    shutil.copy(TINY / "model.safetensors", home)
    with pytest.raises(NotOfficial, match=r"was not converted here.* It loads, and the worker can use it"):
        verify(tmp_path)
    with pytest.raises(NotOfficial, match=r"config\.yaml has 899 bytes instead of 987.*dino_config\.json"):
        weights.verify(tmp_path, "triposr")
    before = (home / "model.safetensors").read_bytes()
    with pytest.raises(FetchFailed, match="It is not overwritten: move it away"):
        fetch(tmp_path, source=str(source))
    with pytest.raises(FetchFailed, match=r"dino_config\.json is of another checkpoint"):
        weights.fetch(tmp_path, "triposr")
    assert (home / "model.safetensors").read_bytes() == before


def test_damage_after_the_conversion_is_found(tmp_path: Path) -> None:
    home = fetch(tmp_path, source=str(TINY))
    converted = home / "model.safetensors"
    content = bytearray(converted.read_bytes())
    content[-1] ^= 1
    converted.write_bytes(content)
    with pytest.raises(NotOfficial, match="which no conversion on record gave"):
        verify(tmp_path)


def test_a_truncated_file_is_told_and_mended(tmp_path: Path) -> None:
    converted = fetch(tmp_path, source=str(TINY)) / "model.safetensors"
    converted.write_bytes(converted.read_bytes()[:-1000])
    with pytest.raises(WeightsMissing, match=r"cannot be loaded: .*Run: worker weights fetch") as caught:
        verify(tmp_path)
    assert not isinstance(caught.value, NotOfficial)
    fetch(tmp_path, source=str(TINY))
    verify(tmp_path)


Command = Callable[..., int]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`worker weights …`, for which the tiny checkpoint is the official one; its exit code."""
    monkeypatch.setenv("WORKER_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("WORKER_ENGINE", "triposr")
    monkeypatch.setenv("WORKER_BACKGROUND_MODEL", "u2netp")
    monkeypatch.setattr(triposr, "FILES", FILES)

    def run(*words: str) -> int:
        return execute(["weights", *words])

    return run


def test_the_commands_from_missing_to_verified(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("verify", "triposr") == 78
    assert "worker weights fetch triposr" in capsys.readouterr().err
    assert command("fetch", "triposr", "--from", str(TINY)) == 0
    assert command("verify", "triposr") == 0
    assert "triposr: verified" in capsys.readouterr().err
    assert command("path") == 0
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "weights/models/u2netp/u2netp.onnx"),
        str(tmp_path / "weights/triposr"),
    ]
    assert command("verify", "--json") == 78
    report = json.loads(capsys.readouterr().out)
    assert report["triposr"] == {
        "verified": True,
        "usable": True,
        "path": str(tmp_path / "weights/triposr"),
    }
    assert report["u2netp"]["verified"] is False


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("fetch", "triposr", "--from", "http://127.0.0.1:1"), 75),
        (("fetch", "triposr", "--from", "no/such/folder"), 78),
        (("fetch", "--from", "http://127.0.0.1:1"), 2),
        (("fetch", "tripsr"), 2),
        (("path", "tripsr"), 2),
    ],
)
def test_the_commands_exit_with_what_a_supervisor_understands(
    command: Command, words: tuple[str, ...], code: int
) -> None:
    assert command(*words) == code


def test_the_command_line_imports_torch_for_no_other_command() -> None:
    code = "import sys, worker.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
