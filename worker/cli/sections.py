"""How the commands explain themselves: as plain text that fits the terminal, with the commands in sections."""

import shutil
from typing import Any

import typer
from typer.core import TyperGroup

WIDEST = 80

# The sections of `worker --help` in their order, for a command's `rich_help_panel`.
JOBS = "Jobs"
MODELS = "Models"
FLEET = "Hosts and backends"
HOST = "This host"
LAPTOP = "A laptop"
ORDER = (JOBS, MODELS, FLEET, HOST, LAPTOP)


class Sections(TyperGroup):
    """A group that lists its commands in sections."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer's signature
        """Write a section for each `rich_help_panel`."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ORDER}
        longest = max(map(len, self.commands))
        for name, command in self.commands.items():
            title = str(getattr(command, "rich_help_panel", None) or LAPTOP)
            summary = command.get_short_help_str(formatter.width - 6 - longest)
            sections.setdefault(title, []).append((name.ljust(longest), summary))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def width() -> int:
    """Return how wide the help is: as the terminal, and 80 columns at most."""
    return min(shutil.get_terminal_size().columns, WIDEST)


def simplify(command: Any) -> None:
    """Let a command and those below it name their arguments without Python's types, such as `list[str]`."""
    for parameter in command.params:
        if isinstance(parameter, typer.core.TyperArgument):
            parameter.display_type_rich = lambda ctx: ""  # type: ignore[method-assign]  # noqa: ARG005 - typer's name
    for each in getattr(command, "commands", {}).values():
        simplify(each)
