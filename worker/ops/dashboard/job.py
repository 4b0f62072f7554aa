"""Read what the page of a job shows. Nothing here writes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Engine

from worker import engines
from worker.core import stages
from worker.core.errors import ERRORS
from worker.database import Row, fetch_all, fetch_one, parse_json
from worker.jobs import queue
from worker.ops.dashboard import score
from worker.ops.dashboard.pages import QUERIES, cards

LONGEST_STEP_S = 86_400  # a report that claims more is not ours

# Texts of `metadata.worker` that the page shows.
REPORT_TEXTS = (
    "engine", "lane", "cached", "cutout_url", "poster_url", "turntable_url", "usdz_url",
    "preset_reason", "review_reason",
)  # fmt: skip

AZIMUTHS = {"front": 0, "left": 90, "back": 180, "right": 270}
"""From where each side's photo was taken: degrees around the product from its front at +z towards +x, as the viewer counts."""


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
    model = _object(report, "model")
    texts = {name: _text(report, name) for name in REPORT_TEXTS}
    attempts = fetch_all(engine, QUERIES["attempts"], id=job_id)
    return {
        "job": card[0],
        "row": found,
        "source": _source(found, metadata),
        "cut": metadata is None,
        "position": queue.queue_position(engine, job_id) if card[0]["status"] == "pending" else None,
        "kind": ERRORS.get(found["error_code"] or ""),
        "photos": _photos(found["image_urls"], report.get("photos"), found["excluded_photos"], metadata),
        "report": texts,
        "model": model,
        "quality": score.explain(_object(report, "quality"), preview=texts["engine"] in engines.PREVIEWS),
        "seconds": _seconds(report.get("seconds")),
        "timeline": _timeline(found, attempts),
        "versions": _versions(fetch_all(engine, QUERIES["versions"], id=job_id)),
        "events": fetch_all(engine, QUERIES["events"], id=job_id),
    }


def _source(row: Row, metadata: str | None) -> str:
    """Return the row as JSON for people. Metadata that Python cannot read stays the text that it is."""
    try:
        return json.dumps(
            row | {"metadata": json.loads(metadata or "null")}, indent=2, ensure_ascii=False, default=str
        )
    except (ValueError, RecursionError):
        return json.dumps(row | {"metadata": metadata}, indent=2, ensure_ascii=False, default=str)


def _timeline(row: Row, attempts: Sequence[Row]) -> list[Row]:
    """Return what has happened to the job, the oldest first. Of the retries by people only the last has a time."""
    found: list[Row] = [{"what": "created", "at": row["created_at"]}]
    last = None
    for attempt in reversed(attempts):  # the latest come first
        again = last is not None and attempt["attempt"] <= last["attempt"] and last["outcome"] != "released"
        wait_s = (
            (attempt["started_at"] - last["ended_at"]).total_seconds() if last and last["ended_at"] else None
        )
        found.append(
            {"what": "attempt", "at": attempt["started_at"]}
            | attempt
            | {"again": again, "wait_s": wait_s, "seconds": _seconds(attempt["seconds"])}
        )  # fmt: skip
        last = attempt
    if row["queued_at"] > row["created_at"]:
        found.append({"what": "queued again", "at": row["queued_at"], "without": row["excluded_photos"]})
    if row["cancel_requested_at"]:
        found.append({"what": "cancel requested", "at": row["cancel_requested_at"]})
    if row["completed_at"] and not (attempts and attempts[0]["outcome"] == row["status"]):
        found.append({"what": "ended", "at": row["completed_at"], "status": row["status"]})
    # What happened at the same moment has an order.
    order = ("created", "queued again", "attempt", "cancel requested", "ended")
    return sorted(found, key=lambda entry: (entry["at"], order.index(entry["what"])))


def _versions(rows: Sequence[Row]) -> list[Row]:
    """Return the versions of the product's model, the newest first, each with the URLs of its files where they are known."""
    known = next((row for row in rows if row["is_jobs"] and row["model_url"]), None)
    return [
        row | _files(row, known) | {"score": score.number(parse_json(row["score"] or ""))} for row in rows
    ]


def _files(version: Row, known: Row | None) -> Row:
    """Return `model` and `poster`, a version's URLs.

    A job that was retried names only its last version. Older ones lie beside it, under their own digests, except where URLs
    are signed.
    """
    url = version["model_url"] if version["is_jobs"] else None
    if not url and known and "?" not in known["model_url"]:
        url = known["model_url"].replace(known["digest"], version["digest"])
    if not url or version["removed"]:
        return {"model": None, "poster": None}
    poster = version["poster_url"] if version["is_jobs"] else None
    if not poster and "?" not in url and ".png" in (version["endings"] or ()):
        poster = url.removesuffix(".glb") + ".png"
    return {"model": url, "poster": poster}


# A report may be of another version, or written by a backend: values of unexpected types are left out.


def _photos(
    urls: Sequence[str], reported: object, excluded: Sequence[int], metadata: str | None
) -> list[Row]:
    """Return each photo with its outcome. The report lists photos in the order of the row."""
    complete = isinstance(reported, list) and len(reported) == len(urls)
    reports: Any = reported if complete else [None] * len(urls)
    stated = _stated(metadata)
    keys = ("status", "view", "reason", "warning", "error_code", "error_message")
    photos = []
    for n, (url, report) in enumerate(zip(urls, reports, strict=True)):
        photo: Row = {"index": n, "url": url, **{key: _text(report, key) for key in keys}}
        photo["excluded"] = n in excluded
        photo["stated"] = stated.get(n)
        side = photo["view"] if photo["status"] else photo["stated"]
        photo["turn"] = AZIMUTHS.get(side or "", 0 if photo["status"] == "used" or len(urls) == 1 else None)
        photos.append(photo)
    return photos


def _stated(metadata: str | None) -> dict[int, str]:
    """Return the side that `metadata.views` states for each photo."""
    parsed = parse_json(metadata or "")
    views = parsed.get("views") if isinstance(parsed, dict) else None
    if not isinstance(views, dict):
        return {}
    return {index: side for side in AZIMUTHS if type(index := views.get(side)) is int}


def _seconds(reported: object) -> dict[str, float]:
    if not isinstance(reported, dict):
        return {}
    return stages.in_order(
        {
            step: took
            for step, value in reported.items()
            if (took := score.number(value)) is not None and 0 <= took <= LONGEST_STEP_S
        }
    )


def _text(report: object, key: str) -> str | None:
    value = report.get(key) if isinstance(report, dict) else None
    return value if isinstance(value, str) else None


def _object(report: Mapping[str, Any], key: str) -> Row:
    value = report.get(key)
    return value if isinstance(value, dict) else {}
