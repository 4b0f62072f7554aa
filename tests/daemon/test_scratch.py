import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.daemon.scratch import Scratch


def test_a_job_s_folder_is_gone_after_it_whatever_happens(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)

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
    crash = "import os, sys, pathlib; from worker.daemon.scratch import Scratch; s = Scratch(pathlib.Path(sys.argv[1]))\n"
    crash += "(s.folder / 'photo').write_text('x'); os._exit(1)"
    subprocess.run([sys.executable, "-c", crash, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    living = Scratch(tmp_path)
    assert [path.name.partition("-")[0] for path in tmp_path.iterdir()] == [str(os.getpid())]
    another = Scratch(tmp_path)
    assert living.folder.exists()
    living.close()
    another.close()


def test_a_link_in_the_root_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(precious)
    Scratch(root).close()
    assert precious.exists()
