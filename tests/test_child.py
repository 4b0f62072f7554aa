"""What a lane is told of a child when memory or threads are short. Whole lives of children: tests/test_daemon.py."""

import json
import queue
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker import child, settings, threads


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
    monkeypatch.setattr(threads, "begin", scarce)
    started = child.Child(settings.load(), "cpu")
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
        child._read(process, messages)  # noqa: SLF001 - else it takes a lane
    assert messages.get_nowait() is None
