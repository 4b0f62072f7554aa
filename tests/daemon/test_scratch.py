import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from places import NOBODY

from worker.daemon.scratch import Scratch


def open_scratch(root: Path) -> Scratch:
    scratch = Scratch(root)
    scratch.open()
    return scratch


def test_a_job_s_folder_is_gone_after_it_whatever_happens(tmp_path: Path) -> None:
    scratch = open_scratch(tmp_path)

    def crash() -> None:
        with scratch.job("1") as folder:
            (folder / "photo").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    assert [path.name for path in scratch.folder.iterdir()] == [".lock"]
    scratch.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_left_is_swept_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    crash = "import os, sys, pathlib; from worker.daemon.scratch import Scratch; s = Scratch(pathlib.Path(sys.argv[1])); s.open()\n"
    crash += "(s.folder / 'photo').write_text('x'); os._exit(1)"
    subprocess.run([sys.executable, "-c", crash, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    living = open_scratch(tmp_path)
    assert [path.name.partition("-")[0] for path in tmp_path.iterdir()] == [str(os.getpid())]
    another = open_scratch(tmp_path)
    assert living.folder.exists()
    living.close()
    another.close()


def test_a_link_in_the_root_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(precious)
    open_scratch(root).close()
    assert precious.exists()


@pytest.mark.parametrize("gone", ["root", "folder", "lock"])
def test_a_folder_that_somebody_deleted_is_made_anew_and_no_other_daemon_sweeps_it(
    tmp_path: Path, gone: str
) -> None:
    root = tmp_path / "root"
    scratch = open_scratch(root)
    with scratch.job("1") as running:
        if gone == "lock":
            (scratch.folder / ".lock").unlink()
        else:
            shutil.rmtree(root if gone == "root" else scratch.folder)
        scratch.ensure()
        another = open_scratch(root)
        assert scratch.folder.exists()
        assert running.exists() == (gone == "lock"), "a job that runs keeps its folder"
        with scratch.job("2") as folder:
            assert folder.is_dir()
    assert [path.name for path in scratch.folder.iterdir()] == [".lock"]
    another.close()
    scratch.close()
    assert list(root.iterdir()) == []


def test_a_job_s_folder_that_was_away_at_its_end_is_deleted_when_it_is_back(tmp_path: Path) -> None:
    scratch = open_scratch(tmp_path / "root")
    with scratch.job("1") as folder:
        (folder / "photo").write_text("x")
        (tmp_path / "root").rename(tmp_path / "away")
    (tmp_path / "away").rename(tmp_path / "root")
    assert folder.exists()
    scratch.ensure()
    assert [path.name for path in scratch.folder.iterdir()] == [".lock"]
    scratch.close()


def test_a_folder_that_another_daemon_swept_and_locked_is_left_to_it(tmp_path: Path) -> None:
    scratch = open_scratch(tmp_path)
    swept = scratch.folder
    (swept / ".lock").unlink()
    with (swept / ".lock").open("w") as lock:  # as another daemon's sweep does, before it deletes the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        scratch.ensure()
    assert scratch.folder != swept
    scratch.close()


def test_a_lane_s_folder_is_made_anew_with_all_above_it(tmp_path: Path) -> None:
    scratch = open_scratch(tmp_path / "root")
    before = scratch.lane("MIG-1/0")
    assert scratch.lane("MIG-1/0") == before
    shutil.rmtree(tmp_path / "root")
    assert scratch.lane("MIG-1/0").is_dir()
    shutil.rmtree(tmp_path / "root")
    (tmp_path / "root").touch()
    with pytest.raises(NotADirectoryError):
        scratch.lane("MIG-1/0")
    scratch.close()


def bury(folder: Path, precious: Path) -> None:
    """Make folders in folders, deeper than Python recurses, as only a child does that a photo has taken over."""
    above = os.open(folder, os.O_RDONLY)
    for _ in range(1050):
        os.mkdir("a", dir_fd=above)
        inner = os.open("a", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = inner
    os.symlink(precious, "link", dir_fd=above)
    os.mkdir("locked", 0, dir_fd=above)
    os.close(above)


@contextmanager
def files_as_an_ordinary_user() -> Iterator[None]:
    """Give this thread the rights to files that a user has who is not root."""
    libc = ctypes.CDLL(None)
    before = libc.setfsuid(os.geteuid() or NOBODY)
    try:
        yield
    finally:
        libc.setfsuid(before)


@pytest.mark.parametrize("ends", ["the job", "the daemon"])
def test_folders_in_folders_without_end_are_removed(memory: Path, ends: str) -> None:
    place = memory / ends  # thousands of changes take seconds on a busy disk
    (place / "precious").mkdir(parents=True)
    (place / "precious" / "file").touch()
    if os.geteuid() == 0:
        shutil.chown(place, NOBODY)
    with files_as_an_ordinary_user():
        scratch = open_scratch(place / "root")
        if ends == "the job":
            with scratch.job("1", "cpu.0") as folder:
                bury(folder, place / "precious")
            assert list(scratch.lane("cpu.0").iterdir()) == []
        else:
            bury(scratch.lane("cpu.0"), place / "precious")
        scratch.close()
    assert list((place / "root").iterdir()) == []
    assert (place / "precious" / "file").exists()
