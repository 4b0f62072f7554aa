"""Test how lanes come by their children, without children: what `start` does is the test's."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import until

from worker.compute.process import Child, ChildDied
from worker.core.settings import ConfigError, Settings
from worker.daemon import lane as lane_module
from worker.daemon.context import LaneContext, Stop
from worker.daemon.lane import Lane
from worker.daemon.main import Daemon
from worker.jobs.wakeup import Wakeup

READY = SimpleNamespace(engine="e", engine_version="1", details={})


class PretendChild:
    """A child whose start calls a function."""

    pid = 1
    outdated = False

    def __init__(self, start: Callable[[], None]) -> None:
        self._start = start
        self.running = False

    def start(self, _folder: Path, _give_up: Callable[[], bool]) -> SimpleNamespace:
        self._start()
        self.running = True
        return READY

    def kill(self) -> None:
        self.running = False


@contextmanager
def started(*children: PretendChild) -> Iterator[list[Lane]]:
    """Run a lane for each child. None of them claims: the admission is closed."""
    context = context_of(is_open=False)
    lanes = [Lane(f"cpu.{n}", cast("Child", child), Wakeup(), context) for n, child in enumerate(children)]
    for lane in lanes:
        lane.start()
    try:
        yield lanes
    finally:
        context.stop.drain(0)
        for lane in lanes:
            lane.join()


def context_of(*, is_open: bool) -> LaneContext:
    context = SimpleNamespace(
        settings=Settings(),
        stop=Stop(),
        loading=threading.Lock(),
        admission=SimpleNamespace(check=lambda: is_open),
        scratch=SimpleNamespace(lane=lambda label: Path("/nonexistent", label)),
    )
    return cast("LaneContext", context)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "UNHEALTHY_S", 0.05)
    monkeypatch.setattr(lane_module, "CLOSED_S", 0.05)


def test_children_load_one_after_the_other() -> None:
    inside, most = [], []

    def load() -> None:
        inside.append(1)
        most.append(len(inside))
        threading.Event().wait(0.05)
        inside.pop()

    with started(*(PretendChild(load) for _ in range(5))) as lanes:
        until(lambda: all(lane.ready.is_set() for lane in lanes))
    assert most == [1] * 5


def test_a_child_that_hangs_while_it_loads_holds_the_others_up_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane_module, "TURN_S", 0.1)
    hangs, over = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        over.wait(60)

    with started(PretendChild(hang)) as (first,):
        assert hangs.wait(60)
        other = Lane("cpu.1", cast("Child", PretendChild(lambda: None)), Wakeup(), first.context)
        other.start()
        until(other.ready.is_set)
        assert not first.ready.is_set()
        over.set()
    other.join()


def test_a_child_that_cannot_be_loaded_ends_the_daemon_at_the_start_and_no_later() -> None:
    """A GPU that breaks on a Sunday must not take the other seven with it."""
    answers: list[Exception | None] = [None, ConfigError("no GPU"), ConfigError("no GPU"), None]

    def load() -> None:
        if answer := answers.pop(0):
            raise answer

    child = PretendChild(load)
    with started(child) as (lane,):
        until(lane.ready.is_set)
        child.running = False
        until(lambda: not answers and child.running)
        assert lane.failed is None

    def never() -> None:
        raise ConfigError("no such weights")

    with started(PretendChild(never)) as (lane,):
        lane.join()
        assert str(lane.failed) == "no such weights"


def test_a_daemon_is_ready_without_the_lanes_for_which_the_memory_is_too_short() -> None:
    def full() -> None:
        raise ChildDied("NVIDIA L4 has no memory for the network now.")

    with started(PretendChild(lambda: None), PretendChild(full)) as lanes:
        daemon: Any = SimpleNamespace(lanes=lanes)
        is_ready: Callable[[Any], bool] = getattr(Daemon, "_is_ready")  # noqa: B009 - private to its module
        until(lambda: is_ready(daemon))
        assert [lane.healthy for lane in lanes] == [True, False]
        assert "no memory" in lanes[1].heartbeat.doing


@pytest.mark.parametrize("obstacle", ["", "no child", "an outdated child", "a signal", "a closed admission"])
def test_the_end_of_a_job_takes_the_next_one_only_if_the_lane_could_begin_it(obstacle: str) -> None:
    child = PretendChild(lambda: None)
    child.running = obstacle != "no child"
    child.outdated = obstacle == "an outdated child"
    context = context_of(is_open=obstacle != "a closed admission")
    lane = Lane("cpu.0", cast("Child", child), Wakeup(), context)
    if obstacle == "a signal":
        context.stop.drain(60)
    assert lane.find_claimer() == (None if obstacle else lane.claimer)
