"""Programs of the documentation in TypeScript: checked as strictly as a careful backend would, and made runnable."""

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import NPM

FLAGS = "--strict --noUncheckedIndexedAccess --target es2022 --module nodenext --skipLibCheck --types node"


def compile_program(source: str, folder: Path, name: str, *packages: str) -> Path:
    """Check the program and write `folder/name.mjs`. Skip the test where node, the compiler or a package is missing."""
    wanted = ["typescript", "@types/node", "postgres", *packages]
    if not shutil.which("node") or not all((NPM / "node_modules" / package).exists() for package in wanted):
        pytest.skip(f"needs node, and: npm install --prefix {NPM} {' '.join(wanted)}")
    (folder / f"{name}.mts").write_text(source)
    (folder / "node_modules").symlink_to(NPM / "node_modules")
    compiler = NPM / "node_modules" / ".bin" / "tsc"
    command = [str(compiler), *FLAGS.split(), f"{name}.mts"]
    checked = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    return folder / f"{name}.mjs"
