"""The lock files, and the page that names the licences of what they install."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64"}
LOCKS = ["requirements.lock", "requirements-cuda.lock", "requirements-cpu.lock", "tests/requirements.lock"]


def pins(lock: str) -> dict[str, str]:
    """Return the version of each package that Linux needs."""
    found: dict[str, str] = {}
    for line in (ROOT / lock).read_text().splitlines():
        if line[:1].isalpha():
            pin = Requirement(line.removesuffix("\\"))
            if pin.marker is None or pin.marker.evaluate(LINUX):
                found[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_each_package_with_hashes(lock: str) -> None:
    packages = re.split(r"^(?=\w)", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]
    assert packages
    for package in packages:
        assert re.match(r"[\w.-]+==[\w.+]+ ", package), package
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", package), package


def test_no_package_is_locked_twice() -> None:
    names = [name for lock in LOCKS if lock != "requirements-cpu.lock" for name in pins(lock)]
    assert len(names) == len(set(names))
    assert pins("requirements-cpu.lock") == {"torch": pins("requirements-cuda.lock")["torch"] + "+cpu"}


def test_the_page_lists_what_is_shipped() -> None:
    rows = re.findall(
        r"^\| (\S+) \| (\S+) \| (.+) \|$", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE
    )
    listed = {
        canonicalize_name(name): version
        for name, version, _ in rows
        if name != "package" and not name.startswith("-")
    }
    assert listed == pins("requirements.lock") | pins("requirements-cuda.lock")
