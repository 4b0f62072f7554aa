"""The unit under a real systemd, which is process 1 of its own namespaces and shares only the network with us.

It sees this machine's files; what it writes below /etc, /opt and /var is gone with it. Its units are the ones in a folder
of the test's, so that nothing else of this machine is started. Needs root.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import until
from sqlalchemy.engine import Engine

from worker.core import landlock
from worker.jobs import queue

SYSTEMD = Path("/lib/systemd/systemd")
CHECKOUT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not SYSTEMD.exists() or os.geteuid() != 0, reason="needs systemd and root"),
]

PutPhoto = Callable[[str, bytes], str]

BOOT = """
set -e
for folder in /etc /opt /var; do
    layer=$1/layers$folder
    mkdir -p $layer/new $layer/work
    mount -t overlay -o lowerdir=$folder,upperdir=$layer/new,workdir=$layer/work overlay $folder
done
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /etc/worker /opt/worker /var/log/worker
mount --bind $2 /opt/worker
getent passwd worker >/dev/null || useradd --system --home-dir /var/lib/worker worker
cp $1/worker.env /etc/worker/
exec env -i container=test SYSTEMD_UNIT_PATH=$1/units SYSTEMD_LOG_TARGET=null PATH=$PATH /lib/systemd/systemd --unit=test.target
"""

# What a test cannot wait for, and what this machine's Python needs: it may lie in a home or a temporary folder.
DROP_IN = """
[Service]
WatchdogSec=3
TimeoutStartSec={start_s}
RestartSec=1
StandardOutput=append:/var/log/worker/log
StandardError=inherit
ProtectHome=tmpfs
BindReadOnlyPaths={paths}
"""


class Machine:
    """A booted systemd."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        units = folder / "units"
        (units / "worker.service.d").mkdir(parents=True)
        for target in ("test", "sysinit", "basic", "shutdown", "network-online", "multi-user"):
            (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        shutil.copy(CHECKOUT / "systemd" / "worker.service", units)
        self.configure(environment)
        self.drop_in(start_s=60)
        # A memory file system, since an overlay cannot lie upon another one, which /tmp may be.
        (folder / "layers").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder / "layers"], check=True)
        self.boot = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--ipc", "--cgroup",
             "sh", "-c", BOOT, "boot", folder, sys.prefix],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.pid = int(
            until(lambda: Path(f"/proc/{self.boot.pid}/task/{self.boot.pid}/children").read_text())
        )
        until(lambda: self.run("is-system-running").stdout.strip() in {"running", "degraded"})

    def drop_in(self, *, start_s: float) -> None:
        paths = f"{sys.base_prefix} {CHECKOUT} {sys.prefix}"
        (self.folder / "units/worker.service.d/test.conf").write_text(
            DROP_IN.format(start_s=start_s, paths=paths)
        )

    def configure(self, environment: dict[str, str]) -> None:
        text = "".join(f'{name}="{value}"\n' for name, value in environment.items())
        (self.folder / "worker.env").write_text(text)
        if hasattr(self, "pid"):
            self.inside("cp", str(self.folder / "worker.env"), "/etc/worker/")

    def inside(self, *command: str) -> "subprocess.CompletedProcess[str]":
        within = [
            "nsenter",
            "--target",
            str(self.pid),
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--cgroup",
            "--",
        ]
        return subprocess.run([*within, *command], capture_output=True, text=True, check=False)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.inside("systemctl", *arguments)

    def show(self, name: str) -> str:
        return self.run("show", "worker", "--value", f"--property={name}").stdout.strip()

    def daemon(self) -> int:
        """The daemon's process id, as we see it."""
        group = next(Path("/proc").glob(f"{self.pid}/root/sys/fs/cgroup/**/worker.service/cgroup.procs"))
        return min(int(pid) for pid in group.read_text().split())

    def log(self) -> str:
        return self.inside("cat", "/var/log/worker/log").stdout

    def off(self) -> None:
        self.boot.kill()
        self.boot.wait()
        until(lambda: not Path(f"/proc/{self.pid}").exists())
        subprocess.run(["umount", self.folder / "layers"], check=True)


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "WORKER_STORAGE_DIR": "/var/lib/worker/store",
        "WORKER_ENGINE": "relief",
        "WORKER_BACKGROUND_MODEL": "u2netp",
        "WORKER_PHOTO_LOOPBACK": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "WORKER_LANES": "1",
    }


@pytest.fixture
def machine(tmp_path: Path, environment: dict[str, str], u2netp: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "machine", environment)
    machine.inside("mkdir", "-p", "/var/lib/worker")
    machine.inside("cp", "-r", str(u2netp), "/var/lib/worker/weights")
    yield machine
    machine.off()


def test_start_waits_for_ready_and_stop_drains_a_job(
    machine: Machine, engine: Engine, photos: PutPhoto, mug: bytes
) -> None:
    started = machine.run("start", "worker")
    assert started.returncode == 0, machine.log()
    assert '"event": "ready"' in machine.log()
    assert f'"sandbox": {landlock.abi()},' in machine.log(), "the unit allows the kernel's Landlock"
    assert (machine.show("ActiveState"), machine.show("SubState")) == ("active", "running")
    until(lambda: machine.show("StatusText") == "cpu.0: idle")

    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=[photos("mug.png", mug)])
    until(lambda: queue.get_jobs(engine, [job])[0]["progress"] >= 10)
    stopped = machine.run("stop", "worker")
    assert stopped.returncode == 0
    row = queue.get_jobs(engine, [job])[0]
    assert (row["status"], row["attempts"]) == ("completed", 1), row
    assert (machine.show("ActiveState"), machine.show("Result")) == ("inactive", "success")
    assert '"reason": "drained"' in machine.log()


def test_a_frozen_daemon_is_ended_by_the_watchdog_and_started_again(machine: Machine) -> None:
    assert machine.run("start", "worker").returncode == 0, machine.log()
    first = machine.daemon()
    os.kill(first, signal.SIGSTOP)
    until(lambda: machine.show("NRestarts") == "1", 60)
    until(lambda: machine.show("ActiveState") == "active", 60)
    assert machine.daemon() != first
    assert not Path(f"/proc/{first}").exists()


def test_one_frozen_lane_of_four_is_too_and_the_log_says_where(
    machine: Machine, environment: dict[str, str], sql: psycopg.Connection, database_url: str
) -> None:
    machine.configure(environment | {"WORKER_LANES": "4"})
    assert machine.run("start", "worker").returncode == 0, machine.log()
    with sql.transaction(), psycopg.connect(database_url, autocommit=True) as other:
        sql.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        other.execute("NOTIFY worker_jobs")
        until(lambda: machine.show("NRestarts") == "1", 60)
    until(lambda: machine.show("ActiveState") == "active", 60)
    log = machine.log()
    assert "lane_frozen" in log
    assert "Fatal Python error: Aborted" in log
    assert "in _claim_and_work" in log


def test_a_wrong_configuration_is_not_started_again(machine: Machine, environment: dict[str, str]) -> None:
    machine.configure(environment | {"DATABASE_URL": ""})
    assert machine.run("start", "worker").returncode != 0
    time.sleep(4)  # RestartSec is 1
    assert (machine.show("ActiveState"), machine.show("ExecMainStatus")) == ("failed", "78")
    assert machine.show("NRestarts") == "0"
    assert machine.log().splitlines()[-1].startswith("error: DATABASE_URL is not set.")


def test_a_database_that_is_away_at_boot_is_waited_for(machine: Machine, environment: dict[str, str]) -> None:
    machine.drop_in(start_s=6)
    machine.run("daemon-reload")
    machine.configure(environment | {"DATABASE_URL": "postgresql://a:b@127.0.0.1:9/c"})
    assert machine.run("start", "worker").returncode != 0
    until(lambda: int(machine.show("NRestarts")) >= 2, 60)
    until(lambda: machine.show("StatusText").startswith("waiting for the database: "), 60)
    machine.configure(environment)  # it is back
    machine.drop_in(start_s=60)
    machine.run("daemon-reload")
    until(lambda: machine.show("StatusText") == "cpu.0: idle", 90)
    assert machine.show("ActiveState") == "active"
