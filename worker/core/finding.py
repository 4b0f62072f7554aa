"""What a check found."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

from rich.text import Text


class Level(IntEnum):
    """Rising: how much it matters."""

    GOOD = 0
    SKIPPED = 1
    ADVICE = 2  # the worker does its work, and could do it better
    AWAY = 3  # something does not answer, which may pass
    BROKEN = 4  # the check itself
    WRONG = 5  # the worker cannot do its work like this


@dataclass(frozen=True)
class Finding:
    level: Level
    text: str
    fix: str = ""

    def without(self, secrets: Iterable[str]) -> "Finding":
        """With each of these replaced, should a library have repeated it."""
        found = self
        for secret in secrets:
            found = replace(found, text=found.text.replace(secret, "…"), fix=found.fix.replace(secret, "…"))
        return found


def told(text: str, level: Level) -> Finding:
    """Of a text whose first sentence says what is wrong, and whose others how to mend it."""
    said, _, fix = text.partition(". ")
    return Finding(level, said, fix)


def good(text: str) -> Finding:
    return Finding(Level.GOOD, text)


def advice(text: str, fix: str) -> Finding:
    return Finding(Level.ADVICE, text, fix)


def away(text: str, fix: str) -> Finding:
    return Finding(Level.AWAY, text, fix)


def wrong(text: str, fix: str) -> Finding:
    return Finding(Level.WRONG, text, fix)


MARKS = {
    Level.GOOD: ("✓", "green"),
    Level.SKIPPED: ("·", "dim"),
    Level.ADVICE: ("!", "yellow"),
    Level.AWAY: ("✗", "magenta"),
    Level.BROKEN: ("✗", "magenta"),
    Level.WRONG: ("✗", "red"),
}


def line(check: str, finding: Finding) -> Text:
    """For a terminal: what was found, and below it what to do."""
    mark, color = MARKS[finding.level]
    text = Text.assemble((f"{mark} {check:<15}", color), finding.text)
    return text.append(f"\n{'':17}→ {finding.fix}", "bold") if finding.fix else text
