"""Jobs on a terminal: what `worker status`, `worker watch` and the demo show."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from worker.ops.terminal.formats import about, duration, last_part

COLORS = {
    "pending": "dim",
    "processing": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
}

WORKERS = 5  # and failures, that are shown one by one


def jobs_table(jobs: Sequence[Mapping[str, Any]]) -> Table:
    """One line a job: who, how far, and what came of it."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("job", no_wrap=True)
    table.add_column("product", ratio=3, overflow="ellipsis", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("", width=16)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", ratio=4, overflow="fold")
    for job in jobs:
        color = COLORS[job["status"]]
        table.add_row(
            # The end tells jobs apart at a glance as well as the whole, and the whole can be had with --json.
            Text(str(job["id"])[:8], style="dim"),
            # The product first: where the terminal is narrow the shop is what can be missed.
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


def glance(
    health: Mapping[str, Any], workers: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]]
) -> Table:
    """The queue in four lines or fewer: figures, who works, what fails."""
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
        table.add_row("workers", Text("none heard of within the hour", style="yellow" if waits else "dim"))
    for n, worker in enumerate(workers[:WORKERS]):
        doing = (
            Text.assemble(("● ", "green"), worker["worker"], (f"  {worker['running']} running", "cyan"))
            if worker["running"]
            else Text.assemble(("○ ", "dim"), worker["worker"], (f"  {about(worker['seen_s'])} ago", "dim"))
        )
        table.add_row("" if n else "workers", doing)
    if len(workers) > WORKERS:
        table.add_row("", Text(f"and {len(workers) - WORKERS} more", style="dim"))
    for n, failure in enumerate(failures[:WORKERS]):
        table.add_row(
            "" if n else "failures",
            Text.assemble(
                (failure["error_code"], "red"),
                f"  {failure['jobs']}",
                (f", the latest {about(failure['latest_s'])} ago; in a day", "dim"),
            ),
        )
    return table


def verdict(job: Mapping[str, Any], outcome: Sequence[str], advice: str | None) -> Text:
    """How a test job has ended, and what to do where it has not ended well."""
    if job["status"] == "completed":
        return Text.assemble(("✓ completed  ", "bold green"), "\n  ".join([_seconds(job), *outcome]))
    said = Text.assemble((f"✗ {job['status']}  ", "bold red"), job["error_message"] or "")
    if advice:
        said.append(f"\n  {job['error_code']}: ", "dim").append(advice)
    return said


def dead_table(events: Sequence[Mapping[str, Any]]) -> Table:
    """Webhooks that the backend would not take, with their ids, which `worker webhooks replay` takes."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("event", "status", "tries"):
        table.add_column(column, no_wrap=True)
    table.add_column("", overflow="fold")
    for event in events:
        reason = "overtaken by a later event" if event["overtaken"] else event["reason"]
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


def finish_table(found: Mapping[str, Any]) -> Table:
    """What `worker bench finish` measured."""
    table = Table("seconds", *found, box=None, header_style="dim")
    for step in next(iter(found.values()))["seconds"]:
        table.add_row(step, *(f"{row['seconds'][step]:.2f}" for row in found.values()))
    table.add_row("all of it", *(f"{row['total_s']:.2f}" for row in found.values()), style="bold")
    table.add_row("of the processor", *(f"{row['cpu_s']:.2f}" for row in found.values()))
    table.add_row(
        "triangles", *(f"{row['given_triangles']:,} → {row['triangles']:,}" for row in found.values())
    )
    table.add_row("file", *(f"{row['glb_bytes'] / 1e6:.2f} MB" for row in found.values()))
    return table


def bench_table(found: Mapping[str, Any]) -> Table:
    """What `worker bench tsr` measured."""
    table = Table("", "", "beside it", box=None, header_style="dim")
    encode = found["encode"]
    table.add_row(
        "machine", f"torch {found['torch']}, {found['threads']} threads", f"{found['gflops']:.0f} GFLOP/s"
    )
    table.add_row("network", encode["weights"], f"peak {encode['peak_rss_mb']} MB")
    table.add_row("encode, float32", f"{encode['float32_s']:.2f} s", f"floor {encode['floor_s']:.2f} s")
    table.add_row("  of it image tokens", f"{encode['tokens_s']:.2f} s", "")
    for name in ("bfloat16", "cuda_float16"):
        if f"{name}_s" in encode:
            error = f"relative error {encode[f'{name}_rel_error']:.2%}"
            table.add_row(f"encode, {name.replace('_', ' ')}", f"{encode[f'{name}_s']:.2f} s", error)
    for resolution, row in found["extract"].items():
        table.add_row(
            f"extract at {resolution}",
            f"{row['sparse_s']:.2f} s, {row['queries']:,} queries, peak {row['peak_rss_mb']} MB",
            f"dense {row['dense_s']:.1f} s, {row['dense_queries']:,} queries, peak {row['dense_peak_rss_mb']} MB",
        )
        same = (
            f"same faces, vertices within {row['max_vertex_diff_voxels']:.4f} voxel"
            if row["same_faces"]
            else "NOT THE SAME FACES"
        )
        table.add_row(
            "  of it the field",
            f"{row['field_s']:.2f} s",
            f"floor {row['field_floor_s']:.2f} s; {row['ratio']:.1f} times faster; {same}",
        )
    return table


def queue_table(found: Mapping[str, Any]) -> Table:
    """What `worker bench queue` measured."""
    table = Table("", "", "beside it", box=None, header_style="dim")
    listen, poll = found["pickup_ms"]["listen"], found["pickup_ms"]["poll"]
    rate, statements = found["settled_per_s"], found["statements_per_s"]
    table.add_row("picked up, LISTEN", f"p50 {listen['p50']:.1f} ms, p95 {listen['p95']:.1f} ms", "")
    table.add_row("picked up, polling", f"p95 {poll['p95']:.0f} ms", f"interval {poll['interval']:g} s")
    table.add_row("statements, idle", f"{statements['idle']:.2f} a second", f"busy {statements['busy']:.2f}")
    table.add_row(
        "claimed and settled",
        f"{rate['ours']:.0f} a second",
        f"a bare loop {rate['bare']:.0f}; {rate['ours'] / rate['bare']:.2f} of it",
    )
    table.add_row(
        "one job behind another shop's crowd", f"starts with claim {found['fair_after_claims']}", "4 lanes"
    )
    table.add_row(
        "kill -9 → running elsewhere",
        ", ".join(f"{seconds:.1f} s" for seconds in found["retaken_s"]),
        f"lease {found['lease_s']:g} s",
    )
    table.add_row("written by a daemon that was frozen", f"{found['frozen_writes']} rows and files", "")
    for outage in found["outages"]:
        table.add_row(
            f"Postgres away for {outage['away_s']:g} s",
            f"next claim after {outage['next_claim_s']:.1f} s",
            f"{outage['lost']} results lost, {outage['exits']} daemons ended",
        )
    return table


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
            return Text(f"again at {job['run_after']:%H:%M:%S} UTC after {job['error_code']}", style="yellow")
        case "pending" if job["run_after"] > datetime.now(UTC):
            return Text(f"not before {job['run_after']:%H:%M:%S} UTC", style="dim")
        case "processing":
            return Text(f"{job['stage']}" + (f", attempt {job['attempts']}" if job["attempts"] > 1 else ""))
        case _:
            return Text("")
