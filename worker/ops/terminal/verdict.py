"""How a job ended, on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from worker.core.errors import printable
from worker.ops import advice
from worker.ops.terminal.formats import counted, file_size, moment
from worker.ops.terminal.tables import REVIEWS, clean, model_kind, seconds

# Pictures beside the model, by their key in the report.
PICTURES = {"poster_url": "poster", "turntable_url": "turntable"}


def verdict(job: Mapping[str, Any]) -> Text:
    """Return how a job ended: what it made and where that lies, or what to do about its failure."""
    job = clean(job)
    if job["status"] == "completed":
        took = Text.assemble(("✓ completed  ", "bold green"), seconds(job), (f"  {job['short']}", "dim"))
        took.append(f"  at {moment(job['completed_at'])}", "dim")
        return Text("\n  ").join([took, *map(Text, map(printable, outcome(job)))])
    text = Text.assemble(
        (f"✗ {job['status']}  ", "bold red"), job["error_message"] or "", (f"  {job['short']}", "dim")
    )
    if hint := advice.on_job(job):
        text.append(f"\n  {job['error_code']}: ", "dim").append(hint)
        if job["error_code"] in advice.CODES:
            text.append(f"\n  {advice.PAGE}#{job['error_code']}", "dim")
    return text


def outcome(job: Mapping[str, Any]) -> Sequence[str]:
    """Describe what a completed job made, a line each."""
    report = job["report"]
    lines = [job["model_url"]]
    lines += [f"{name}  {report[key]}" for key, name in PICTURES.items() if isinstance(report.get(key), str)]
    lines.append(model_kind(job))
    if word := REVIEWS.get(job["review"], ("",))[0]:
        lines[-1] += f", {word}"
    if job["review"] == "wanted":
        lines.append(f"It waits for review: worker review approve {job['short']}")
    if isinstance(source := report.get("cached"), str):
        lines.append(f"The same result as that of job {source}")
    match report.get("model"):
        case {"triangles": int() as triangles, "glb_bytes": int() as size}:
            lines.append(f"{counted(triangles, 'triangle')}, {file_size(size)}")
    match report.get("quality"):
        case {"score": int() | float() as score, "warnings": list() as warnings}:
            lines += [f"score {score:.0f} of 100", *map(str, warnings)]
    return lines
