"""Tables of plans and usage on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from worker.ops.terminal.formats import duration, file_size
from worker.ops.terminal.tables import clean


def plans_table(plans: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with one line a shop: its limits, and how much of them is used."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("shop", "jobs today", "at once", "presets"):
        table.add_column(column, overflow="fold" if column == "presets" else "ellipsis")
    for plan in map(clean, plans):
        table.add_row(
            Text(plan["shop"]),
            Text(_of(plan["inserted"] or 0, plan["jobs_a_day"])),
            Text(_of(plan["running"], plan["jobs_at_once"])),
            Text("all" if plan["presets"] is None else ", ".join(plan["presets"]) or "no"),
        )
    return table


def _of(used: int, limit: int | None) -> str:
    return "no limit" if limit is None else f"{used:,} of {limit:,}"


def usage_table(days: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with one line for each day, shop and preset."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("day", no_wrap=True)
    table.add_column("shop", overflow="fold")
    table.add_column("preset", no_wrap=True)
    for column in ("completed", "cached", "failed", "cancelled", "device", "cpu", "files"):
        table.add_column(column, justify="right")
    for day in map(clean, days):
        table.add_row(
            f"{day['day']:%Y-%m-%d}",
            Text(day["shop"] or "forgotten shops", style="" if day["shop"] else "dim"),
            Text(day["quality"]),
            f"{day['completed']:,}",
            f"{day['cached_percent']} %",
            f"{day['failed']:,}",
            f"{day['cancelled']:,}",
            duration(day["device_seconds"]),
            duration(day["cpu_seconds"]),
            file_size(day["bytes"]),
        )
    return table
