"""`worker demo`: sample photos through the real daemon, watched live, then a page to look at the models."""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.live import Live
from rich.table import Table
from sqlalchemy.engine import Engine

from worker import database, engines
from worker.core import stages
from worker.engines.surface import Role
from worker.jobs import queue
from worker.local import samples
from worker.local.demo.page import JobResult, NotedPhoto, write_page
from worker.local.folder import own_folder
from worker.local.postgres import remove_server
from worker.local.stack import Stack, await_jobs, interrupt_on_signals, start_daemon, start_stack
from worker.local.weights import ensure_weights
from worker.ops.terminal import tables
from worker.storage import paths

SHOP = "demo.myshopify.com"
LIMIT_S = 900  # from one job's end to the next, far more than it takes
WEBHOOKS_S = 15  # for the last events to arrive
PAUSE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A job of the demo and the end that it should have."""

    product: str
    title: str
    photos: Mapping[str, bytes]
    quality: str
    views: Mapping[Role, int] = field(default_factory=dict)
    """Which photo shows which side, by its place in `photos`."""
    fails_with: str | None = None


def run(results: Path, *, engine: str, console: Console) -> int:
    """Make the models and the page. Return 0 if every job ended as it should and its webhook came, else 1.

    Raises: ConfigError, also if another demo writes into `results`; KeyboardInterrupt for a signal.
    """
    interrupt_on_signals()
    with own_folder(results, "worker demo"):
        ensure_weights(console, engine)
        chosen = _samples()
        events: list[dict[str, Any]] = []
        # Nothing of the demo stays but its results.
        with tempfile.TemporaryDirectory(prefix="worker-demo-") as folder:
            try:
                with start_stack(Path(folder), engine=engine, on_webhook=events.append) as stack:
                    rows = _work(stack, chosen, results / "daemon.log", console)
                    _wait_for_webhooks(rows, events)
                    made = [
                        _collect(sample, row, stack.files, results, events)
                        for sample, row in zip(chosen, rows, strict=True)
                    ]
            finally:
                remove_server(Path(folder) / "postgres")
        page = results / "index.html"
        write_page(made, page)
    wrong = [
        problem
        for sample, row in zip(chosen, rows, strict=True)
        if (problem := _problem(sample, row, events))
    ]
    _summarise(console, made, wrong, page)
    return 1 if wrong else 0


def _samples() -> list[Sample]:
    duck = samples.path("duck.jpg").read_bytes()
    return [
        Sample(
            product="duck",
            title="A duck from four sides",
            photos=_files("duck.jpg", "duck-left.jpg", "duck-back.jpg", "duck-right.jpg"),
            quality="balanced",
            views={"front": 0, "left": 1, "back": 2, "right": 3},
        ),
        Sample(
            product="duck-preview",
            title="The same duck from one photo",
            photos={"duck.jpg": duck},
            quality="fast",
        ),
        Sample(
            product="robot",
            title="A robot from its front and its left; the first photo is damaged",
            photos={"damaged.jpg": duck[: len(duck) // 3], **_files("robot.jpg", "robot-side.jpg")},
            quality="fast",
            views={"front": 1, "left": 2},
        ),
        Sample(product="vase", title="A vase, cut out already", photos=_files("vase.png"), quality="fast"),
        Sample(
            product="coffee",
            title="A real photograph, with a table behind the cup",
            photos={"coffee.jpg": samples.coffee_jpeg()},
            quality="balanced",
        ),
        Sample(
            product="note",
            title="Not a photo, so that an error is seen too",
            photos={"note.jpg": b"This is a text, whatever its name says.\n"},
            quality="fast",
            fails_with="photo_not_an_image",
        ),
    ]


def _files(*names: str) -> dict[str, bytes]:
    return {name: samples.path(name).read_bytes() for name in names}


def _work(stack: Stack, chosen: Sequence[Sample], log: Path, console: Console) -> Sequence[Mapping[str, Any]]:
    """Run the samples' jobs. Return their rows once all have ended. Raises: ConfigError if the daemon ends before."""
    db = database.connect(database.parse(stack.environment["DATABASE_URL"], "DATABASE_URL"))
    try:
        environment = {
            **stack.environment,
            "WORKER_TURNTABLE": "false",  # the page turns each model itself
            "WORKER_GRACE_S": "0",  # a job that Ctrl-C interrupts is of no use to anybody
        }
        with log.open("wb") as output, start_daemon(environment, stdout=output, stderr=output) as daemon:
            ids = [_enqueue(db, stack, sample) for sample in chosen]
            with Live(Table(), console=console, auto_refresh=False) as live:
                return await_jobs(
                    db,
                    ids,
                    daemon,
                    log,
                    limit_s=LIMIT_S,
                    on_rows=lambda rows: live.update(_table(chosen, rows, console.width), refresh=True),
                )
    finally:
        db.dispose()


def _table(chosen: Sequence[Sample], rows: Sequence[Mapping[str, Any]], width: int) -> Table:
    """Return the table of the jobs, with the sides that the photos show in place of the shop, which all have in common."""
    return tables.jobs_table(
        [
            {**row, "shop": ", ".join(sample.views) or "one photo"}
            for sample, row in zip(chosen, rows, strict=True)
        ],
        width,
    )


def _enqueue(db: Engine, stack: Stack, sample: Sample) -> UUID:
    folder = stack.files / "photos" / sample.product
    folder.mkdir(parents=True)
    for name, content in sample.photos.items():
        (folder / name).write_bytes(content)
    return queue.enqueue(
        db,
        shop=SHOP,
        product_id=sample.product,
        image_urls=[f"{stack.server.url}/photos/{sample.product}/{name}" for name in sample.photos],
        quality=sample.quality,
        metadata={"title": sample.title} | ({"views": dict(sample.views)} if sample.views else {}),
    )


def _wait_for_webhooks(rows: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> None:
    end = time.monotonic() + WEBHOOKS_S
    while time.monotonic() < end and any(_last_event(row, events) != row["status"] for row in rows):
        time.sleep(PAUSE_S)


def _last_event(row: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str | None:
    return next((e["body"]["status"] for e in reversed(events) if e["body"]["jobId"] == str(row["id"])), None)


def _problem(sample: Sample, row: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str | None:
    wanted = "failed" if sample.fails_with else "completed"
    if (row["status"], row["error_code"]) != (wanted, sample.fails_with):
        return f"{sample.product}: {row['status']} ({row['error_code']}) where it should be {wanted}"
    if _last_event(row, events) != wanted:
        return f"{sample.product}: its last webhook did not arrive"
    return None


def _collect(
    sample: Sample, row: Mapping[str, Any], files: Path, results: Path, events: Sequence[Mapping[str, Any]]
) -> JobResult:
    """Copy the job's files into the results."""
    report = row["report"]
    model = report.get("model", {})
    # A job that failed before its photos were cut out has no entries for them.
    entries = dict(zip(sample.photos, report.get("photos", []), strict=False))
    stem = files / paths.stem(row["shop"], row["product_id"], row["variant_id"])

    def kept(ending: str) -> Path | None:
        source = stem.with_name(stem.name + ending)
        return (
            Path(shutil.copy(source, results)) if row["status"] == "completed" and source.exists() else None
        )

    return JobResult(
        job_id=str(row["id"]),
        title=sample.title,
        shop=row["shop"],
        product=row["product_id"],
        status=row["status"],
        quality=row["quality"],
        engine=report.get("engine"),
        error_code=row["error_code"],
        error_message=row["error_message"],
        photos=[_note(content, entries.get(name, {})) for name, content in sample.photos.items()],
        cutout=kept(".cutout.png"),
        poster=kept(".png"),
        glb=kept(".glb"),
        seconds=(row["completed_at"] - row["started_at"]).total_seconds(),
        steps=stages.in_order(report.get("seconds", {})),
        glb_bytes=model.get("glb_bytes"),
        triangles=model.get("triangles"),
        watertight=model.get("watertight"),
        quality_report=report.get("quality", {}),
        events=[
            f"{e['body']['status']} {e['body'].get('progress', '')} %"
            for e in events
            if e["body"]["jobId"] == str(row["id"])
        ],
    )


def _note(content: bytes, entry: Mapping[str, Any]) -> NotedPhoto:
    """Say what became of a photo, by its entry in `metadata.worker.photos`."""
    if entry.get("status") == "refused":
        return NotedPhoto(content, f"refused: {entry['error_code']}")
    return NotedPhoto(content, entry.get("reason", ""), entry.get("view") or "")


def _summarise(console: Console, made: Sequence[JobResult], wrong: Sequence[str], page: Path) -> None:
    done = [result for result in made if result.status == "completed"]
    console.print(
        f"\n[bold]{len(done)} models[/bold] and {len(made) - len(done)} job that failed as it should"
        if not wrong
        else "\n[bold red]Not as it should be:[/bold red] " + "; ".join(wrong)
    )
    for name in sorted({result.engine for result in done if result.engine in engines.PREVIEWS}):
        console.print(
            f"Made by [bold]{name}[/bold], a preview engine: what no photo shows is inferred from the outline."
        )
    console.print(f"Look at them: {page.resolve().as_uri()}", soft_wrap=True)
