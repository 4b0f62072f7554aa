"""The daemon's side of the child process: start it, give it work, read what it says, end it."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from worker.compute import protocol, sandbox
from worker.compute.environment import child_environment
from worker.compute.lanes import CPU
from worker.compute.protocol import (
    Answer,
    Downloaded,
    FromChild,
    Progress,
    ProtocolError,
    Ready,
    Result,
    Start,
    ToChild,
    Unavailable,
    Work,
)
from worker.core.settings import ConfigError, Settings
from worker.engines.gate import Gate

START_S = 600  # a model's load from a cold disk
SEND_S = 10  # how long an idle child may take to read its work
STOP_S = 2  # how long it may take to stop by itself; a person who cancels a job waits for it
KILL_S = (
    10  # how long the kernel may take to end it: a process that waits for a broken GPU's driver does not end
)
CHUNK = 1 << 16  # bytes


class ChildDied(Exception):
    """The child ended by itself or cannot be understood any more. The message says how; `kill` it."""


class Child:
    """One child process, bound to one device. It does not run until `start`. Not for several threads at a time.

    Args:
        settings: of the daemon; the child is told some of them.
        device: a GPU as CUDA_VISIBLE_DEVICES names it, or `cpu`.
        threads: for its libraries, unless OMP_NUM_THREADS is set; by default they take all cores.
        gate: the places of the device, if other children use it too.
    """

    def __init__(
        self, settings: Settings, device: str, threads: int | None = None, gate: Gate | None = None
    ) -> None:
        self.settings = settings
        self.device = device
        self.threads = threads
        self.gate = gate
        self.weights: list[Path] = []  # files or folders that its models came from
        self._process: subprocess.Popen[bytes] | None = None
        self._kept: tuple[Path, sandbox.Identities] | None = None  # what it may open, if it is shut in
        self._unread = bytearray()
        self._work: Work | None = None
        self._stage = 0
        self._asked = False  # it has said Downloaded

    @property
    def running(self) -> bool:
        """True while there is a process, loaded or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id, which is also its process group's; None if there is no child."""
        return self._process.pid if self._process else None

    @property
    def outdated(self) -> bool:
        """True if something that the child may open was replaced, and it cannot open the new one: start another child."""
        return self._kept is not None and self._kept[1] != sandbox.identities(self._kept[0])

    def start(self, folder: Path, give_up: Callable[[], bool] = lambda: False) -> Ready:
        """Start the process and wait until its models are loaded. The folders of its jobs will be in `folder`.

        Call it from a thread that lives as long as the child may: Linux ends the child with that thread.

        Raises: ConfigError if the models cannot be loaded; ChildDied, also once `give_up()` is true. There is no child
        after any exception.
        """
        self._kept = (folder, sandbox.identities(folder)) if self.settings.sandbox else None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.compute.main", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=self._environment(),
            pass_fds=[self.gate.fd] if self.gate else (),
            start_new_session=True,  # its process group is killed whole, and a terminal's Ctrl-C does not reach it
        )
        self._unread.clear()
        try:
            os.set_blocking(_fd(self._process.stdin), False)
            return self._load(folder, give_up)
        except BaseException:
            # A child without its first message, or that nobody reads, must not count as one that runs.
            self.kill()
            raise

    def _load(self, folder: Path, give_up: Callable[[], bool]) -> Ready:
        settings = self.settings
        self._send(
            Start(
                engine=settings.engine,
                background_model=settings.background_model,
                weights_dir=settings.weights_dir.absolute(),
                folder=folder.absolute(),
                sandbox=settings.sandbox,
                # A GPU that torch cannot use must not become a CPU.
                device=settings.device if self.device == CPU else "cuda",
                gate=(self.gate.fd, self.gate.lanes) if self.gate else None,
                precision=settings.precision,
                triposr_views=settings.triposr_views,
                photo_hosts=settings.all_photo_hosts(),
                photo_http=settings.photo_http,
                photo_loopback=settings.photo_loopback,
            )
        )
        deadline = time.monotonic() + START_S
        while (message := self._next_message(0.5)) is None:
            if give_up() or time.monotonic() > deadline:
                raise ChildDied(f"the engine was not ready within {START_S} s")
        match message:
            case Unavailable(later=True):
                raise ChildDied(message.message)
            case Unavailable():
                raise ConfigError(message.message)
            case Ready():
                self.weights = message.weights
                return message
        raise ChildDied("it sent an unexpected message")

    def work(self, work: Work) -> None:
        """Give the idle child a job. Raises: ChildDied, also if it does not read: a pipe takes 64 KiB, a row may hold more."""
        self._work, self._stage, self._asked = work, 0, False
        self._send(work)

    def answer(self, *, known: bool) -> None:
        """Answer a Downloaded that `receive` has returned. Raises: ChildDied."""
        assert self._work  # noqa: S101 - it asked about it
        self._send(Answer(job_id=self._work.job_id, known=known))

    def receive(self, timeout: float) -> Progress | Downloaded | Result | None:
        """Return the next message about the job at hand, or None after `timeout` seconds.

        Raises: ChildDied, also for a message that is not this job's, reports a stage that does not rise, or asks again.
        """
        message = self._next_message(timeout)
        if message is None:
            return None
        if isinstance(message, Ready | Unavailable) or not self._work or message.job_id != self._work.job_id:
            raise ChildDied("it sent a message that is not of its job")
        if isinstance(message, Progress):
            if message.stage <= self._stage:
                raise ChildDied("it reported a stage again")
            self._stage = message.stage
        elif isinstance(message, Downloaded):
            if self._asked:
                raise ChildDied("it asked for its result again")
            self._asked = True
        else:
            self._work = None
        return message

    def interrupt(self) -> None:
        """Ask the job to stop. The child answers Stopped, or its result if that was just there."""
        if self._process and self.running:
            self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End the child and all processes that it started."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._process = self._work = None

    def _send(self, message: ToChild) -> None:
        assert self._process  # noqa: S101 - started
        pipe = _fd(self._process.stdin)
        left = memoryview(protocol.encode(message))
        room = select.poll()
        room.register(pipe, select.POLLOUT)
        while left:
            if not room.poll(SEND_S * 1000):
                raise ChildDied(self._how_it_ended())
            try:
                left = left[os.write(pipe, left) :]
            except OSError:
                raise ChildDied(self._how_it_ended()) from None

    def _next_message(self, timeout: float) -> FromChild | None:
        line = self._next_line(timeout)
        if line is None:
            return None
        try:
            return protocol.decode_from_child(line)
        except ProtocolError as error:
            raise ChildDied(f"it sent an invalid message: {error}") from None

    def _next_line(self, timeout: float) -> bytes | None:
        assert self._process  # noqa: S101 - started
        pipe = _fd(self._process.stdout)
        output = select.poll()
        output.register(pipe, select.POLLIN)
        deadline = time.monotonic() + timeout
        while (end := self._unread.find(b"\n")) < 0:
            if len(self._unread) >= protocol.MAX_LINE:
                raise ChildDied("it sent a message that is too long")
            if not output.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            chunk = os.read(pipe, CHUNK)
            if not chunk:
                raise ChildDied(self._how_it_ended())
            self._unread += chunk
        line = bytes(self._unread[: end + 1])
        del self._unread[: end + 1]
        return line

    def _how_it_ended(self) -> str:
        assert self._process  # noqa: S101 - started
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            return "it no longer answers"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"

    def _environment(self) -> dict[str, str]:
        # The one variable that torch, numpy, scipy and (through rembg) onnxruntime obey.
        threads = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        device = {"CUDA_VISIBLE_DEVICES": "" if self.device == CPU else self.device}
        return threads | child_environment() | device


def _fd(pipe: IO[bytes] | None) -> int:
    assert pipe  # noqa: S101 - Popen was asked for it
    return pipe.fileno()
