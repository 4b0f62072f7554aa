"""Numbers, sizes, durations and times as people read them: on a terminal, on the dashboard and on the demo's page."""

from datetime import UTC, datetime


def file_size(count: float) -> str:
    """Format bytes: `999 B`, `12 kB`, `3.4 MB`, `1.7 GB`. A kB has 1,000 bytes, as shops and browsers count."""
    if count < 999.5:
        return f"{count:.0f} B"
    if count < 999_500:
        return f"{count / 1000:.0f} kB"
    return f"{count / 1e6:.1f} MB" if count < 999_950_000 else f"{count / 1e9:,.1f} GB"


def duration(seconds: float) -> str:
    """Format seconds with two units at most: `2.4 s`, `1 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 59.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400:,} d {whole % 86_400 // 3600} h"


def about(seconds: float) -> str:
    """Format seconds with one unit, for values that change while people watch: `12 s`, `5 min`, `3 h`, `4 d`."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit:,.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


def moment(time: datetime) -> str:
    """Format a time in UTC: `14:03:22 UTC` if it is today's, else with its date, `2026-11-24 14:03 UTC`."""
    time, now = time.astimezone(UTC), datetime.now(UTC)
    return f"{time:%H:%M:%S} UTC" if time.date() == now.date() else f"{time:%Y-%m-%d %H:%M} UTC"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Format a number with its noun: `1 job`, `1,234 jobs`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
