"""What goes between the daemon and its child, and what a lane is told when one does not read, or memory is short. Whole lives
of children: tests/test_daemon.py.
"""

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from worker.compute import process as children
from worker.compute.process import Child, ChildDied
from worker.core import threads
from worker.core.settings import Settings


@pytest.fixture
def child(u2netp: Path) -> Iterator[Child]:
    settings = {"engine": "relief", "background_model": "u2netp", "weights_dir": u2netp, "device": "cpu"}
    child = Child(Settings().model_copy(update=settings), "cpu")
    child.start()
    yield child
    child.kill()


def test_a_message_larger_than_a_pipe_arrives_and_a_child_that_does_not_read_holds_nobody_up(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {
        "job_id": "1",
        "name": "mug",
        "image_urls": ["https://127.0.0.1/" + "a" * 100_000] * 16,
        "quality": "fast",
        "folder": str(tmp_path),
        "dimensions": {"unit": "x" * 1_000_000},
        "turntable": False,
        "usdz": False,
    }
    child.send(**request)
    answer = child.receive(30)
    while answer is not None and "progress" in answer:
        answer = child.receive(30)
    assert answer
    assert "failed" in answer

    monkeypatch.setattr(children, "SEND_S", 0.2)
    monkeypatch.setattr(children, "STOP_S", 0.2)
    assert child.pid
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(ChildDied, match="no longer speaks"):
        child.send(**request)


def test_a_child_whose_daemon_was_killed_before_it_began_loads_nothing() -> None:
    killed = 1  # whoever takes a child over, it is not who started it
    done = subprocess.run(
        [sys.executable, "-m", "worker.compute.main", str(killed)],
        input=json.dumps({"engine": "relief"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "The daemon that started this child is gone.\n"


def test_a_child_that_nobody_could_hear_is_not_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on threads is played: root has none."""
    begin = subprocess.Popen
    begun: list[int] = []

    def scarce(_target: Callable[[], object]) -> None:
        raise RuntimeError("can't start new thread")

    def popen(*arguments: Any, **named: Any) -> "subprocess.Popen[str]":
        process = begin(*arguments, **named)
        begun.append(process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(threads, "start_thread", scarce)
    started = Child(Settings(), "cpu")
    with pytest.raises(RuntimeError):
        started.start()
    assert not started.running
    assert not Path(f"/proc/{begun[0]}").exists()


def test_a_child_whose_words_find_no_room_has_ended_for_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(_line: str) -> None:
        raise MemoryError

    messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    monkeypatch.setattr(json, "loads", loads)
    with (
        subprocess.Popen([sys.executable, "-c", "print('{}')"], stdout=subprocess.PIPE, text=True) as process,
        pytest.raises(MemoryError),
    ):
        children._read(process, messages)  # noqa: SLF001 - else it takes a lane
    assert messages.get_nowait() is None
