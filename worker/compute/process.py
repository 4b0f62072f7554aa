"""The daemon's side of the child process: start it, talk to it, end it."""

import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from worker.core import threads
from worker.core.settings import ConfigError, Settings

START_S = 600  # a model's load from a cold disk
SEND_S = 10  # how long an idle child may take to read what it is to do
STOP_S = 2  # how long it may take to stop by itself; whoever cancels a job waits for it
KILL_S = (
    10  # how long the kernel may take to end it: a process that waits for a broken GPU's driver does not end
)

# What the child may know of our environment: how to find programs, libraries, the GPU and its own caches.
_INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TZ",
    "LD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
    "SSL_CERT_FILE",
)
_INHERITED_PREFIXES = ("PYTHON", "OMP_", "MKL_", "NUMBA_", "NVIDIA_", "CUDA_")


class ChildDied(Exception):
    """The child process ended by itself; the message says how."""


class Child:
    """One child process, bound to one device. Not running until `start`."""

    def __init__(self, settings: Settings, device: str) -> None:
        self.settings = settings
        self.device = device
        self._process: subprocess.Popen[str] | None = None
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, give_up: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """What the child says of itself once its model is loaded. Call it from the thread that lives as long as the
        child may: Linux ends the child with that thread. Raises: ConfigError where the engine cannot be loaded; ChildDied,
        also once `give_up` is true. After whatever it raises there is no child.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.compute.main", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment(),
            start_new_session=True,  # its process group is killed whole, and a terminal's Ctrl-C does not reach it
        )
        assert self._process.stdin  # noqa: S101 - a pipe
        os.set_blocking(self._process.stdin.fileno(), False)
        self._messages = queue.SimpleQueue()
        try:
            return self._begin(give_up)
        except BaseException:
            # One that nobody hears, or that was told nothing, must not pass for one that runs.
            self.kill()
            raise

    def _begin(self, give_up: Callable[[], bool]) -> dict[str, Any]:
        process, messages = self._process, self._messages
        assert process  # noqa: S101 - started
        threads.start_thread(lambda: _read(process, messages))
        self.send(
            engine=self.settings.engine,
            background_model=self.settings.background_model,
            weights_dir=str(self.settings.weights_dir),
            device=self.settings.device,
            precision=self.settings.precision,
            photos={
                "hosts": self.settings.all_photo_hosts(),
                "http": self.settings.photo_http,
                "loopback": self.settings.photo_loopback,
            },
        )
        deadline = time.monotonic() + START_S
        while (message := self.receive(0.5)) is None:
            if give_up() or time.monotonic() > deadline:
                raise ChildDied(f"The engine was not ready within {START_S} s.")
        if "unavailable" in message:
            raise ConfigError(message["unavailable"])
        return dict(message["ready"])

    def send(self, **message: Any) -> None:
        """Raises: ChildDied, also where the child does not read: a pipe takes 64 KiB, and a row may hold more."""
        assert self._process  # noqa: S101 - started
        assert self._process.stdin  # noqa: S101 - a pipe
        pipe = self._process.stdin.fileno()
        left = memoryview(json.dumps(message).encode() + b"\n")
        room = select.poll()
        room.register(pipe, select.POLLOUT)
        while left:
            if not room.poll(SEND_S * 1000):
                raise ChildDied(self._how_it_ended())
            try:
                left = left[os.write(pipe, left) :]
            except OSError:
                raise ChildDied(self._how_it_ended()) from None

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """The next message, or None after `timeout` seconds without one. Raises: ChildDied."""
        try:
            message = self._messages.get(timeout=timeout)
        except queue.Empty:
            return None
        if message is None:
            self._messages.put(None)  # the end stays the end
            raise ChildDied(self._how_it_ended())
        return message

    def interrupt(self) -> None:
        """Asks the job that runs to stop; it answers `stopped`, or with its result if that was just there."""
        if self._process and self.running:
            self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """Ends the child and all that it started."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(OSError):  # what could not be flushed is of no use to a dead process
                    pipe.close()
        self._process = None

    def _how_it_ended(self) -> str:
        assert self._process  # noqa: S101 - started
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            return "it no longer speaks with us"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"

    def _environment(self) -> dict[str, str]:
        return inherited() | {"CUDA_VISIBLE_DEVICES": "" if self.device == "cpu" else self.device}


def inherited() -> dict[str, str]:
    """What of our environment a child may know."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }


def _read(process: "subprocess.Popen[str]", messages: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    """Moves the child's lines into the queue; what is not JSON is the child's end, for we understand it no more."""
    assert process.stdout  # noqa: S101 - a pipe
    try:
        with suppress(ValueError):
            for line in process.stdout:
                messages.put(json.loads(line))
    finally:
        messages.put(None)  # also where memory was short: nobody would hear the child any more
