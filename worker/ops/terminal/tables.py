"""Tables of jobs, batches, hosts and webhooks on a terminal. A line never wraps: what does not fit is cut."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from worker import engines
from worker.core.errors import printable
from worker.ops.terminal.formats import about, counted, duration, file_size, moment
from worker.storage.paths import last_part

COLORS = {
    "pending": "dim",
    "processing": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
}

# What became of a model that was not published at once.
REVIEWS = {
    "wanted": ("to review", "yellow"),
    "approved": ("approved", "dim"),
    "rejected": ("rejected", "red"),
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

# Columns of a terminal from which on there is room for more.
NARROW, USUAL, WIDE = 60, 80, 100


def jobs_table(jobs: Sequence[Mapping[str, Any]], width: int) -> Table:
    """Return a table with one line a job, for a terminal of `width` columns: id, product, state, time and remark."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("job", no_wrap=True, min_width=8)
    table.add_column("product", ratio=2, overflow="ellipsis", no_wrap=True)
    table.add_column("status", no_wrap=True)
    if width >= WIDE:
        table.add_column("", width=16)
    if width >= NARROW:
        table.add_column("took", justify="right", no_wrap=True)
        table.add_column("", ratio=4, overflow="ellipsis", no_wrap=True)
    for job in map(clean, jobs):
        color = COLORS[job["status"]]
        state = f"{job['progress']} %" if job["status"] == "processing" else job["status"]
        cells: list[Any] = [
            Text(job["short"], style="dim"),
            # The product comes first: a narrow terminal cuts the shop off.
            Text.assemble(product(job), (f"  {job['shop']}", "dim")),
            Text(state, style=color),
        ]
        if width >= WIDE:
            cells.append(ProgressBar(100, job["progress"], complete_style=color, finished_style=color))
        if width >= NARROW:
            cells += [Text(seconds(job), style="dim"), _remark(job)]
        table.add_row(*cells)
    return table


def job_line(job: Mapping[str, Any]) -> Text:
    """Return a job on one line that changes only as its state does: id, product, state, remark."""
    job = clean(job) | {"estimated_start": None, "estimated_end": None}  # which change every second
    state = f"{job['progress']} %" if job["status"] == "processing" else job["status"]
    parts = [Text(job["short"]), Text(product(job)), Text(state), _remark(job)]
    return Text("  ").join(part for part in parts if part)


def batches_table(batches: Sequence[Mapping[str, Any]], width: int) -> Table:
    """Return a table with one line a batch, for a terminal of `width` columns: name, progress, and its jobs by state."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("batch", ratio=3, overflow="ellipsis", no_wrap=True)
    if width >= NARROW:
        table.add_column("", width=16)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", ratio=4, overflow="fold")
    for batch in map(clean, batches):
        unfinished = batch["waiting"] + batch["running"]
        color = "cyan" if unfinished else "red" if batch["failed"] else "green"
        parts = [
            (f"{batch[name]:,} {label}", color_of_part)
            for name, label, color_of_part in BATCH_PARTS
            if batch[name]
        ]
        if batch["estimated_end"]:
            parts.append((f"{until(batch['estimated_end'])} left", "dim"))
        cells: list[Any] = [
            Text.assemble(batch["batch"], (f"  {batch['shop']}", "dim")),
            Text(f"{batch['total'] - unfinished:,}/{batch['total']:,}", style="dim"),
            Text("  ").join(Text(text, style=style) for text, style in parts),
        ]
        if width >= NARROW:
            bar = ProgressBar(100, batch["percent"], complete_style=color, finished_style=color)
            cells.insert(1, bar)
        table.add_row(*cells)
    return table


def review_list(jobs: Sequence[Mapping[str, Any]]) -> Text:
    """Return the jobs whose models wait for review, three lines each: whole id, product, score and age; first warning; URL."""
    now = datetime.now(UTC)
    blocks = []
    for job in map(clean, jobs):
        score, warning = "", ""
        match job["report"].get("quality"):
            case {"score": int() | float() as number, "warnings": list() as warnings}:
                score = f"  score {number:.0f} of 100"
                warning = f"\n  {flat(str(warnings[0]))}" if warnings else ""
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


def hosts_table(hosts: Sequence[Mapping[str, Any]], width: int) -> Table:
    """Return a table with one line a host, for a terminal of `width` columns: its state, and what it can do."""
    now = datetime.now(UTC)
    columns: dict[str, list[Any]] = {"host": [Text.assemble(*host_state(host)) for host in map(clean, hosts)]}
    columns["engine"] = [flat(host["engine"]) for host in hosts]
    if width >= NARROW:
        columns["pools"] = [flat(", ".join(host["pools"])) for host in hosts]
    if width >= USUAL:
        columns["lanes"] = [f"{host['lanes']:,}" for host in hosts]
        columns["devices"] = [flat(", ".join(host["devices"])) for host in hosts]
    if width >= WIDE:
        columns["memory"] = [file_size(host["memory_mb"] * 2**20) for host in hosts]
        columns["version"] = [flat(host["version"]) for host in hosts]
    if width >= USUAL:
        columns["up"] = [
            about((now - host["started_at"]).total_seconds()) if host["up"] else "" for host in hosts
        ]
    if width >= NARROW:
        columns["last hour"] = [counted(host["ended"], "job") for host in hosts]
    table = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for column in table.columns:
        column.no_wrap, column.overflow = True, "ellipsis"
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def dead_table(events: Sequence[Mapping[str, Any]], width: int) -> Table:
    """Return a table of events that the backend refused, with beginnings of their ids for `worker webhooks replay`."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("event", no_wrap=True, min_width=8)
    table.add_column("job", no_wrap=True, min_width=8)
    table.add_column("status", no_wrap=True)
    if width >= USUAL:
        table.add_column("tries", no_wrap=True, justify="right")
        table.add_column("given up", no_wrap=True)
    table.add_column("", overflow="ellipsis", no_wrap=True)
    for event in map(clean, events):
        overtaken = event["overtaken"]
        reason = Text(
            "superseded by a later event" if overtaken else event["reason"],
            style="dim" if overtaken else "red",
        )
        cells: list[str | Text] = [
            event["short"],
            Text(str(event["job_id"] or "")[:8], style="dim"),
            Text(
                event["status"] or event["type"], style=COLORS.get(event["status"], "")
            ),  # a batch has no status
        ]
        if width >= USUAL:
            cells += [f"{event['attempts']:,}", Text(moment(event["dead_at"]), style="dim")]
        table.add_row(*cells, reason)
    return table


def clean(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose texts stay on their line and in their colour, whatever a backend has written into them."""
    return {name: flat(value) if isinstance(value, str) else value for name, value in row.items()}


def flat(text: str) -> str:
    """Return a text without line breaks and without what commands a terminal."""
    return " ".join(printable(text).split())


def seconds(job: Mapping[str, Any]) -> str:
    """Return how long a job has run, from its last start; nothing if it waits."""
    if job["started_at"] is None or job["status"] == "pending":
        return ""
    end = job["completed_at"] or datetime.now(UTC)
    return duration((end - job["started_at"]).total_seconds())


def until(estimate: datetime) -> str:
    """Return how long it is until an estimated moment: `about 5 min`."""
    return f"about {about((estimate - datetime.now(UTC)).total_seconds())}"


def model_kind(job: Mapping[str, Any]) -> str:
    """Return what a completed job's model is: `preview` or `model`, its version, and if that is the published one."""
    report = job["report"]
    words = ["preview" if str(report.get("engine")) in engines.PREVIEWS else "model"]
    if job["version"]:
        words.append(job["version"][:8])
    if job["published"]:
        words.append("published")
    return " ".join(words)


def _remark(job: Mapping[str, Any]) -> Text:
    match job["status"]:
        case "completed":
            word, color = REVIEWS.get(job["review"], ("", ""))
            return Text.assemble((f"{word}  " if word else "", color), (model_kind(job), "green"))
        case "failed":
            text, color = f"{job['error_code']}: {job['error_message']}", "red"
        case "processing" if job["cancel_requested_at"]:
            text, color = "cancel requested", "yellow"
        case "processing":
            again = f", attempt {job['attempts']:,}" if job["attempts"] > 1 else ""
            left = f", {until(job['estimated_end'])} left" if job["estimated_end"] else ""
            text, color = f"{job['stage']}{again}{left}", ""
        case "pending" if job["error_code"]:
            due = "retry" if job["run_after"] <= datetime.now(UTC) else f"retry at {moment(job['run_after'])}"
            text, color = f"{due} after {job['error_code']}", "yellow"
        case "pending" if job["run_after"] > datetime.now(UTC):
            text, color = f"not before {moment(job['run_after'])}", "dim"
        case "pending" if job["estimated_start"]:
            text, color = f"starts in {until(job['estimated_start'])}", "dim"
        case _:
            text, color = job["error_code"] or "", "yellow"
    return Text(text, style=color)
