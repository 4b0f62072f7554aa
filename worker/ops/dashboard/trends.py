"""The page of the queue over time: what it reads, and its charts as SVG, which a page needs no script for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from markupsafe import Markup
from pysvgchart import BarChart
from sqlalchemy.engine import Engine

from worker.core import stages
from worker.database import Row, fetch_all, queries
from worker.ops.terminal import formats

QUERIES = queries("worker.ops.dashboard")


class Span(NamedTuple):
    """How far back a page looks, in bars of `width`, from rows of `part` (those of worker.history)."""

    name: str
    bars: int
    width: timedelta
    part: timedelta
    label: str  # of a bar, for strftime


SPANS = {
    "hour": Span("Last hour", 12, timedelta(minutes=5), timedelta(minutes=5), "%H:%M"),
    "day": Span("Last day", 24, timedelta(hours=1), timedelta(hours=1), "%H:%M"),
    "week": Span("Last week", 28, timedelta(hours=6), timedelta(hours=1), "%a %H:%M"),
}
OUTCOMES = ("completed", "cached", "failed", "cancelled")
TICKS = 5
UNITS = ((1, " s"), (60, " min"), (3600, " h"))  # of an axis
WIDTH, HEIGHT = 560, 190  # of a chart, in units of its own
COLOURS = ("var(--bar-1)", "var(--bar-2)", "var(--bar-3)", "var(--bar-4)")


class Chart(NamedTuple):
    """A chart, and the same as rows for those who cannot see it."""

    title: str
    note: str
    names: Sequence[str]
    svg: Markup
    rows: Sequence[tuple[str, Sequence[str]]]
    empty: bool


def show(engine: Engine, query: Mapping[str, str]) -> Row:
    """Return what the page shows for a query string: span, pool, host."""
    span = SPANS.get(query.get("span", ""), SPANS["day"])
    pool, host = (query.get(name, "").replace("\0", "")[:255] for name in ("pool", "host"))
    last = _floor(datetime.now(UTC), span.width)
    times = [last - n * span.width for n in reversed(range(span.bars))]
    of = {"part": span.part, "width": span.width, "since": times[0], "pool": pool, "host": host}
    found: dict[tuple[str, datetime], dict[str, Row]] = {}
    for row in fetch_all(engine, QUERIES["history"], **of):
        found.setdefault((row["measure"], row["at"]), {})[row["key"]] = row
    groups = _groups(fetch_all(engine, QUERIES["history_groups"], **of))
    return {
        "spans": {key: each.name for key, each in SPANS.items()},
        "span": next(key for key, each in SPANS.items() if each is span),
        "pool": pool,
        "host": host,
        "pools": sorted({group["pool"] for group in groups} | ({pool} - {""})),
        "hosts": sorted({group["host"] for group in groups if group["host"]} | ({host} - {""})),
        "charts": _charts(found, times, span.label),
        "groups": groups,
        "codes": _codes(found, times),
        "steps": _steps(found, times),
    }


def _charts(
    found: Mapping[tuple[str, datetime], Mapping[str, Row]], times: Sequence[datetime], label: str
) -> list[Chart]:
    def counts(measure: str, key: str) -> list[float]:
        return [found.get((measure, at), {}).get(key, {"count": 0})["count"] for at in times]

    def levels(key: str) -> list[float]:
        rows = [found.get(("level", at), {}).get(key) for at in times]
        return [row["total"] / row["count"] if row else 0 for row in rows]

    def percentiles(measure: str, share: float) -> list[float]:
        return [percentile(found.get((measure, at), {}).values(), share) or 0 for at in times]

    draw = _Drawing([f"{at.astimezone():{label}}" for at in times])
    return [
        draw.chart("Jobs ended", "by outcome", {key: counts("ended", key) for key in OUTCOMES}, count_text),
        draw.chart(
            "Waiting and running",
            "on average",
            {key: levels(key) for key in ("waiting", "running")},
            count_text,
        ),
        draw.chart("Time to start", "from when a job is due", _two("start", percentiles), formats.duration),
        draw.chart(
            "Time to finish",
            "from when a job is due; completed jobs",
            _two("finish", percentiles),
            formats.duration,
        ),
    ]


def _two(measure: str, percentiles: Callable[[str, float], list[float]]) -> dict[str, list[float]]:
    return {"half within": percentiles(measure, 0.5), "95 % within": percentiles(measure, 0.95)}


class _Drawing(NamedTuple):
    labels: Sequence[str]

    def chart(
        self, title: str, note: str, series: Mapping[str, Sequence[float]], show: Callable[[float], str]
    ) -> Chart:
        """Draw grouped bars: one group for each time. A series without a job takes no room."""
        most = max(max(values) for values in series.values())
        divisor, unit = (
            (1, "")
            if show is count_text
            else next(each for each in UNITS if most < 3 * each[0] * 60 or each is UNITS[-1])
        )
        bars = {name: [value / divisor for value in values] for name, values in series.items() if any(values)}
        bars = bars or {title: [0.0] * len(self.labels)}
        every = -(-len(self.labels) // 8)  # labels that fit
        slot = (WIDTH - 60) / len(self.labels)
        drawn = BarChart(
            x_values=list(range(len(self.labels))),
            y_values=list(bars.values()),
            y_names=list(bars),
            x_label_format=lambda n: self.labels[int(n)] if int(n) % every == 0 else "",
            y_label_format=lambda value: f"{value:,g}{unit}",
            y_zero=True,
            y_max=max(most / divisor, 1),
            y_max_ticks=TICKS,
            left_margin=44,
            right_margin=8,
            y_margin=22,
            height=HEIGHT,
            width=WIDTH,
            bar_width=min(16, max(1.5, 0.75 * slot / len(bars) - 1)),
            bar_gap=1,
            colours=[COLOURS[n] for n, name in enumerate(series) if name in bars] or COLOURS,
        )
        drawn.add_x_grid(major_grid_style={"stroke-width": "1"})
        # Nothing of a row comes into the drawing: our names, times and figures alone.
        svg = Markup(drawn.render(include_default=False))  # noqa: S704
        rows = [
            (label, [show(values[n]) for values in series.values()]) for n, label in enumerate(self.labels)
        ]
        return Chart(title, note, list(series), svg, rows, not any(map(any, series.values())))


def count_text(value: float) -> str:
    """Return a number of jobs as people write it."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def percentile(lines: Iterable[Row], share: float) -> float | None:
    """Return the seconds within which this share of the jobs lies, to 9 %; None without jobs.

    lines: rows of worker.history with the measure `start` or `finish`: each counts the jobs of a step of worker.duration_step().
    """
    steps = sorted((int(line["key"]), int(line["count"])) for line in lines)
    left = share * sum(count for _, count in steps)
    for step, count in steps:
        left -= count
        if left <= 0:
            return float(2 ** ((step + 0.5) / 4))
    return None


def _groups(rows: Sequence[Row]) -> list[Row]:
    """Return a line for each pool and host: the jobs by outcome, the failed share, the median time to finish."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault((row["pool"], row["host"]), {}).setdefault(row["measure"], []).append(row)
    groups = []
    for (pool, host), measures in sorted(found.items()):
        ended = {row["key"]: row["count"] for row in measures.get("ended", [])}
        tried = sum(ended.values()) - ended.get("cancelled", 0)
        groups.append(
            {
                "pool": pool,
                "host": host,
                "ended": sum(ended.values()),
                "failed": ended.get("failed", 0) / tried if tried else None,
                "start": percentile(measures.get("start", []), 0.5),
                "finish": percentile(measures.get("finish", []), 0.5),
                "slow": percentile(measures.get("finish", []), 0.95),
            }
        )
    return groups


def _codes(found: Mapping[tuple[str, datetime], Mapping[str, Row]], times: Sequence[datetime]) -> list[Row]:
    """Return each error code with its jobs and its share of all that were tried, the most frequent first."""
    jobs = _sum(found, times, "ended")
    tried = sum(count for key, (count, _) in jobs.items() if key != "cancelled")
    codes = _sum(found, times, "failed")
    return [
        {"code": code, "jobs": count, "share": count / tried if tried else 0.0}
        for code, (count, _) in sorted(codes.items(), key=lambda line: (-line[1][0], line[0]))
    ]


def _steps(found: Mapping[tuple[str, datetime], Mapping[str, Row]], times: Sequence[datetime]) -> list[Row]:
    """Return the mean seconds of each step of the completed jobs, in the order of the work."""
    means = {step: total / count for step, (count, total) in _sum(found, times, "step").items()}
    most = max(means.values(), default=0) or 1
    return [
        {"step": step, "seconds": mean, "share": mean / most} for step, mean in stages.in_order(means).items()
    ]


def _sum(
    found: Mapping[tuple[str, datetime], Mapping[str, Any]], times: Sequence[datetime], measure: str
) -> dict[str, tuple[int, float]]:
    sums: dict[str, tuple[int, float]] = {}
    for at in times:
        for key, row in found.get((measure, at), {}).items():
            count, total = sums.get(key, (0, 0.0))
            sums[key] = (count + int(row["count"]), total + row["total"])
    return sums


def _floor(at: datetime, width: timedelta) -> datetime:
    return at - (at - datetime(1970, 1, 1, tzinfo=UTC)) % width
