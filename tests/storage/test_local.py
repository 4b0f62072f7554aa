import errno
import fcntl
import hashlib
import os
import resource
import shutil
import signal
from pathlib import Path
from urllib.request import urlopen

import pytest

from worker.core.errors import ERRORS, JobError
from worker.local.server import serve_folder
from worker.storage import NotStored, StoreUnreachable
from worker.storage.local import LocalStore

GLB = "model/gltf-binary"
VERSION = "v.0123456789abcdef0123456789abcdef"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store", "http://models.example/")
    source = tmp_path / "model"
    addresses = []
    for content in (b"first", b"second"):
        source.write_bytes(content)
        addresses.append(store.put("a/1.glb", source, GLB))
        assert (tmp_path / "store/a/1.glb").read_bytes() == content
    assert addresses == ["http://models.example/a/1.glb"] * 2
    assert [path.name for path in (tmp_path / "store/a").iterdir()] == ["1.glb"]
    assert (tmp_path / "store/a/1.glb").stat().st_mode & 0o444 == 0o444


def test_without_a_server_the_address_is_the_file_s(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"x")
    address = LocalStore(tmp_path / "my store").put("a/1.glb", tmp_path / "model", GLB)
    assert address.startswith("file:///")
    assert address.endswith("my%20store/a/1.glb")


def test_a_file_is_fetched_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    copy = tmp_path / "copies" / "model.glb"
    copy.parent.mkdir()
    with pytest.raises(NotStored):
        store.fetch("a/1.glb", copy)
    (tmp_path / "model").write_bytes(b"x" * 60)
    store.put("a/1.glb", tmp_path / "model", GLB)
    store.fetch("a/1.glb", copy)
    assert copy.read_bytes() == b"x" * 60
    copy.unlink()

    def full(_reader: object, _writer: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(JobError, match="no_space"):
        store.fetch("a/1.glb", copy)
    monkeypatch.setattr("worker.storage.local.MAX_BYTES", 59)
    with pytest.raises(JobError, match="storage_too_large"):
        store.fetch("a/1.glb", copy)
    assert list(copy.parent.iterdir()) == []


def test_a_stored_file_is_located_by_its_hash(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    file = tmp_path / "model.glb"
    file.write_bytes(b"glTF")
    digest = hashlib.sha256(b"glTF").hexdigest()
    with pytest.raises(NotStored):
        store.locate("a/1.glb", digest)
    url = store.put("a/1.glb", file, "model/gltf-binary")
    assert store.locate("a/1.glb", digest) == url
    with pytest.raises(NotStored):
        store.locate("a/1.glb", "0" * 64)


def test_what_is_stored_is_served_with_its_type(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"glTF")
    with serve_folder(tmp_path / "store", tmp_path / "webhooks.jsonl") as server:
        address = LocalStore(tmp_path / "store", server.url).put("a/=C3=A9/1.glb", tmp_path / "model", GLB)
        with urlopen(address) as answer:
            assert (answer.read(), answer.headers["content-type"]) == (b"glTF", GLB)


def test_a_store_that_cannot_be_written_is_worth_another_try(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "store" / "a").write_text("a file where a folder should be")
    (tmp_path / "model").write_bytes(b"x")
    with pytest.raises(JobError) as error:
        store.put("a/1.glb", tmp_path / "model", GLB)
    assert (error.value.code, error.value.retryable) == ("storage_unavailable", True)
    assert error.value.message == ERRORS["storage_unavailable"].message
    assert f"{tmp_path}/store/a" in str(error.value), (
        "the operator needs the cause, not the merchant's sentence"
    )


def test_a_full_disk_leaves_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "model").write_bytes(b"old")
    store.put("a/1.glb", tmp_path / "model", GLB)
    (tmp_path / "model").write_bytes(b"new")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JobError) as error:
        store.put("a/1.glb", tmp_path / "model", GLB)
    assert (error.value.code, error.value.retryable) == ("no_space", True)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "store/a").iterdir()] == [
        ("1.glb", b"old")
    ]


def test_a_file_that_the_disk_does_not_take_is_too_large(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "model").write_bytes(b"x" * 100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(JobError) as error:
            store.put("a/1.glb", tmp_path / "model", GLB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (error.value.code, error.value.retryable) == ("storage_too_large", False)
    assert store.find("a") == []


def test_find_and_remove_know_a_product_from_its_neighbours(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    ours = [
        "s/1.cutout.png",
        "s/1.glb",
        "s/1.png",
        "s/1/4.glb",
        "s/1/.4.glb.draft",
        "s/.1.glb.draft",
        "s/1.usdz",
        f"s/1/{VERSION}.glb",
        f"s/1/.{VERSION}.png.draft",
        "s/1/v.glb",
    ]
    others = ["s/12.glb", "s/11/1.glb", "s2/1.glb"]
    for path in ours + others:
        (tmp_path / "store" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "store" / path).touch()
    assert store.find("s/1") == sorted(ours)
    assert store.find("s/1/4") == ["s/1/.4.glb.draft", "s/1/4.glb"]
    assert store.find("s") == sorted([*ours, "s/12.glb", "s/11/1.glb"])
    assert store.find("s/1/v") == ["s/1/v.glb"], "a variant of this name, and no version"
    assert store.find(f"s/1/{VERSION}") == [f"s/1/.{VERSION}.png.draft", f"s/1/{VERSION}.glb"]
    assert store.find("nobody/1") == []
    store.remove([*ours, "s/missing.glb"])
    assert store.find("s") == ["s/11/1.glb", "s/12.glb"]
    assert not (tmp_path / "store/s/1").exists()
    store.remove(store.find("s"))
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["s2"]


def test_the_draft_of_a_process_that_was_killed_goes_with_the_next_file_and_that_of_a_living_one_stays(
    tmp_path: Path,
) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "model").write_bytes(b"x")
    store.put("a/1.glb", tmp_path / "model", GLB)
    dead, living, other = (tmp_path / f"store/a/.1.{name}" for name in ("glb.dead", "glb.living", "png.dead"))
    for draft in (dead, other):
        draft.touch()
    with living.open("wb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        store.put("a/1.glb", tmp_path / "model", GLB)
        assert {file.name for file in (tmp_path / "store/a").iterdir()} == {"1.glb", living.name, other.name}
    store.remove(["a/1.png", "a/1.glb"])
    assert not (tmp_path / "store/a").exists()


def test_a_folder_is_tried_out_and_left_as_it_was(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    assert store.check() == []
    assert list((tmp_path / "store").iterdir()) == []
    (tmp_path / "store").rmdir()
    assert store.check() == []
    (tmp_path / "store").rmdir()
    (tmp_path / "store").touch()
    with pytest.raises(StoreUnreachable, match="WORKER_STORAGE_DIR cannot be written"):
        store.check()


def test_who_may_read_a_file_may_enter_its_folders_under_the_unit_s_umask(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"x")
    before = os.umask(0o027)
    try:
        LocalStore(tmp_path / "models" / "site").put("s.example/1/2.glb", tmp_path / "model", GLB)
    finally:
        os.umask(before)
    folder = tmp_path / "models"
    modes = {path.relative_to(folder).as_posix(): path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    assert modes == {
        "site": 0o755,
        "site/s.example": 0o755,
        "site/s.example/1": 0o755,
        "site/s.example/1/2.glb": 0o644,
    }


def test_files_that_do_not_fit_on_the_disk_together_are_refused_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "model").write_bytes(b"x" * 60)
    files = [(tmp_path / "model", GLB)] * 2
    store.check_files(files)
    (tmp_path / "store").rmdir()
    store.check_files(files)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(JobError) as error:
        store.check_files(files)
    assert (error.value.code, error.value.retryable) == ("no_space", True)
