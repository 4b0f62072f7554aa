"""Read what the page of a job shows. Nothing here writes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Engine

from worker.core import stages
from worker.database import Row, fetch_all, fetch_one, parse_json
from worker.jobs import queue
from worker.ops.dashboard.pages import QUERIES, cards

LONGEST_STEP_S = 86_400  # a report that claims more is not ours

# Texts of `metadata.worker` that the page shows.
REPORT_TEXTS = ("engine", "lane", "cached", "cutout_url", "poster_url", "turntable_url", "usdz_url")


def story(engine: Engine, job_id: UUID) -> Row | None:
    """Return everything that the page of a job shows. None if there is no such job."""
    found = fetch_one(engine, QUERIES["job"], id=job_id)
    if found is None:
        return None
    card = cards(engine, [job_id])
    if not card:  # deleted in between
        return None
    metadata = found.pop("metadata")
    report = _object({"worker": parse_json(found.pop("report") or "")}, "worker")
    return {
        "job": card[0],
        "row": found,
        "source": _source(found, metadata),
        "cut": metadata is None,
        "position": queue.queue_position(engine, job_id) if card[0]["status"] == "pending" else None,
        "attempts": fetch_all(engine, QUERIES["attempts"], id=job_id),
        "photos": _photos(found["image_urls"], report.get("photos")),
        "report": {name: _text(report, name) for name in REPORT_TEXTS},
        "model": _object(report, "model"),
        "quality": _quality(_object(report, "quality")),
        "seconds": _seconds(_object(report, "seconds")),
    }


def _source(row: Row, metadata: str | None) -> str:
    """Return the row as JSON for people. Metadata that Python cannot read stays the text that it is."""
    try:
        return json.dumps(
            row | {"metadata": json.loads(metadata or "null")}, indent=2, ensure_ascii=False, default=str
        )
    except (ValueError, RecursionError):
        return json.dumps(row | {"metadata": metadata}, indent=2, ensure_ascii=False, default=str)


# A report may be of another version, or written by a backend: values of unexpected types are left out.


def _photos(urls: Sequence[str], reported: object) -> list[Row]:
    """Return each photo with its outcome. The report lists photos in the order of the row."""
    complete = isinstance(reported, list) and len(reported) == len(urls)
    reports: Any = reported if complete else [None] * len(urls)
    keys = ("status", "view", "reason", "error_message")
    return [
        {"url": url, **{key: _text(report, key) for key in keys}}
        for url, report in zip(urls, reports, strict=True)
    ]


def _quality(quality: Row) -> Row | None:
    if not quality:
        return None
    warnings = quality.get("warnings")
    return {
        "score": _number(quality.get("score")),
        "warnings": [text for text in warnings if isinstance(text, str)]
        if isinstance(warnings, list)
        else [],
        "figures": {
            name: value
            for name, value in quality.items()
            if name != "score" and isinstance(value, (bool, int, float))
        },
    }


def _seconds(seconds: Row) -> dict[str, float]:
    return stages.in_order(
        {
            step: took
            for step, value in seconds.items()
            if (took := _number(value)) is not None and 0 <= took <= LONGEST_STEP_S
        }
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(report: object, key: str) -> str | None:
    value = report.get(key) if isinstance(report, dict) else None
    return value if isinstance(value, str) else None


def _object(report: Mapping[str, Any], key: str) -> Row:
    value = report.get(key)
    return value if isinstance(value, dict) else {}
