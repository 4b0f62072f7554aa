"""Tables of jobs, of the queue and of webhooks on a terminal."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from worker.core.errors import printable
from worker.ops.terminal.formats import about, duration
from worker.storage.paths import last_part

COLORS = {
    "pending": "dim",
    "processing": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
}

MOST = 5  # workers, and kinds of failures, that are listed one by one


def jobs_table(jobs: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with one line a job: product, progress, and outcome."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("job", no_wrap=True)
    table.add_column("product", ratio=3, overflow="ellipsis", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("", width=16)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", ratio=4, overflow="fold")
    for job in map(_printable, jobs):
        color = COLORS[job["status"]]
        table.add_row(
            # The beginning tells jobs apart as well as the whole, which --json prints.
            Text(str(job["id"])[:8], style="dim"),
            # The product comes first: a narrow terminal cuts the shop off.
            Text.assemble(
                "/".join(last_part(part) for part in (job["product_id"], job["variant_id"]) if part),
                (f"  {job['shop']}", "dim"),
            ),
            Text(job["status"], style=color),
            ProgressBar(100, job["progress"], complete_style=color, finished_style=color),
            Text(_seconds(job), style="dim"),
            _remark(job),
        )
    return table


def queue_summary(
    health: Mapping[str, Any], workers: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]]
) -> Table:
    """Return the queue in a few lines: figures, active workers, failures."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    oldest = health["oldest_has_waited_s"]
    figures = Text.assemble(
        (f"{health['pending']:,}", "bold"), " waiting",
        (f", the oldest for {about(oldest)}" if oldest is not None else "", "dim"),
        "   ", (f"{health['running']}", "bold cyan"), " running",
        (f", {health['stuck']} of them lost" if health["stuck"] else "", "bold red"),
        "   ", (f"{health['completed_last_hour']:,}", "bold green"), " completed",
        "   ", (f"{health['failed_last_hour']:,}", "bold red" if health["failed_last_hour"] else "bold"), " failed",
        (" in the last hour", "dim"),
    )  # fmt: skip
    table.add_row("queue", figures)
    if not workers:
        waits = bool(health["due"])
        table.add_row(
            "workers", Text("no worker active in the last hour", style="yellow" if waits else "dim")
        )
    for n, worker in enumerate(map(_printable, workers[:MOST])):
        doing = (
            Text.assemble(("● ", "green"), worker["worker"], (f"  {worker['running']} running", "cyan"))
            if worker["running"]
            else Text.assemble(("○ ", "dim"), worker["worker"], (f"  {about(worker['seen_s'])} ago", "dim"))
        )
        table.add_row("" if n else "workers", doing)
    if len(workers) > MOST:
        table.add_row("", Text(f"and {len(workers) - MOST} more", style="dim"))
    for n, failure in enumerate(map(_printable, failures[:MOST])):
        table.add_row(
            "" if n else "failures",
            Text.assemble(
                (failure["error_code"], "red"),
                f"  {failure['jobs']}",
                (f" in the last day, the latest {about(failure['latest_s'])} ago", "dim"),
            ),
        )
    return table


def verdict(job: Mapping[str, Any], outcome: Sequence[str], advice: str | None) -> Text:
    """Return how a job ended, and what to do if it did not complete."""
    job = _printable(job)
    if job["status"] == "completed":
        return Text.assemble(
            ("✓ completed  ", "bold green"), "\n  ".join(map(printable, [_seconds(job), *outcome]))
        )
    text = Text.assemble((f"✗ {job['status']}  ", "bold red"), job["error_message"] or "")
    if advice:
        text.append(f"\n  {job['error_code']}: ", "dim").append(advice)
    return text


def dead_table(events: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of events that the backend refused, with the ids for `worker webhooks replay`."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("event", "status", "tries"):
        table.add_column(column, no_wrap=True)
    table.add_column("", overflow="fold")
    for event in map(_printable, events):
        reason = "superseded by a later event" if event["overtaken"] else event["reason"]
        table.add_row(
            str(event["id"]),
            Text(event["status"], style=COLORS[event["status"]]),
            str(event["attempts"]),
            Text.assemble(
                (reason, "dim" if event["overtaken"] else "red"),
                (f"  {event['dead_at']:%d %b %H:%M}  job {str(event['job_id'])[:8]}", "dim"),
            ),
        )
    return table


def _printable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose texts stay on their line and in their colour, whatever a backend has written into them."""
    return {
        name: printable(value).replace("\n", " ") if isinstance(value, str) else value
        for name, value in row.items()
    }


def _seconds(job: Mapping[str, Any]) -> str:
    if job["started_at"] is None or job["status"] == "pending":
        return ""
    end = job["completed_at"] or datetime.now(UTC)
    return duration((end - job["started_at"]).total_seconds())


def _remark(job: Mapping[str, Any]) -> Text:
    match job["status"]:
        case "completed":
            return Text(job["model_url"], style="green", overflow="ellipsis", no_wrap=True)
        case "failed":
            return Text(f"{job['error_code']}: {job['error_message']}", style="red")
        case "pending" if job["error_code"]:
            return Text(f"retry at {job['run_after']:%H:%M:%S} UTC after {job['error_code']}", style="yellow")
        case "pending" if job["run_after"] > datetime.now(UTC):
            return Text(f"not before {job['run_after']:%H:%M:%S} UTC", style="dim")
        case "processing":
            return Text(f"{job['stage']}" + (f", attempt {job['attempts']}" if job["attempts"] > 1 else ""))
        case _:
            return Text("")
