"""What the daemon tells systemd, read from a real socket; and what systemd thinks of the unit, where it is installed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import gates
import psycopg
import pytest
from conftest import StartDaemon, until
from sqlalchemy.engine import Engine

from worker import weights
from worker.daemon import systemd
from worker.jobs import queue
from worker.local.server import DevServer

UNIT = Path(__file__).parents[2] / "systemd" / "worker.service"
NEEDS_SYSTEMD = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")

PutPhoto = Callable[[str, bytes], str]


class Manager:
    """systemd's end of the socket: what was said, by name, in the order in which it came."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.channel.bind(address.replace("@", "\0"))
        self._said: list[tuple[float, dict[str, str]]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def said(self, name: str, *, since: float = 0) -> list[str]:
        return [fields[name] for when, fields in list(self._said) if name in fields and when >= since]

    def _listen(self) -> None:
        while message := self.channel.recv(4096).decode():
            self._said.append((time.monotonic(), dict(line.split("=", 1) for line in message.splitlines())))

    def close(self) -> None:
        self.channel.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.channel.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = f"@worker-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    manager = Manager(address)
    yield manager
    manager.close()


@pytest.fixture
def file_manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


def test_a_message_reaches_either_kind_of_socket(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    systemd.notify(READY=1, STATUS="a\nREADY=0")
    assert until(lambda: manager.said("STATUS")) == ["a READY=0"]
    assert manager.said("READY") == ["1"]


def test_a_manager_that_is_busy_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is full; a word that matters must not be lost for it."""
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as busy:
        busy.bind(address)
        while systemd.notify(STATUS="waiting"):
            pass
        notifier = systemd.Notifier({}, lambda: None)
        notifier.tick(ready=True, stopping=False)
        busy.setblocking(False)
        with suppress(BlockingIOError):
            while busy.recv(4096) == b"STATUS=waiting":
                pass
        notifier.tick(ready=True, stopping=False)
        assert b"READY=1" in busy.recv(4096)


def test_nobody_who_listens_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify(READY=1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    systemd.notify(READY=1)


@pytest.mark.parametrize(
    ("environment", "watchdog_timeout_s"),
    [
        ({}, systemd.WATCHDOG_TIMEOUT_S),
        ({"WATCHDOG_USEC": "3000000"}, 3),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, systemd.WATCHDOG_TIMEOUT_S),
        ({"WATCHDOG_USEC": "soon"}, systemd.WATCHDOG_TIMEOUT_S),
    ],
)
def test_the_unit_s_watchdog_time_is_ours_if_it_is_meant_for_this_process(
    environment: dict[str, str], watchdog_timeout_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert systemd.watchdog_timeout_s() == watchdog_timeout_s


def test_systemd_is_told_of_a_whole_life(
    start_daemon: StartDaemon, file_manager: Manager, engine: Engine, held: gates.Gates
) -> None:
    daemon = start_daemon(ready=False, NOTIFY_SOCKET=file_manager.address, WATCHDOG_USEC="6000000")
    until(lambda: file_manager.said("STATUS"))
    assert file_manager.said("STATUS")[0] == "looking for the database"
    assert not file_manager.said("READY")
    daemon.wait_for("ready")
    until(lambda: file_manager.said("READY"))
    assert "cpu.0: loading relief" in file_manager.said("STATUS")
    assert file_manager.said("EXTEND_TIMEOUT_USEC"), "loading a model asked for no more time"
    until(lambda: file_manager.said("STATUS")[-1] == "cpu.0: idle")

    # Idle between two polls of the queue for longer than the watchdog's time, and yet alive.
    now = time.monotonic()
    until(lambda: len(file_manager.said("WATCHDOG", since=now)) >= 5)
    assert not daemon.events("lane_frozen")

    # A child that gives no sign within its time limit is not a lane that is frozen.
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=[held.url], quality="fast")
    until(lambda: any(str(job) in status for status in file_manager.said("STATUS")))
    child = daemon.events("child_ready")[0]["pid"]
    os.kill(child, signal.SIGSTOP)
    now = time.monotonic()
    until(lambda: len(file_manager.said("WATCHDOG", since=now)) >= 5)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: file_manager.said("STOPPING"))
    assert file_manager.said("STATUS")[-1].startswith(f"stopping; cpu.0: job {job}, ")
    assert file_manager.said("EXTEND_TIMEOUT_USEC", since=now), "draining asked for no more time"
    os.kill(child, signal.SIGCONT)
    held.photos.set()
    assert daemon.process.wait(60) == 0
    assert queue.get_jobs(engine, [job])[0]["status"] == "completed"
    assert file_manager.said("READY") == ["1"]
    assert file_manager.said("STOPPING") == ["1"]


def test_one_frozen_lane_of_four_starves_the_watchdog_and_thawed_feeds_it_again(
    start_daemon: StartDaemon, file_manager: Manager, sql: psycopg.Connection, database_url: str
) -> None:
    daemon = start_daemon(
        NOTIFY_SOCKET=file_manager.address, WATCHDOG_USEC="1600000", WORKER_LANES="4", WORKER_HTTP_PORT="0"
    )
    names = ["cpu.0", "cpu.1", "cpu.2", "cpu.3"]
    assert sorted(event["lane"] for event in daemon.events("child_ready")) == names
    assert file_manager.said("STATUS")[-1] == "; ".join(f"{name}: idle" for name in names)
    port = daemon.events("http_listening")[0]["port"]
    alive = next(daemon.temp.glob("*/.lock"))
    with sql.transaction(), psycopg.connect(database_url, autocommit=True) as other:
        # A lane's next poll of the queue hangs, as it would on a database that answers no more. One is woken.
        sql.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        other.execute("NOTIFY worker_jobs")
        (frozen,) = daemon.wait_for("lane_frozen")["lanes"]
        until(
            lambda: (
                file_manager.said("STATUS")[-1]
                == "; ".join(f"{name}: {'frozen, ' if name == frozen else ''}idle" for name in names)
            )
        )
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60)
        with answer.value as body:
            health = json.load(body)
        assert (health["frozen"], sorted(health["lanes"])) == ([frozen], names)
        now, touched = time.monotonic(), alive.stat().st_mtime_ns
        time.sleep(
            1.0
        )  # longer than from one sign of life to the next, and over before the statement gives up
        assert not file_manager.said("WATCHDOG", since=now)
        assert alive.stat().st_mtime_ns == touched, "a container's health check would see a living daemon"
    until(lambda: file_manager.said("WATCHDOG", since=now))
    until(lambda: alive.stat().st_mtime_ns > touched)
    os.kill(daemon.process.pid, signal.SIGABRT)
    daemon.process.wait(60)
    assert "in _watch" in daemon.log.read_text(), "the journal has no word of where the threads were"


def test_a_start_that_fails_is_never_ready(start_daemon: StartDaemon, file_manager: Manager) -> None:
    daemon = start_daemon(ready=False, NOTIFY_SOCKET=file_manager.address, WORKER_ENGINE="no-such")
    assert daemon.process.wait(60) == 78
    assert not file_manager.said("READY")
    assert not daemon.events("ready")


def test_a_download_asks_for_more_time(
    file_manager: Manager, site: DevServer, photos: PutPhoto, u2netp: Path, tmp_path: Path
) -> None:
    photos("u2netp.onnx", weights.path(u2netp, "u2netp").read_bytes())
    variables = {"NOTIFY_SOCKET": file_manager.address, "WORKER_WEIGHTS_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "worker", "weights", "fetch", "u2netp", "--from", site.url]
    subprocess.run(command, env=os.environ | variables, check=True)
    assert until(lambda: file_manager.said("STATUS"))[0].startswith("fetching u2netp")
    assert file_manager.said("EXTEND_TIMEOUT_USEC")


def test_waiting_for_the_database_is_said_and_asks_for_no_more_time(
    start_daemon: StartDaemon, file_manager: Manager
) -> None:
    daemon = start_daemon(
        ready=False, NOTIFY_SOCKET=file_manager.address, DATABASE_URL="postgresql://a:b@127.0.0.1:9/c"
    )
    until(lambda: file_manager.said("STATUS")[-1:])
    until(lambda: "waiting for the database: connection failed" in file_manager.said("STATUS")[-1])
    assert not file_manager.said("EXTEND_TIMEOUT_USEC")
    assert not file_manager.said("READY")
    assert daemon.stop() == 0


@NEEDS_SYSTEMD
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    """With programs that exist, since the real ones are installed elsewhere."""
    unit = tmp_path / "worker.service"
    text = UNIT.read_text()
    assert "ExecStart=/opt/worker/bin/worker run\n" in text
    unit.write_text(text.replace("/opt/worker/bin/worker run", f"{sys.executable} -V"))
    # An unknown or malformed line is a warning, and an error only with this option.
    command = ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", str(unit)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    drop_in = UNIT.with_name("fetch-weights.conf").read_text()
    unit.write_text(
        unit.read_text() + drop_in.replace("/opt/worker/bin/worker weights fetch", f"{sys.executable} -V")
    )
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


@NEEDS_SYSTEMD
def test_the_unit_is_hardened() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(UNIT)]
    analysed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert analysed.returncode == 0, analysed.stdout
