"""The pages: every link has a target, and every setting, command and file that a page names exists."""

import re
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from worker.cli.app import app
from worker.core import settings

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def prose(page: Path) -> str:
    """The page without its blocks of code, which have no links."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes from the headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(
            " ", "-"
        )
        found.add(name if name not in found else f"{name}-1")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    # The changelog's section on changes names old settings, too.
    text = re.sub(r"^### Changed\n.*?(?=^##|\Z)", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"\b(?:WORKER|SUPABASE|WEBHOOK|BACKEND|DATABASE)_[A-Z_]+\b", text))
    of_commands = {
        parameter.envvar
        for command in get_command(app).commands.values()  # type: ignore[attr-defined]
        for parameter in command.params
    }
    assert named - set(settings.variables()) - of_commands == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    commands = {
        name: {option for parameter in command.params for option in parameter.opts}
        | set(getattr(command, "commands", {}))
        for name, command in get_command(app).commands.items()  # type: ignore[attr-defined]
    }
    lines = re.findall(r"(?:^|[\s/])worker ([a-z]+)\b([^`\n#]*)", "\n".join(code(page)), re.MULTILINE)
    assert [name for name, _ in lines if name not in commands] == []
    for name, rest in lines:
        if any(not known.startswith("-") for known in commands[name]):  # a group, such as `weights`
            continue
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) - commands[name] - {"--help"} == set(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`((?:worker|tests|migrations|docs|systemd)/[\w./-]+)`", prose(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


def code(page: Path) -> list[str]:
    """The commands of a page: code spans in the text, and the lines of shell blocks without their comments."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [re.split(r"(?:^|\s)# ", line)[0].strip() for block in blocks for line in block.splitlines()]
    # With docker, the name of the image or service comes first.
    lines = [re.sub(r"^docker .* worker (?=worker )", "", line) for line in lines]
    spans = re.findall(r"`(worker [^`\n]+)`", prose(page))
    return [*spans, *(line for line in lines if not line.startswith("docker"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_can_be_read_on_a_phone(page: Path) -> None:
    """A table of many columns has short cells, and what a command does stands above it, not far to its right."""
    for table in re.findall(r"(?:^\|.*\n)+", prose(page), re.MULTILINE):
        rows = [line.strip().strip("|").split(" | ") for line in table.splitlines()]
        longest = max(len(cell) for row in rows for cell in row)
        assert len(rows[0]) <= 3 or longest <= (200 if page.name == "architecture.md" else 80), rows[0]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert [line for line in lines if len(line) > 96 and re.search(r"\S\s+# ", line)] == []
