import os
from pathlib import Path

import pytest

from worker.core.settings import ConfigError
from worker.local.folder import own_folder


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "results"
    with own_folder(folder, "worker demo"):
        with (
            pytest.raises(ConfigError, match=rf"worker demo already runs here \(pid {os.getpid()}\)"),
            own_folder(folder, "worker demo"),
        ):
            pass
        assert (folder / ".lock").read_text() == f"{os.getpid()}\n"
    with own_folder(folder, "worker demo"):
        pass


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    with pytest.raises(ConfigError, match="it is a file"), own_folder(tmp_path / "results", "worker demo"):
        pass
