"""Numbers, times and ids as people read them: on a terminal, on the dashboard and on the demo's page."""


def file_size(count: int) -> str:
    """Format bytes: `999 B`, `12 kB`, `3.4 MB`. A kB has 1,000 bytes, as shops and browsers count."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.0f} kB" if count < 999_500 else f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Format seconds with two units at most: `2.4 s`, `1 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 59.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def about(seconds: float) -> str:
    """Format seconds with one unit, for values that change while people watch: `12 s`, `5 min`, `3 h`, `4 d`."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"
