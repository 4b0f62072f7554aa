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

# What became of a model that was not published at once, before its URL.
REVIEWS = {
    "wanted": ("to review  ", "yellow"),
    "approved": ("approved  ", "dim"),
    "rejected": ("rejected  ", "red"),
}

BATCH_PARTS = (
    ("waiting", "waiting", COLORS["pending"]),
    ("running", "running", COLORS["processing"]),
    ("completed", "completed", COLORS["completed"]),
    ("failed", "failed", COLORS["failed"]),
    ("cancelled", "cancelled", COLORS["cancelled"]),
    ("gone", "deleted", "dim"),
    ("for_review", "to review", "yellow"),
    ("cached", "known before", "dim"),
)

# Work on stored files that has failed, by the kind that the metric modelworker_file_work has too.
FILE_WORK = {
    "publish": "models not published",
    "remove": "old versions not deleted",
    "erase": "erasures not done",
}

MOST = 5  # hosts, and kinds of failures, that are listed one by one


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
            Text.assemble(product(job), (f"  {job['shop']}", "dim")),
            Text(job["status"], style=color),
            ProgressBar(100, job["progress"], complete_style=color, finished_style=color),
            Text(_seconds(job), style="dim"),
            _remark(job),
        )
    return table


def queue_summary(
    health: Mapping[str, Any],
    hosts: Sequence[Mapping[str, Any]],
    unserved: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    file_failures: Sequence[Mapping[str, Any]],
) -> Table:
    """Return the queue in a few lines: figures, jobs that no host can take, hosts, failures of jobs and of work on files."""
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
    for n, line in enumerate(map(_printable, unserved[:MOST])):
        wanted = f"pool {line['pool']}" + (f", engine {line['engine']}" if line["engine"] else "")
        table.add_row(
            "" if n else "unserved",
            Text.assemble(
                (f"{line['jobs']:,}", "bold yellow"), (f"  {wanted}: no running host takes them", "yellow")
            ),
        )
    if len(unserved) > MOST:
        table.add_row("", Text(f"and {len(unserved) - MOST} more: worker status --json", style="dim"))
    if health["to_review"]:
        waiting = Text.assemble(
            (f"{health['to_review']:,}", "bold yellow"), ("  to review: worker review", "yellow")
        )
        table.add_row("models", waiting)
    if not hosts:
        table.add_row("hosts", Text("no worker is running", style="yellow" if health["due"] else "dim"))
    for n, host in enumerate(map(_printable, hosts[:MOST])):
        table.add_row("" if n else "hosts", Text.assemble(*host_state(host), (f"  {host['engine']}", "dim")))
    if len(hosts) > MOST:
        table.add_row("", Text(f"and {len(hosts) - MOST} more: worker hosts", style="dim"))
    for n, failure in enumerate(map(_printable, failures[:MOST])):
        table.add_row(
            "" if n else "failures",
            Text.assemble(
                (failure["error_code"], "red"),
                f"  {failure['jobs']}",
                (f" in the last day, the latest {about(failure['latest_s'])} ago", "dim"),
            ),
        )
    for n, failure in enumerate(map(_printable, file_failures)):
        table.add_row(
            "" if n else "files",
            Text.assemble(
                (f"{failure['count']:,}", "bold red"),
                (f"  {FILE_WORK[failure['kind']]}, will be tried again", "red"),
                (f"  {failure['reason']}", "dim"),
            ),
        )
    return table


def batches_table(batches: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with one line a batch: its name and shop, progress, and its jobs by state."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("batch", ratio=3, overflow="ellipsis", no_wrap=True)
    table.add_column("", width=16)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", ratio=4, overflow="fold")
    for batch in map(_printable, batches):
        unfinished = batch["waiting"] + batch["running"]
        color = "cyan" if unfinished else "red" if batch["failed"] else "green"
        parts = [
            (f"{batch[name]:,} {label}", color_of_part)
            for name, label, color_of_part in BATCH_PARTS
            if batch[name]
        ]
        table.add_row(
            Text.assemble(batch["batch"], (f"  {batch['shop']}", "dim")),
            ProgressBar(100, batch["percent"], complete_style=color, finished_style=color),
            Text(f"{batch['total'] - unfinished:,}/{batch['total']:,}", style="dim"),
            Text("  ").join(Text(text, style=style) for text, style in parts),
        )
    return table


def review_list(jobs: Sequence[Mapping[str, Any]]) -> Text:
    """Return the jobs whose models wait for review, three lines each: whole id, product, score and age; first warning; URL."""
    now = datetime.now(UTC)
    blocks = []
    for job in map(_printable, jobs):
        score, warning = "", ""
        match job["report"].get("quality"):
            case {"score": int() | float() as number, "warnings": list() as warnings}:
                score = f"  score {number:.0f} of 100"
                warning = f"\n  {_one_line(str(warnings[0]))}" if warnings else ""
        age = about((now - job["completed_at"]).total_seconds())
        blocks.append(
            Text.assemble(
                (str(job["id"]), "bold"), f"  {product(job)}", (f"  {job['shop']}", "dim"),
                (score, "yellow"), (f"  waits {age}", "dim"), warning, (f"\n  {job['model_url']}", "green"),
            )
        )  # fmt: skip
    return Text("\n").join(blocks)


def product(job: Mapping[str, Any]) -> str:
    """Return the product's id, and the variant's if there is one, without the gids' prefixes."""
    return "/".join(last_part(part) for part in (job["product_id"], job["variant_id"]) if part)


def host_state(host: Mapping[str, Any]) -> list[str | tuple[str, str]]:
    """Return a host's name and what it does, as parts of a line."""
    running = f"  {host['running']} running" if host["running"] else ""
    match host["state"]:
        case "gone":
            return [("✗ ", "red"), host["name"], (f"  gone, last seen {about(host['seen_s'])} ago", "red")]
        case "paused":
            paused = f"  paused{_since(host)}"
            return [("‖ ", "yellow"), host["name"], (paused, "yellow"), (running, "cyan")]
        case _:
            dot = ("● ", "green") if host["running"] else ("○ ", "green")
            return [dot, host["name"], (running or "  idle", "cyan" if running else "dim")]


def _since(host: Mapping[str, Any]) -> str:
    """Return what became of a paused host whose daemon does not run."""
    if host["up"]:
        return ""
    return f", {'stopped' if host['stopped_at'] else 'last seen'} {about(host['seen_s'])} ago"


def hosts_table(hosts: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with one line a host: its state, and what it can do."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("host", "engine", "pools", "lanes", "devices", "memory", "version", "up", "last hour"):
        table.add_column(column, overflow="fold" if column in {"pools", "devices"} else "ellipsis")
    now = datetime.now(UTC)
    for host in map(_printable, hosts):
        table.add_row(
            Text.assemble(*host_state(host)),
            host["engine"],
            _one_line(", ".join(host["pools"])),
            str(host["lanes"]),
            _one_line(", ".join(host["devices"])),
            f"{host['memory_mb'] / 1024:.0f} GB",
            host["version"],
            "" if not host["up"] else about((now - host["started_at"]).total_seconds()),
            f"{host['ended']} jobs",
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


def _moment(moment: datetime) -> str:
    """Return a time in UTC, with its date if that is not today's."""
    moment, now = moment.astimezone(UTC), datetime.now(UTC)
    return f"{moment:%H:%M:%S} UTC" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M} UTC"


def _printable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose texts stay on their line and in their colour, whatever a backend has written into them."""
    return {name: _one_line(value) if isinstance(value, str) else value for name, value in row.items()}


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def _seconds(job: Mapping[str, Any]) -> str:
    if job["started_at"] is None or job["status"] == "pending":
        return ""
    end = job["completed_at"] or datetime.now(UTC)
    return duration((end - job["started_at"]).total_seconds())


def _remark(job: Mapping[str, Any]) -> Text:
    match job["status"]:
        case "completed":
            word, color = REVIEWS.get(job["review"], ("", ""))
            url = Text.assemble((word, color), (job["model_url"], "green"))
            url.overflow, url.no_wrap = "ellipsis", True
            return url
        case "failed":
            return Text(f"{job['error_code']}: {job['error_message']}", style="red")
        case "pending" if job["error_code"]:
            return Text(f"retry at {_moment(job['run_after'])} after {job['error_code']}", style="yellow")
        case "pending" if job["run_after"] > datetime.now(UTC):
            return Text(f"not before {_moment(job['run_after'])}", style="dim")
        case "processing":
            return Text(f"{job['stage']}" + (f", attempt {job['attempts']}" if job["attempts"] > 1 else ""))
        case _:
            return Text("")
