"""Findings on a terminal."""

from rich.text import Text

from worker.core.finding import Finding, Level

MARKS = {
    Level.OK: ("✓", "green"),
    Level.SKIPPED: ("·", "dim"),
    Level.ADVICE: ("!", "yellow"),
    Level.UNREACHABLE: ("✗", "magenta"),
    Level.CHECK_FAILED: ("✗", "magenta"),
    Level.FAIL: ("✗", "red"),
}


def line(finding: Finding) -> Text:
    """Return a finding as text, with the fix on a line below it."""
    mark, color = MARKS[finding.level]
    text = Text.assemble((f"{mark} {finding.name:<15}", color), finding.text)
    return text.append(f"\n{'':17}→ {finding.fix}", "bold") if finding.fix else text
