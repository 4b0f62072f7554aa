"""The installed programs where a newcomer may start them: private folders, other users, odd mounts and environments."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from conftest import until
from places import (
    NOBODY,
    PACKAGES,
    as_user,
    copy_weights,
    environment_with,
    private_python,
    require_mounts,
    require_readable,
    run_command,
    with_mounts,
)

from worker.local.postgres import remove_server

# What the embedded Postgres does in every start of `worker dev`, at a fraction of the time.
SERVE = """
import sys
from pathlib import Path
import psycopg
from worker.local.postgres import remove_server, start_server
folder = Path(sys.argv[1])
server = start_server(folder)
try:
    # Parallel workers share memory, which needs /dev/shm unless it is set otherwise.
    with psycopg.connect(server.url()) as connection:
        connection.execute("SET debug_parallel_query = on")
        print("answered", connection.execute("SELECT count(*) FROM pg_class").fetchone()[0] > 0)
        print("programs", server.binaries)
finally:
    server.stop()
    remove_server(folder)
"""


@dataclass
class Dev:
    """A running `worker dev`."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def url(self, name: str) -> str:
        """The URL that it printed behind `name`."""
        found = re.search(rf"^\s*{name}\s.*?(http\S+)", self.log.read_text(encoding="utf-8"), re.MULTILINE)
        assert found
        return found[1]


@contextmanager
def start_dev(command: Sequence[str | Path], log: Path, **environment: str) -> Iterator[Dev]:
    """Run `worker dev` until it says that it runs, and end it by Ctrl-C."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-m", "worker", "dev", "--port", "0"],
            env=environment_with(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    dev = Dev(process, log)
    try:
        until(
            lambda: "is running" in log.read_text(encoding="utf-8") or process.poll() is not None,
            120,
            "a start",
        )
        assert process.poll() is None, log.read_text(encoding="utf-8")
        yield dev
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user can enter: pytest's own are private."""
    with TemporaryDirectory(prefix="first-hour-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def python(place: Path) -> Path:
    """The interpreter of a worker that lies in a private folder with a name that nobody expects."""
    return private_python(place / "privé [商店] $HOME's")


@pytest.fixture
def closed(place: Path) -> Iterator[Path]:
    """An empty private folder."""
    with TemporaryDirectory(dir=place) as name:
        yield Path(name)


def test_worker_dev_runs_in_a_private_folder_without_a_home_or_a_locale(
    python: Path, closed: Path, u2netp: Path
) -> None:
    temporary = closed / ("long " * 30)  # more than the 108 bytes that the path of a Unix socket may have
    temporary.mkdir()
    folder = closed / "it's a $HOME [商店]"
    environment = {
        "HOME": "",
        "LANG": "",
        "LC_ALL": "C",
        "PYTHONUTF8": "",
        "TMPDIR": str(temporary),
        "WORKER_DEV_DIR": str(folder),
        "WORKER_WEIGHTS_DIR": str(u2netp),
    }
    try:
        with start_dev(
            ["sh", "-c", 'umask 077; exec "$0" "$@"', python], closed / "log", **environment
        ) as dev:
            assert "Log out" in httpx.get(dev.url("dashboard"), follow_redirects=True).text
            written = [folder / name for name in (".lock", "dev.env", "postgres/postgres-port")]
            before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in written]
            code, said = run_command([python, "-m", "worker", "dev"], **environment)
            assert (code, said.count("\n")) == (os.EX_CONFIG, 1)
            assert f"worker dev already runs here (pid {dev.process.pid})" in said
            assert dev.process.poll() is None
            assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in written] == before
        said = dev.log.read_text(encoding="utf-8")
        assert "Stopping: a running job may take up to 120 s to finish" in said
        assert "Traceback" not in said
        # The next one finds everything free.
        assert not (folder / "postgres" / "home" / "data" / "postmaster.pid").exists()
    finally:
        remove_server(folder / "postgres")


def test_worker_dev_runs_for_an_ordinary_user_beside_a_read_only_checkout(place: Path, u2netp: Path) -> None:
    require_readable()
    home = place / "a home"
    home.mkdir(mode=0o700)
    environment = {
        "HOME": str(home),
        "TMPDIR": str(home),
        "WORKER_DEV_DIR": str(home / "worker dev"),
        "WORKER_WEIGHTS_DIR": str(copy_weights(u2netp, place / "weights")),
    }
    shutil.chown(home, NOBODY, NOBODY)
    with start_dev(
        [*as_user(NOBODY, place), place / "python/bin/python3"], place / "log", **environment
    ) as dev:
        assert "Log out" in httpx.get(dev.url("dashboard"), follow_redirects=True).text
        data = home / "worker dev/postgres/home/data"
        assert (data.stat().st_uid, data.is_symlink()) == (NOBODY, False)


def test_postgres_runs_for_an_ordinary_user_in_a_folder_whose_name_a_shell_changes() -> None:
    require_readable()
    with TemporaryDirectory() as name:
        os.chmod(name, 0o755)  # noqa: PTH101
        folder = Path(name) / "it's $HOME"
        folder.mkdir()
        shutil.chown(folder, NOBODY, NOBODY)
        code, said = run_command(
            [*as_user(NOBODY, folder), folder / "python/bin/python3", "-c", SERVE, folder / "postgres"],
            TMPDIR=str(folder),
        )
    assert code == 0, said
    assert "answered True" in said


def test_ctrl_c_during_the_start_leaves_nothing_behind(python: Path, closed: Path, u2netp: Path) -> None:
    with (closed / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, "-m", "worker", "dev", "--port", "0", "--folder", closed / "dev"],
            env=environment_with({"WORKER_WEIGHTS_DIR": str(u2netp), "TMPDIR": str(closed)}),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    home = closed / "dev" / "postgres" / "home"
    until(home.exists)  # Postgres is being set up
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    assert (closed / "log").read_text() == "Stopping ...\n"
    assert not (home / "data" / "postmaster.pid").exists()
    remove_server(closed / "dev" / "postgres")


MOUNT_NO_PROGRAMS = 'mount -t tmpfs -o noexec,mode=1777 none "$1"'
NO_SHARED_MEMORY = """
    mkdir -m 755 "$1/dev"
    for name in null zero full random urandom; do touch "$1/dev/$name"; mount --bind "/dev/$name" "$1/dev/$name"; done
    mount --rbind "$1/dev" /dev
    test ! -e /dev/shm
"""


@pytest.mark.parametrize(
    "setup",
    [
        pytest.param(":", id="private TMPDIR"),
        pytest.param(MOUNT_NO_PROGRAMS, id="noexec TMPDIR"),
        pytest.param(NO_SHARED_MEMORY, id="no /dev/shm"),
    ],
)
def test_the_embedded_postgres_starts_elsewhere_if_need_be(python: Path, closed: Path, setup: str) -> None:
    require_mounts()
    command = [*with_mounts(setup, closed), python, "-c", SERVE, closed / "private/postgres"]
    code, said = run_command(command, TMPDIR=str(closed))
    assert (code, "answered True" in said) == (0, True), said
    programs = said.split("programs ")[1]
    assert "/programs-" in programs  # a copy, where its user can run it
    assert not programs.startswith(str(closed))


# What Python itself needs may lie below /tmp.
MOUNT_NO_PROGRAMS_ANYWHERE = """
    for kept in "$2" "$3"; do mount --bind "$kept" "$kept"; done
    for folder in /tmp /var/tmp; do mount --bind $folder $folder; mount -o remount,bind,noexec $folder; done
"""
NO_NOBODY = """
    grep -v ^nobody: /etc/passwd > "$1/passwd"; mount --bind "$1/passwd" /etc/passwd
    echo "passwd: files" > "$1/nsswitch"; mount --bind "$1/nsswitch" /etc/nsswitch.conf
"""


@pytest.mark.parametrize(
    ("setup", "why"),
    [
        pytest.param(MOUNT_NO_PROGRAMS_ANYWHERE, "can enter and run programs in", id="noexec everywhere"),
        pytest.param(NO_NOBODY, "there is no user `nobody`", id="no user nobody"),
    ],
)
def test_where_postgres_cannot_run_one_line_says_why(
    python: Path, closed: Path, u2netp: Path, setup: str, why: str
) -> None:
    require_mounts()
    mounts = with_mounts(setup, closed, Path(sys.base_prefix), PACKAGES)
    code, said = run_command(
        [*mounts, python, "-m", "worker", "dev", "--port", "0", "--folder", closed / "dev"],
        TMPDIR=str(closed),
        WORKER_WEIGHTS_DIR=str(u2netp),
    )
    assert (code, said.count("\n")) == (os.EX_CONFIG, 1), said
    assert why in said


def test_a_user_without_a_name_is_told_so(place: Path, u2netp: Path) -> None:
    require_readable()
    with TemporaryDirectory() as name:
        os.chmod(name, 0o777)  # noqa: PTH101
        code, said = run_command(
            [*as_user(54321, place), place / "python/bin/python3", "-m", "worker", "dev", "--port", "0"],
            HOME="",
            WORKER_DEV_DIR=f"{name}/dev",
            WORKER_WEIGHTS_DIR=str(copy_weights(u2netp, Path(name) / "weights")),
        )
    assert (code, said.count("\n")) == (os.EX_CONFIG, 1), said
    assert "/etc/passwd has no line for uid 54321" in said
