"""The daemon's side of a child: what a lane sees when the child does not read, breaks the protocol, or cannot start. Whole
lives of children: tests/system/test_daemon.py.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from worker.compute import process, protocol
from worker.compute.process import Child, ChildDied
from worker.compute.protocol import Downloaded, Failed, Progress, Result, Stopped, Work
from worker.core.settings import ConfigError, Settings
from worker.engines.gate import Gate

pytestmark = pytest.mark.integration  # processes

JOB, OTHER = UUID(int=1), UUID(int=2)
READY = '{"kind":"ready","engine":"e","engine_version":"1","details":{},"weights":[]}'
FRAMED = f'{{"kind":"progress","job_id":"{JOB}","stage":40}}'
ASKED = f'{{"kind":"downloaded","job_id":"{JOB}","key":"{"a" * 64}"}}'
DONE = f'{{"kind":"done","job_id":"{JOB}","report":{{}}}}'


def work(folder: Path, job_id: UUID = JOB, **changes: Any) -> Work:
    known: dict[str, Any] = {
        "image_urls": ["https://127.0.0.1/a"],
        "quality": "fast",
        "excluded": [],
        "dimensions": None,
        "views": None,
        "subject": None,
        "review_score": 50.0,
        "limit_s": 1500.0,
        "turntable": False,
        "usdz": False,
    }
    return Work(job_id=job_id, folder=folder, **(known | changes))


@pytest.fixture
def child(u2netp: Path, tmp_path: Path) -> Iterator[Child]:
    settings = {"engine": "relief", "background_model": "u2netp", "weights_dir": u2netp, "device": "cpu"}
    child = Child(Settings().model_copy(update=settings), "cpu")
    ready = child.start(tmp_path)
    assert ready.engine == "relief"
    assert child.weights == ready.weights
    assert [path.exists() for path in child.weights] == [True]
    yield child
    child.kill()


def test_a_message_larger_than_a_pipe_arrives_and_a_child_that_does_not_read_holds_nobody_up(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = ["https://127.0.0.1/" + "a" * 4000] * 16
    large = work(tmp_path, image_urls=urls, dimensions={"unit": "x" * 1_000_000})
    child.work(large)
    answer = child.receive(60)
    while isinstance(answer, Progress):
        answer = child.receive(60)
    assert isinstance(answer, Failed)
    assert (answer.job_id, answer.code, answer.traceback) == (JOB, "photo_host_refused", "")

    monkeypatch.setattr(process, "SEND_S", 0.2)
    monkeypatch.setattr(process, "STOP_S", 0.2)
    assert child.pid
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(ChildDied, match="no longer answers"):
        child.work(large)


def next_but_progress(child: Child) -> Any:
    while isinstance(message := child.receive(60), Progress):
        pass
    return message


def test_a_child_makes_nothing_of_a_known_result_and_reads_no_answer_to_another_job(
    u2netp: Path, tmp_path: Path, photos: Callable[[str, bytes], str], mug: bytes
) -> None:
    settings = {
        "engine": "relief",
        "background_model": "u2netp",
        "weights_dir": u2netp,
        "photo_loopback": True,
    }
    child = Child(Settings().model_copy(update=settings), "cpu")
    child.start(tmp_path)
    url = photos("mug.png", mug)
    keys = set()
    folder = tmp_path / "job"
    folder.mkdir()
    try:
        for job, stopped_first in ((JOB, True), (OTHER, False)):
            child.work(work(folder, job, image_urls=[url]))
            asked = next_but_progress(child)
            assert isinstance(asked, Downloaded)
            keys.add(asked.key)
            if stopped_first:
                child.interrupt()
            child.answer(known=True)
            ended = next_but_progress(child)
            assert isinstance(ended, Stopped)
            assert set(ended.report) == {
                "engine",
                "engine_version",
                "device",
                "quality_asked",
                "seconds",
                "cpu_seconds",
            }
    finally:
        child.kill()
    assert len(keys) == 1, "of the same photo and the same settings"
    assert [path.name for path in folder.iterdir()] == ["photo-0"]


def test_a_child_whose_daemon_was_killed_before_it_began_loads_nothing() -> None:
    killed = 1  # the process that takes an orphan over did not start it
    done = subprocess.run(
        [sys.executable, "-m", "worker.compute.main", str(killed)],
        input='{"kind": "start"}\n',
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "The daemon that started this child is gone.\n"


def test_a_child_that_was_told_nothing_does_not_count_as_one_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[int] = []

    def fail(child: Child, _message: object) -> None:
        begun.append(child.pid or 0)
        raise MemoryError

    monkeypatch.setattr(Child, "_send", fail)
    started = Child(Settings(), "cpu")
    with pytest.raises(MemoryError):
        started.start(Path("/nonexistent"))
    assert not started.running
    assert not Path(f"/proc/{begun[0]}").exists()


def hijacked(monkeypatch: pytest.MonkeyPatch, folder: Path, *says: str, ends: bool = False) -> Child:
    """A child that answers its start with the first of these lines and its first work with the others, and then sleeps or ends."""
    lines = folder / "lines"
    lines.write_bytes("\n".join((*says, "")).encode("utf-8", "surrogateescape"))
    code = f"""if True:
        import sys, time
        first, rest = open(sys.argv[1], "rb").read().split(b"\\n", 1)
        for said in (first + b"\\n", rest):
            sys.stdin.buffer.readline()
            sys.stdout.buffer.write(said)
            sys.stdout.buffer.flush()
        time.sleep({0 if ends else 60})
    """
    begin = subprocess.Popen

    def popen(_arguments: object, **named: Any) -> "subprocess.Popen[bytes]":
        return begin([sys.executable, "-c", code, str(lines)], **named)

    monkeypatch.setattr(subprocess, "Popen", popen)
    return Child(Settings(), "cpu")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "garbage",
        "[]",
        '{"kind":"shell"}',
        READY,
        FRAMED,
        f"{ASKED}\n{ASKED}",
        ASKED.replace(str(JOB), str(OTHER)),
        DONE.replace(str(JOB), str(OTHER)),
        DONE.replace("{}", '{"quality": {"score": NaN}}'),
        DONE.replace("{}", '{"engine": "\\u0000"}'),
        DONE.replace("{}", '{"seconds": "planted", "quality": [1], "surface": 3}'),
        DONE.replace("{}", '{"model_url": "https://planted.example/"}'),
        DONE.replace("{}", '{"quality": ' + '{"score":' * 300 + "1" + "}" * 301),
        DONE.replace("{}", "[" * 100_000),
        '{"kind":"unavailable","message":"x"}',
        f'{{"kind":"failed","job_id":"{JOB}","report":{{}},"code":"planted","message":"x"}}',
        "\udcff\udcfe",
    ],
    ids=lambda line: line[:40].encode("utf-8", "replace").decode(),
)
def test_a_hijacked_child_is_one_that_died(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    child = hijacked(monkeypatch, tmp_path, READY, FRAMED, line)
    try:
        child.start(tmp_path)
        child.work(work(tmp_path))
        assert isinstance(child.receive(60), Progress)
        for _ in line.split("\n")[1:]:
            assert child.receive(60)
        with pytest.raises(ChildDied, match=r"it (sent|reported|asked)"):
            child.receive(60)
    finally:
        child.kill()
    assert not child.running


def test_a_line_that_does_not_end_fills_no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(protocol, "MAX_LINE", 1 << 20)
    child = hijacked(monkeypatch, tmp_path, READY, "x" * (2 << 20))
    try:
        child.start(tmp_path)
        child.work(work(tmp_path))
        with pytest.raises(ChildDied, match="too long"):
            child.receive(60)
    finally:
        child.kill()


def test_what_is_left_of_a_job_is_not_taken_for_the_next_one_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = hijacked(monkeypatch, tmp_path, READY, DONE, DONE)
    try:
        child.start(tmp_path)
        child.work(work(tmp_path))
        assert isinstance(child.receive(60), Result)
        child.work(work(tmp_path, OTHER))
        with pytest.raises(ChildDied, match="not of its job"):
            child.receive(60)
    finally:
        child.kill()


def test_the_end_of_a_child_is_told_after_all_that_it_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "worker.compute.process.STOP_S", 60
    )  # so long may a busy machine take to end a process
    child = hijacked(monkeypatch, tmp_path, READY, FRAMED, DONE, ends=True)
    try:
        child.start(tmp_path)
        child.work(work(tmp_path))
        assert isinstance(child.receive(60), Progress)
        assert isinstance(child.receive(60), Result)
        with pytest.raises(ChildDied, match="exit status 0"):
            child.receive(60)
    finally:
        child.kill()


def test_a_child_without_its_models_ends_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = hijacked(monkeypatch, tmp_path, '{"kind":"unavailable","message":"Fetch them."}')
    with pytest.raises(ConfigError, match=r"^Fetch them\.$"):
        child.start(tmp_path)
    assert not child.running


def test_a_lane_on_a_gpu_asks_for_it_and_one_whose_gpu_is_full_may_try_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[Any] = []
    send: Any = getattr(Child, "_send")  # noqa: B009 - private to its module

    def note(child: Child, message: Any) -> None:
        sent.append(message)
        send(child, message)

    monkeypatch.setattr(Child, "_send", note)
    full = '{"kind":"unavailable","message":"the GPU is full","later":true}'
    broken = full.replace("true", "false")
    gate = Gate.create(4)
    for line, error in ((full, ChildDied), (broken, ConfigError)):
        hijacked(monkeypatch, tmp_path, line)
        child = Child(Settings(), "GPU-a", 3, gate)
        with pytest.raises(error, match="the GPU is full"):
            child.start(tmp_path)
        assert not child.running
        monkeypatch.undo()
        monkeypatch.setattr(Child, "_send", note)
    assert [(each.device, each.gate) for each in sent] == [("cuda", (gate.fd, 4))] * 2
    gate.close()
