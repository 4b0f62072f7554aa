"""The commands on jobs: enqueue, status, watch, cancel, retry."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn
from uuid import UUID, uuid4

import typer
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DataError, IntegrityError

from worker import engines
from worker.cli.options import AsJson, OptionalIds, Quality, known_engine, one_of
from worker.cli.options import Ids as JobIds
from worker.cli.output import connected, console, die, find_jobs, for_each, print_error, print_json
from worker.cli.sections import JOBS
from worker.core import settings
from worker.core.errors import first_line
from worker.core.settings import ConfigError, Settings
from worker.jobs import hosts, queue
from worker.jobs.rows import refusal
from worker.ops.terminal import findings, live
from worker.ops.terminal.verdict import verdict

app = typer.Typer()

Limit = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help=f"Show N waiting and N ended jobs at most. Default: what fits the terminal; {live.LIMIT} elsewhere.",
    ),
]
DAY_S = 86_400
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": DAY_S}
NOT_YET_UPLOADED = "https://files.invalid/{}"
"""Stands for a file's URL while the database checks the row. No server has this name."""


def _complete_sample(incomplete: str) -> list[str]:
    from worker.local import samples  # noqa: PLC0415 - brings the image libraries

    return one_of(samples.NAMES)(incomplete)


@app.command(rich_help_panel=JOBS)
def enqueue(
    photos: Annotated[
        list[str] | None,
        typer.Argument(metavar="PHOTO", help="URLs of photos, or files if the store can serve them."),
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=_complete_sample,
            help="Use a bundled photo instead: coffee (a real one), vase, duck and others; duck-views is four of one product.",
        ),
    ] = None,
    front: Annotated[
        str | None, typer.Option(metavar="PHOTO", help="The photo of the product's front.")
    ] = None,
    left: Annotated[
        str | None, typer.Option(metavar="PHOTO", help="The photo of the product's own left side.")
    ] = None,
    back: Annotated[str | None, typer.Option(metavar="PHOTO", help="The photo of its back.")] = None,
    right: Annotated[
        str | None, typer.Option(metavar="PHOTO", help="The photo of its own right side.")
    ] = None,
    shop: Annotated[str, typer.Option(metavar="SHOP", help="The shop's domain.")] = "demo.myshopify.com",
    product: Annotated[
        str | None, typer.Option(metavar="ID", help="The product's id or gid. Default: a new random id.")
    ] = None,
    variant: Annotated[str | None, typer.Option(metavar="ID", help="The variant's id or gid.")] = None,
    quality: Annotated[
        Quality, typer.Option(metavar="PRESET", help="fast, balanced, quality or auto.")
    ] = "balanced",
    pool: Annotated[str, typer.Option(metavar="NAME", help="Only workers of this pool take it.")] = "default",
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=known_engine,
            autocompletion=one_of(list(engines.ENGINES)),
            help="Only workers with this engine take it. Default: any worker.",
        ),
    ] = None,
    priority: Annotated[int, typer.Option(min=-32768, max=32767, metavar="N", help="Higher runs first.")] = 0,
    start_by: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Cancel it if no worker has begun it by then: 90s, 30m, 2h or 7d from now.",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Check first what the job needs, then show its progress until it ends."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Insert a job, as a backend does.

    All that is given is checked first: nothing is uploaded for a job that the database would refuse.

    Exit status with --watch: 0 the job completed, 1 it ended otherwise.
    """
    from worker.cli import preflight  # noqa: PLC0415 - brings the store's libraries

    stated = {"front": front, "left": left, "back": back, "right": right}
    views = {side: photo for side, photo in stated.items() if photo}
    if views and not front:
        raise typer.BadParameter("--left, --back and --right need --front.")
    photos = [*views.values(), *(photos or [])]
    if bool(photos) is bool(sample):
        raise typer.BadParameter(
            "Give photos or --sample, not both." if sample else "Give a photo or --sample."
        )
    sides = list(views)
    if sample:
        photos, sides = preflight.sample(sample)
    configured = settings.load()
    with connected(configured) as database:
        columns: dict[str, Any] = {
            "shop": shop,
            "product_id": product or f"test-{uuid4().hex[:8]}",
            "variant_id": variant,
            "quality": quality,
            "pool": pool,
            "job_engine": engine,
            "priority": priority,
            "start_by_s": _seconds(start_by) if start_by else None,
            "metadata": {"views": {side: n for n, side in enumerate(sides)}} if sides else {},
        }
        urls = [
            photo if preflight.is_url(photo) else NOT_YET_UPLOADED.format(n) for n, photo in enumerate(photos)
        ]
        _insert(database, keep=False, image_urls=urls, **columns)
        job = _insert(database, image_urls=_prepare_photos(photos, configured, verbose=watch), **columns)
        if watch or not as_json:
            console.print(f"Job {job} is queued.", soft_wrap=True, highlight=False)
        if watch:
            _watch(database, [job], as_json=as_json)
    if as_json:
        print_json({"id": job})


@app.command(rich_help_panel=JOBS)
def status(as_json: AsJson = False, limit: Limit = None) -> None:
    """Show what waits and runs, the hosts, and what failed."""
    with connected(settings.load()) as engine:
        if as_json:
            print_json(
                {
                    "queue": queue.health(engine),
                    "unserved": queue.unserved(engine),
                    "hosts": hosts.list_hosts(engine),
                    "failures": queue.failures(engine),
                    "file_failures": queue.file_failures(engine),
                    "jobs": queue.recent(engine, live.LIMIT if limit is None else limit),
                }
            )
        else:
            for part in live.status(engine, console, limit):
                console.print(part)


@app.command(rich_help_panel=JOBS)
def watch(ids: OptionalIds = None, as_json: AsJson = False, limit: Limit = None) -> None:
    """Show jobs live until they end, or the queue until Ctrl-C.

    Exit status: 0 all jobs completed, 1 one ended otherwise.
    """
    if as_json and not ids:
        raise typer.BadParameter("--json needs job ids.")
    if ids and limit is not None:
        raise typer.BadParameter("--limit is for the queue, and not for job ids.")
    with connected(settings.load()) as engine:
        if ids:
            _watch(engine, find_jobs(engine, ids), as_json=as_json)
        live.watch_queue(engine, console, limit)


@app.command(rich_help_panel=JOBS)
def cancel(ids: JobIds, as_json: AsJson = False) -> None:
    """Cancel waiting jobs and ask running ones to stop.

    Exit status: 1 a job had already ended or does not exist.
    """
    with connected(settings.load()) as engine:
        for_each(find_jobs(engine, ids), lambda job: _cancel(engine, job), as_json=as_json)


@app.command(rich_help_panel=JOBS)
def retry(
    ids: OptionalIds = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Retry all jobs that failed recently, instead of ids.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="How far back --failed goes, such as 90s, 30m, 2h or 7d. Default: 1h."
        ),
    ] = None,
    without_photo: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Leave this photo out, counted from 0.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the models of ended jobs anew.

    Exit status: 1 a job could not be queued.
    """
    if bool(ids) is failed:
        raise typer.BadParameter("Give either job ids or --failed.")
    if without_photo is not None and len(ids or ()) != 1:
        raise typer.BadParameter("--without-photo needs one job id.")
    if since and not failed:
        raise typer.BadParameter("--since needs --failed.")
    seconds = _seconds(since or "1h")
    with connected(settings.load()) as engine:
        jobs = find_jobs(engine, ids) if ids else queue.failed_since(engine, seconds)
        if not jobs and not as_json:
            console.print(f"No job failed in the last {since or '1h'}.", highlight=False)
        for_each(jobs, lambda job: _retry(engine, job, without_photo), as_json=as_json)


def _prepare_photos(photos: Sequence[str], configured: Settings, *, verbose: bool) -> list[str]:
    """Return the photos' URLs; files are looked at, then uploaded. `verbose` checks and prints what the job needs."""
    from worker.cli import preflight  # noqa: PLC0415 - brings the store's libraries
    from worker.ops import doctor  # noqa: PLC0415

    looked_at = {photo: preflight.open_file(photo) for photo in photos if not preflight.is_url(photo)}
    if not verbose:
        return [preflight.photo_url(photo, configured) for photo in photos]
    for finding in doctor.run_checks(doctor.BEFORE_A_JOB, configured):
        console.print(findings.line(finding), soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        for photo in photos:
            finding = looked_at.get(photo) or preflight.fetch_and_open(
                photo, Path(folder) / "photo", configured
            )
            console.print(findings.line(finding), soft_wrap=True)
    return [preflight.photo_url(photo, configured) for photo in photos]


def _insert(engine: Engine, *, keep: bool = True, **columns: Any) -> UUID:
    """Insert a job; unless `keep`, only try it. Raises: ConfigError if it breaks a rule of the table."""
    try:
        return queue.enqueue(engine, keep=keep, **columns)
    except (IntegrityError, DataError) as error:
        raise ConfigError(f"The database refuses this job: {refusal(error.orig)}.") from None


def _watch(engine: Engine, ids: Sequence[UUID], *, as_json: bool) -> NoReturn:
    """Show jobs until all have ended, then how each did. Exit with 0 if all completed, else with 1."""
    rows = live.watch_jobs(engine, ids, console)
    for row in rows:
        console.print(verdict(row), soft_wrap=True)
    for missing in [job for job in ids if job not in {row["id"] for row in rows}]:
        print_error(f"There is no job {missing}.")
    if as_json:
        print_json(rows)
    completed = [row for row in rows if row["status"] == "completed"]
    raise typer.Exit(0 if len(completed) == len(set(ids)) else 1)


def _cancel(engine: Engine, job: UUID) -> tuple[bool, str]:
    """Cancel a job. Return if anything was done, and what has become of the job."""
    done = queue.request_cancel(engine, job)
    state = _state(engine, job)
    if done:
        return True, "cancelled" if state == "cancelled" else "cancel requested"
    return False, f"had already ended: {state}" if state else "does not exist"


def _retry(engine: Engine, job: UUID, without_photo: int | None) -> tuple[bool, str]:
    try:
        if queue.retry(engine, job, without_photo=without_photo):
            return True, "queued again"
    except IntegrityError as error:
        return False, f"is not queued again: {refusal(error.orig)}"
    except DataError as error:
        die(f"{job} is not queued again: {first_line(error)}", 1)
    state = _state(engine, job)
    return False, f"has not ended: {state}" if state else "does not exist"


def _state(engine: Engine, job: UUID) -> str | None:
    return next((row["status"] for row in queue.get_jobs(engine, [job])), None)


def _seconds(duration: str) -> float:
    """Return the seconds of a duration such as `2h`."""
    number, unit = duration[:-1], duration[-1:]
    if unit not in UNITS_S or not number.isdecimal() or int(number) * UNITS_S[unit] > 36_500 * DAY_S:
        raise typer.BadParameter(f"{duration} is not a duration such as 90s, 30m, 2h or 7d.")
    return float(int(number) * UNITS_S[unit])
