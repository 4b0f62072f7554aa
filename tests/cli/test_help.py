"""`worker --help` and each command's help: one voice, plain text, as wide as the terminal."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from worker import __version__
from worker.cli import sections
from worker.cli.app import app, execute

# How a summary begins: with what the command does.
VERBS = {
    "Approve", "Cancel", "Check", "Claim", "Delete", "Fetch", "Insert", "Let", "List", "Make", "Print", "Publish", "Queue",
    "Reject", "Resend", "Run", "Serve", "Set", "Show", "Turn", "Upgrade", "Write",
}  # fmt: skip


def commands(command: Any, name: str = "worker") -> Iterator[tuple[str, Any]]:
    yield name, command
    for each, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {each}")


ALL = dict(commands(get_command(app)))


@pytest.mark.parametrize("name", ALL)
def test_every_help_reads_as_one_voice(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    helps = {}
    for columns in (80, 40):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert execute([*name.split()[1:], "--help"]) == 0
        helps[columns] = capfd.readouterr().out
        wide = [line for line in helps[columns].splitlines() if len(line) > columns]
        # A name of an option or of a command is not broken.
        assert [line for line in wide if len(line.split()) > 1 or columns == 80] == []
    text = helps[80]
    assert not re.search(r"<(bool|str|int|path|list)", text), "a type of Python's"
    assert "…" not in text
    assert "..." not in re.sub(r"\]\.\.\.|\}\.\.\.", "", text), "a summary is cut"
    summary = (ALL[name].help or "").strip().partition("\n\n")[0]
    assert summary.split()[0].rstrip(",") in VERBS
    assert summary.endswith(".")
    for parameter in ALL[name].params:
        said = parameter.help or ""
        assert re.match(r"[A-Z]|[a-z]+[ ,]", said), parameter.name
        assert said.endswith("."), (parameter.name, said)


def test_every_command_stands_in_a_section(capfd: pytest.CaptureFixture[str]) -> None:
    assert execute(["--help"]) == 0
    said = capfd.readouterr().out
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert command.rich_help_panel in sections.ORDER, name
        assert re.search(rf"^  {name} +[A-Z]", said, re.MULTILINE), name


def test_the_version_is_an_option_too(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["version"]):
        assert execute(arguments) == 0
        assert capfd.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("worker w", {"watch", "webhooks", "weights"}),
        ("worker enqueue --sample duck-v", {"duck-views"}),
    ],
)
def test_a_shell_completes(typed: str, completed: set[str], tmp_path: Path) -> None:
    """By bash itself, with the script that docs/commands.md has people load."""
    worker = tmp_path / "worker"
    worker.write_text(f'#!/bin/sh\nexec {sys.executable} -m worker "$@"\n')
    worker.chmod(0o755)
    script = f"""
        eval "$(_WORKER_COMPLETE=source_bash worker)"
        COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        $(complete -p worker | sed 's/.*-F \\([^ ]*\\) .*/\\1/') worker
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    found = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (set(found.stdout.split()), found.stderr) == (completed, "")
