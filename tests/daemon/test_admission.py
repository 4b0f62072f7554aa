"""When jobs may be claimed: the folders of running jobs and of models, with the reason for people and one line in the log."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from worker.daemon.admission import MIN_FREE_FILES, Admission
from worker.daemon.scratch import Scratch
from worker.storage.local import LocalStore


@pytest.fixture
def admission(tmp_path: Path) -> Iterator[Admission]:
    scratch = Scratch(tmp_path / "tmp")
    scratch.open()
    yield Admission(LocalStore(tmp_path / "store"), scratch, tmp_path / "store", 0)
    scratch.close()


@pytest.mark.parametrize(
    ("folder", "trouble", "recovery", "problem"),
    [
        ("tmp", "temp_unavailable", "disk_recovered", "WORKER_TEMP_DIR cannot be used: "),
        ("store", "store_unavailable", "store_recovered", "WORKER_STORAGE_DIR cannot be written: "),
    ],
)
def test_a_folder_that_cannot_be_used_closes_it_with_one_line_until_the_folder_is_back(
    admission: Admission, tmp_path: Path, folder: str, trouble: str, recovery: str, problem: str
) -> None:
    place = tmp_path / folder
    with capture_logs() as lines:
        assert admission.check()
        shutil.rmtree(place)
        assert admission.check(), "a folder that is only missing is made anew"
        shutil.rmtree(place)
        place.touch()
        assert [admission.check() for _ in range(3)] == [False] * 3
        assert not admission.is_open
        assert admission.folder_problem.startswith(problem)
        place.unlink()
        assert admission.check()
        assert admission.folder_problem == ""
    assert [line["event"] for line in lines] == [trouble, recovery]


def test_a_disk_without_room_for_more_files_closes_it(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(f_bavail=10**9, f_frsize=4096, f_files=10**6, f_favail=MIN_FREE_FILES)
    monkeypatch.setattr("worker.daemon.admission.os.statvfs", lambda _: free)
    assert admission.check()
    free.f_favail -= 1
    with capture_logs() as lines:
        assert not admission.check()
    assert lines[0]["free_files"] == MIN_FREE_FILES - 1
    assert "99 more files" in admission.folder_problem
    free.f_files = free.f_favail = 0  # as btrfs, which has no such number
    assert admission.check()


def test_an_idle_daemon_notices_too_but_does_not_touch_the_disk_each_second(
    admission: Admission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission.recheck()
    shutil.rmtree(tmp_path / "tmp")
    (tmp_path / "tmp").touch()
    admission.recheck()
    assert admission.is_open
    monkeypatch.setattr("worker.daemon.admission.RECHECK_S", 0)
    admission.recheck()
    assert not admission.is_open
