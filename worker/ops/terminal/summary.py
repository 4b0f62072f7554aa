"""The queue in at most eight lines on a terminal: with twelve jobs below it, it fits 24 lines of 80 columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from worker.ops.terminal.formats import about, counted
from worker.ops.terminal.tables import clean, host_state

# Work on stored files that has failed, by the kind that the metric modelworker_file_work has too.
FILE_WORK = {
    "publish": ("model not published", "models not published"),
    "remove": ("old version not deleted", "old versions not deleted"),
    "erase": ("erasure not done", "erasures not done"),
}
HOSTS = 2  # that have a line each; of more there is a sum
STATES = (
    ("busy", "● ", "green"),
    ("idle", "○ ", "green"),
    ("paused", "‖ ", "yellow"),
    ("gone", "✗ ", "red"),
)

Rows = Sequence[Mapping[str, Any]]


def queue_summary(
    health: Mapping[str, Any], hosts: Rows, unserved: Rows, failures: Rows, file_failures: Rows
) -> Table:
    """Return the queue's figures, jobs that no host can take, hosts, failures of jobs and of work on files."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    oldest = health["oldest_has_waited_s"]
    table.add_row(
        "queue",
        Text.assemble(
            (f"{health['pending']:,}", "bold"), " waiting",
            (f", the oldest for {about(oldest)}" if oldest is not None else "", "dim"),
            "   ", (f"{health['running']:,}", "bold cyan"), " running",
            (f", {health['stuck']:,} of them lost" if health["stuck"] else "", "bold red"),
        ),
    )  # fmt: skip
    table.add_row(
        "last hour",
        Text.assemble(
            (f"{health['completed_last_hour']:,}", "bold green"), " completed",
            "   ", (f"{health['failed_last_hour']:,}", "bold red" if health["failed_last_hour"] else "bold"), " failed",
        ),
    )  # fmt: skip
    if unserved:
        table.add_row("unserved", _cut(_unserved([clean(line) for line in unserved])))
    if health["to_review"]:
        text = f"{health['to_review']:,} to review: worker review"
        table.add_row("models", Text(text, style="yellow"))
    if not hosts:
        table.add_row("hosts", Text("no worker is running", style="yellow" if health["due"] else "dim"))
    elif len(hosts) > HOSTS:
        table.add_row("hosts", _sum_of_hosts(hosts))
    else:
        for n, host in enumerate(map(clean, hosts)):
            line = Text.assemble(*host_state(host), (f"  {host['engine']}", "dim"))
            table.add_row("" if n else "hosts", _cut(line))
    if failures:
        table.add_row("last day", _cut(_failures([clean(failure) for failure in failures])))
    if file_failures:
        table.add_row("files", _cut(_file_failures([clean(failure) for failure in file_failures])))
    return table


def _unserved(lines: Rows) -> Text:
    first = lines[0]
    wanted = f"pool {first['pool']}" + (f", engine {first['engine']}" if first["engine"] else "")
    more = f" and {counted(len(lines) - 1, 'line')} more" if len(lines) > 1 else ""
    return Text(f"{first['jobs']:,}  {wanted}: no running host takes them{more}", style="yellow")


def _sum_of_hosts(hosts: Rows) -> Text:
    found = dict.fromkeys((state for state, _, _ in STATES), 0)
    for host in hosts:
        busy = "busy" if host["running"] else "idle"
        found[host["state"] if host["state"] in found else busy] += 1
    parts = [
        Text.assemble((mark, color), f"{found[state]:,} {state}")
        for state, mark, color in STATES
        if found[state]
    ]
    return Text("  ").join([*parts, Text("worker hosts", style="dim")])


def _failures(failures: Rows) -> Text:
    latest = min(failure["latest_s"] for failure in failures)
    parts = [
        Text.assemble((failure["error_code"], "red"), f" {failure['jobs']:,}") for failure in failures[:3]
    ]
    more = f" and {counted(len(failures) - 3, 'code')} more" if len(failures) > 3 else ""
    return Text.assemble(Text("  ").join(parts), more, (f", the latest {about(latest)} ago", "dim"))


def _file_failures(failures: Rows) -> Text:
    parts = ", ".join(counted(failure["count"], *FILE_WORK[failure["kind"]]) for failure in failures)
    return Text.assemble((f"{parts}, will be tried again", "red"), (f"  {failures[0]['reason']}", "dim"))


def _cut(line: Text) -> Text:
    """Return a line that is cut where the terminal ends."""
    line.overflow, line.no_wrap = "ellipsis", True
    return line
