"""A job must not depend on its log: neither on the disk that takes it nor on the letters that a locale has."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import structlog
from worker.core import logs
logs.configure("json", "info")
structlog.get_logger().info("job_claimed", shop="商店\\udcff\\x1b[31m")
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_in_any_script_is_logged_whatever_the_locale_has(encoding: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={"PYTHONIOENCODING": encoding}, capture_output=True, check=True
    )
    line = ended.stdout.decode(encoding)
    assert '"event": "job_claimed"' in line
    assert "\x1b" not in line
    assert ("商店" in line) == (encoding == "utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_on_a_full_disk_raises_nothing() -> None:
    script = f"{SCRIPT}\nimport os\nos.write(2, b'went on')\nos._exit(0)"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, check=True
        )
    assert ended.stderr == b"went on"
