"""What the daemon sends to its child, and what it does where the child does not read."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker import child as children
from worker.child import Child, ChildDied
from worker.settings import Settings


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
