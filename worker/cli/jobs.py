"""The commands on jobs: enqueue, status, watch, cancel, retry."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn
from uuid import UUID, uuid4

import typer
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DataError, IntegrityError

from worker.cli.output import AsJson, Ids, connected, console, die, for_each, print_json
from worker.core import settings
from worker.core.errors import first_line
from worker.core.settings import ConfigError, Settings
from worker.jobs import hosts, queue
from worker.ops.terminal import findings, live, tables

app = typer.Typer()

Limit = Annotated[
    int, typer.Option(min=0, help="Maximum number of waiting jobs, and of ended jobs, to show.")
]
DAY_S = 86_400
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": DAY_S}


@app.command()
def enqueue(
    photos: Annotated[
        list[str] | None, typer.Argument(help="Photo URLs, or files if the store can serve them.")
    ] = None,
    sample: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use a bundled photo instead, such as vase.png.")
    ] = None,
    front: Annotated[
        str | None, typer.Option(metavar="PHOTO", help="The photo of the product's front.")
    ] = None,
    left: Annotated[str | None, typer.Option(metavar="PHOTO", help="Of the product's own left side.")] = None,
    back: Annotated[str | None, typer.Option(metavar="PHOTO", help="Of its back.")] = None,
    right: Annotated[str | None, typer.Option(metavar="PHOTO", help="Of its own right side.")] = None,
    shop: Annotated[str, typer.Option(help="The shop's domain.")] = "demo.myshopify.com",
    product: Annotated[
        str | None, typer.Option(help="The product's id or gid. Default: a new random id.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="The variant's id or gid.")] = None,
    quality: Annotated[str, typer.Option(help="fast, balanced, quality or auto.")] = "balanced",
    pool: Annotated[str, typer.Option(help="Only workers of this pool take it.")] = "default",
    engine: Annotated[
        str | None, typer.Option(help="Only workers with this engine take it. Default: any worker.")
    ] = None,
    priority: Annotated[int, typer.Option(min=-32768, max=32767, help="Higher runs first.")] = 0,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Check first what the job needs, then show its progress until it ends."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Insert a job, as a backend does.

    Exit status with --watch: 0 the job completed, 1 it ended otherwise.
    """
    stated = {"front": front, "left": left, "back": back, "right": right}
    sides = {side: photo for side, photo in stated.items() if photo}
    if sides and not front:
        raise typer.BadParameter("--left, --back and --right need --front.")
    photos = [*sides.values(), *(photos or [])]
    if bool(photos) is bool(sample):
        raise typer.BadParameter("Give photos or --sample, not both.")
    configured = settings.load()
    with connected(configured) as database:
        urls = _prepare_photos(photos, sample, configured, verbose=watch)
        job = _insert(
            database,
            shop=shop,
            product_id=product or f"test-{uuid4().hex[:8]}",
            variant_id=variant,
            image_urls=urls,
            quality=quality,
            pool=pool,
            job_engine=engine,
            priority=priority,
            metadata={"views": {side: n for n, side in enumerate(sides)}} if sides else {},
        )
        if watch:
            _show_until_ended(database, job, as_json=as_json)
    if as_json:
        print_json({"id": str(job)})
    else:
        console.print(f"Job {job} is queued.", soft_wrap=True)


@app.command()
def status(as_json: AsJson = False, limit: Limit = 10) -> None:
    """Show what waits and runs, which hosts are there, and what failed."""
    with connected(settings.load()) as engine:
        if as_json:
            print_json(
                {
                    "queue": queue.health(engine),
                    "unserved": queue.unserved(engine),
                    "hosts": hosts.list_hosts(engine),
                    "failures": queue.failures(engine),
                    "file_failures": queue.file_failures(engine),
                    "jobs": queue.recent(engine, limit),
                }
            )
        else:
            for part in live.status(engine, limit):
                console.print(part)


@app.command()
def watch(
    ids: Annotated[list[UUID] | None, typer.Argument(help="Job ids. Default: the whole queue.")] = None,
    as_json: AsJson = False,
    limit: Limit = 10,
) -> None:
    """Show jobs live until they have ended, or the whole queue until Ctrl-C.

    Exit status: 0 all jobs completed, 1 one ended otherwise.
    """
    if as_json and not ids:
        raise typer.BadParameter("--json needs job ids.")
    with connected(settings.load()) as engine:
        if ids:
            _exit_by_outcome(live.watch_jobs(engine, ids, console), as_json=as_json)
        live.watch_queue(engine, console, limit)


@app.command()
def cancel(ids: Ids, as_json: AsJson = False) -> None:
    """Cancel waiting jobs and ask running ones to stop.

    Exit status: 1 a job had already ended or does not exist.
    """
    with connected(settings.load()) as engine:
        for_each(
            ids,
            lambda job: queue.request_cancel(engine, job),
            "cancelled",
            "has already ended or does not exist",
            as_json=as_json,
        )


@app.command()
def retry(
    ids: Annotated[list[UUID] | None, typer.Argument(help="Job ids.")] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Retry all jobs that failed recently, instead of ids.")
    ] = False,
    since: Annotated[
        str, typer.Option(help="How far back --failed goes, such as 90s, 30m, 2h or 7d.")
    ] = "1h",
    without_photo: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Leave this photo out, counted from 0.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the models of jobs that have ended anew.

    Exit status: 1 a job could not be queued.
    """
    if bool(ids) is failed:
        raise typer.BadParameter("Give job ids or --failed, not both.")
    if without_photo is not None and len(ids or ()) != 1:
        raise typer.BadParameter("--without-photo needs one job id.")
    seconds = _seconds(since)
    with connected(settings.load()) as engine:
        for_each(
            ids or queue.failed_since(engine, seconds),
            lambda job: _retry(engine, job, without_photo),
            "queued again",
            "has not ended, is queued already, or does not exist",
            as_json=as_json,
        )


def _prepare_photos(
    photos: Sequence[str], sample: str | None, configured: Settings, *, verbose: bool
) -> list[str]:
    """Return the photos' URLs; files are uploaded first. `verbose` checks and prints what the job needs."""
    from worker.cli import preflight  # noqa: PLC0415 - brings the store's libraries
    from worker.ops import doctor  # noqa: PLC0415

    names = [preflight.sample(sample)] if sample else photos
    if not verbose:
        return [preflight.photo_url(name, configured) for name in names]
    for finding in doctor.run_checks(doctor.BEFORE_A_JOB, configured):
        console.print(findings.line(finding), soft_wrap=True)
    urls = [preflight.photo_url(name, configured) for name in names]
    for url in urls:
        console.print(findings.line(preflight.check_photo(url, configured)), soft_wrap=True)
    return urls


def _insert(engine: Engine, **columns: Any) -> UUID:
    try:
        return queue.enqueue(engine, **columns)
    except IntegrityError as error:
        raise ConfigError(f"The database refuses this job: {first_line(error)}") from None


def _show_until_ended(engine: Engine, job: UUID, *, as_json: bool) -> NoReturn:
    from worker.cli import preflight  # noqa: PLC0415 - see above

    rows = live.watch_jobs(engine, [job], console)
    for row in rows:
        verdict = tables.verdict(row, preflight.outcome(row), preflight.advice(row))
        console.print(verdict, soft_wrap=True)
    _exit_by_outcome(rows, as_json=as_json)


def _exit_by_outcome(jobs: Sequence[Mapping[str, Any]], *, as_json: bool) -> NoReturn:
    """Exit with 0 if all jobs completed, else with 1."""
    if as_json:
        print_json(jobs)
    raise typer.Exit(0 if jobs and all(job["status"] == "completed" for job in jobs) else 1)


def _retry(engine: Engine, job: UUID, without_photo: int | None) -> bool:
    try:
        return queue.retry(engine, job, without_photo=without_photo)
    except IntegrityError:
        # Another job with its dedupe_key has not ended.
        return False
    except DataError as error:
        die(f"{job} is not queued again: {first_line(error)}", 1)


def _seconds(duration: str) -> float:
    """Return the seconds of a duration such as `2h`."""
    number, unit = duration[:-1], duration[-1:]
    if unit not in UNITS_S or not number.isdecimal() or int(number) * UNITS_S[unit] > 36_500 * DAY_S:
        raise typer.BadParameter(f"{duration} is not a duration such as 90s, 30m, 2h or 7d.")
    return float(int(number) * UNITS_S[unit])
