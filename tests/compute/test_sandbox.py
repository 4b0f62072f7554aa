"""What a child that a photo has taken over can still open: its own folder and what it computes with, and nothing of its user's."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worker.compute import sandbox
from worker.compute.process import Child
from worker.core import landlock
from worker.core.settings import Settings

pytestmark = [
    pytest.mark.integration,  # processes
    pytest.mark.skipif(landlock.abi() < landlock.SCOPES, reason="needs Landlock's ABI 6, of Linux 6.12"),
]

# Runs in the place of the child's work, after its entry has shut it in. Prints what did not fail.
TAKEN_OVER = """
import json, os, shutil, signal, socket, subprocess, sys, threading
from pathlib import Path
from types import SimpleNamespace
from worker.compute import main, sandbox
from worker.core import landlock
from worker.pipeline import decode

given = json.loads(sys.argv[1])
landlock.abi = lambda: given["abi"]
sandbox.shut_in(SimpleNamespace(**given["start"] | {name: Path(given["start"][name]) for name in ("folder", "weights_dir")}))
own, secret, port = Path(given["start"]["folder"]), Path(given["secret"]), given["port"]

def worked(act):
    try:
        act()
        return True
    except (OSError, subprocess.CalledProcessError):
        return False

def connect(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        pass

def in_a_thread(act):
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(worked(act)))
    thread.start()
    thread.join()
    if not outcome[0]:
        raise OSError

tried = {
    "read a file": secret.read_text,
    "read it in a thread": lambda: in_a_thread(secret.read_text),
    "read it in a program": lambda: subprocess.run([sys.executable, "-Ic", f"open({str(secret)!r})"], check=True, stderr=subprocess.DEVNULL),
    "list the folder of another lane": lambda: list(secret.parent.iterdir()),
    "write beside": lambda: (secret.parent / "new").write_text("planted"),
    "truncate": lambda: os.truncate(secret, 0),
    "delete": secret.unlink,
    "rename": lambda: secret.rename(own / "stolen"),
    "hard link": lambda: (own / "stolen").hardlink_to(secret),
    "link": lambda: (own / "link").symlink_to(secret),
    "pipe": lambda: os.mkfifo(own / "pipe"),
    "write weights": lambda: (Path(given["start"]["weights_dir"]) / "new").write_text("planted"),
    "the settings": Path("/etc/worker/worker.env").read_text,
    "passwords": Path("/etc/shadow").read_text,
    "home": lambda: list(Path.home().iterdir()),
    "memory of the daemon": lambda: open(f"/proc/{os.getppid()}/mem", "rb"),
    "environment of the daemon": lambda: open(f"/proc/{os.getppid()}/environ", "rb").read(),
    "kill the daemon": lambda: os.kill(os.getppid(), 0),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)),
    "connect to the database": lambda: connect(port),
    "connect to a photo's server": lambda: connect(443),
    "resolve": Path("/etc/hosts").read_text,
    "write a photo": lambda: (own / "photo").write_text("photo"),
    "move a file out of a folder": lambda: ((own / "second").mkdir(), (own / "second" / "a").write_text("a"), shutil.move(own / "second" / "a", own / "a")),
    "a temporary file": lambda: __import__("tempfile").NamedTemporaryFile().close(),
    "read weights": (Path(given["start"]["weights_dir"]) / "triposr" / "model").read_text,
    "start a decoder": lambda: decode.decode_in_subprocess(Path(given["photo"])),
}
print(json.dumps({name: worked(act) for name, act in tried.items()}))
"""
STAYS = {
    "connect to a photo's server",
    "resolve",
    "write a photo",
    "move a file out of a folder",
    "a temporary file",
    "read weights",
    "start a decoder",
    # By CAP_PERFMON, which the worker has only as root, as which it is not to run.
    *(["environment of the daemon"] if os.geteuid() == 0 else []),
}


def attack(folder: Path, abi: int = landlock.abi(), **start: Any) -> set[str]:
    """Return what a child could still do."""
    weights, own, other = folder / "weights", folder / "lane-0", folder / "lane-1"
    for each in (weights / "triposr", own, other):
        each.mkdir(parents=True)
    (weights / "triposr" / "model").write_text("weights")
    (other / "secret").write_text("secret")
    (own / "photo.png").write_bytes(Path("worker/local/samples/vase.png").read_bytes())
    known = {
        "folder": str(own),
        "weights_dir": str(weights),
        "device": "cpu",
        "photo_loopback": False,
    } | start
    with socket.create_server(("127.0.0.1", 0)) as database:
        given = {
            "start": known,
            "abi": abi,
            "secret": str(other / "secret"),
            "photo": str(own / "photo.png"),
            "port": database.getsockname()[1],
        }
        done = subprocess.run(
            [sys.executable, "-c", TAKEN_OVER, json.dumps(given)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    could = {name for name, worked in json.loads(done.stdout).items() if worked}
    assert (other / "secret").read_text() == ("" if "truncate" in could else "secret")
    return could


def test_a_child_keeps_its_folder_its_weights_and_the_ports_of_photos(tmp_path: Path) -> None:
    assert attack(tmp_path) == STAYS


def test_on_a_developer_s_machine_photos_may_come_from_any_port(tmp_path: Path) -> None:
    assert attack(tmp_path, photo_loopback=True) == STAYS | {"connect to the database"}


@pytest.mark.parametrize(
    ("abi", "more"),
    [
        (1, {"truncate", "listen", "kill the daemon", "connect to the database"}),
        (3, {"listen", "kill the daemon", "connect to the database"}),
        (4, {"kill the daemon"}),
    ],
)
def test_an_older_kernel_takes_less_and_breaks_nothing(tmp_path: Path, abi: int, more: set[str]) -> None:
    assert attack(tmp_path, abi) == STAYS | more


def test_weights_behind_links_are_read(tmp_path: Path) -> None:
    # As in a hub's cache, where the folder of a revision holds links to files beside it.
    hub, linked = tmp_path / "hub", tmp_path / "linked"
    for folder in (hub / "blobs", hub / "revision", linked):
        folder.mkdir(parents=True)
    (hub / "blobs" / "1").write_text("weights")
    (hub / "revision" / "model").symlink_to("../blobs/1")
    (linked / "triposr").symlink_to(hub / "revision")
    (linked / "itself").symlink_to("itself")
    (linked / "again").symlink_to(linked)
    assert "read weights" in attack(tmp_path, weights_dir=str(linked))


def test_cuda_keeps_the_caches_that_it_would_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", "")
    monkeypatch.setattr("tempfile.tempdir", None)
    kept: dict[Path, int] = {}
    monkeypatch.setattr(landlock, "restrict", lambda paths, _ports: kept.update(paths))
    start: Any = SimpleNamespace(folder=tmp_path, weights_dir=tmp_path, device="cpu", photo_loopback=False)
    sandbox.shut_in(start)
    assert list(tmp_path.iterdir()) == []
    start.device = "cuda"
    sandbox.shut_in(start)
    for cache in (tmp_path / ".nv", tmp_path / "cache"):
        assert cache.is_dir()
        assert kept[cache] == landlock.WRITE


def no_new_privileges(pid: int) -> set[str]:
    """The line of each thread's status that says if it has given up privileges, as it does just before Landlock."""
    return {
        line.split()[1]
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("NoNewPrivs:")
    }


def test_all_threads_of_a_real_child_are_shut_in_and_one_whose_folder_was_replaced_is_outdated(
    tmp_path: Path, u2netp: Path
) -> None:
    settings = Settings().model_copy(
        update={"engine": "relief", "background_model": "u2netp", "weights_dir": u2netp, "device": "cpu"}
    )
    folder = tmp_path / "lane"
    folder.mkdir()
    for shut_in in (True, False):
        child = Child(settings.model_copy(update={"sandbox": shut_in}), "cpu")
        try:
            child.start(folder)
            assert child.pid
            assert no_new_privileges(child.pid) == ({"1"} if shut_in else {"0"})
            assert not child.outdated
            shutil.rmtree(folder)
            assert child.outdated == shut_in
            folder.mkdir()
            (tmp_path / str(shut_in)).mkdir()  # so that the new folder cannot have the number of the old one
            os.kill(child.pid, signal.SIGKILL)
        finally:
            child.kill()
