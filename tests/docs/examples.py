"""The SQL on a page, each with its output, and what psql prints for it."""

import re
import subprocess
import textwrap
from pathlib import Path

PAIR = re.compile(r"^( *)```sql\n(.*?)^ *```(?:\n\n *```text\n(.*?)^ *```)?$", re.DOTALL | re.MULTILINE)
"""SQL, and its output in the block that follows at once, if any: the groups 2 and 3."""


def said(found: re.Match[str]) -> list[str]:
    """Return the output that the page shows."""
    return plain(textwrap.dedent(found[3] or ""))


def printed(found: re.Match[str], psql: Path, database_url: str) -> list[str]:
    """Run the SQL. Return what psql prints, errors included."""
    done = subprocess.run(
        [psql, "-XqP", "footer=off", "-v", "VERBOSITY=terse", database_url],
        input=textwrap.dedent(found[2]),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return plain(done.stdout)


def plain(text: str) -> list[str]:
    """Replace what differs from run to run: ids, durations, and the widths of their columns."""
    text = re.sub(r"\d\d:\d\d:\d\d(\.\d+)?", "DURATION", text)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    lines = (re.sub(r"-+", "-", re.sub(r" +", " ", line)).strip() for line in text.splitlines())
    return [line for line in lines if line]
