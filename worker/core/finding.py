"""The result of a check: shared by the doctor, the stores and the checks before a test job."""

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """The severity of a finding, in rising order."""

    OK = 0
    SKIPPED = 1
    ADVICE = 2  # the worker works, and could work better
    UNREACHABLE = 3  # something does not answer; this may pass by itself
    CHECK_FAILED = 4  # the check itself has a defect
    FAIL = 5  # the worker cannot work like this


@dataclass(frozen=True)
class Finding:
    """The result of the check `name`, and the fix."""

    level: Level
    name: str
    text: str
    fix: str = ""

    def __str__(self) -> str:
        """Return the text and the fix as one line."""
        return f"{self.text}. {self.fix}" if self.fix else self.text


def ok(name: str, text: str) -> Finding:
    """Return a finding of level OK."""
    return Finding(Level.OK, name, text)


def advice(name: str, text: str, fix: str) -> Finding:
    """Return a finding of level ADVICE."""
    return Finding(Level.ADVICE, name, text, fix)


def unreachable(name: str, text: str, fix: str) -> Finding:
    """Return a finding of level UNREACHABLE."""
    return Finding(Level.UNREACHABLE, name, text, fix)


def fail(name: str, text: str, fix: str) -> Finding:
    """Return a finding of level FAIL."""
    return Finding(Level.FAIL, name, text, fix)


def from_error(name: str, error: Exception) -> Finding:
    """Return a FAIL from an error whose first sentence names the problem and whose others say how to fix it."""
    text, _, fix = str(error).partition(". ")
    return Finding(Level.FAIL, name, text, fix)
