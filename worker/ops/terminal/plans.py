"""Tables of plans and usage on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from worker.ops.terminal.formats import duration, file_size
from worker.ops.terminal.tables import USUAL, WIDE, clean


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


def usage_table(days: Sequence[Mapping[str, Any]], width: int) -> Table:
    """Return a table with one line for each day, shop and preset, for a terminal of `width` columns."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    rows = list(map(clean, days))
    columns: dict[str, list[Any]] = {
        "day": [f"{day['day']:%Y-%m-%d}" for day in rows],
        "shop": [Text(day["shop"] or "forgotten shops", style="" if day["shop"] else "dim") for day in rows],
    }
    if width >= USUAL:
        columns["preset"] = [Text(day["quality"]) for day in rows]
    columns["done"] = [f"{day['completed']:,}" for day in rows]
    if width >= WIDE:
        columns["cached"] = [f"{day['cached_percent']} %" for day in rows]
    columns["failed"] = [f"{day['failed']:,}" for day in rows]
    if width >= WIDE:
        columns["cancelled"] = [f"{day['cancelled']:,}" for day in rows]
    if width >= USUAL:
        columns["device"] = [duration(day["device_seconds"]) for day in rows]
    if width >= WIDE:
        columns["cpu"] = [duration(day["cpu_seconds"]) for day in rows]
    if width >= USUAL:
        columns["files"] = [file_size(day["bytes"]) for day in rows]
    for name in columns:
        if name == "shop":
            table.add_column(name, ratio=1, no_wrap=True, overflow="ellipsis")
        else:
            justify: Literal["left", "right"] = "left" if name in {"day", "preset"} else "right"
            table.add_column(name, no_wrap=True, justify=justify)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table
