"""The commands on jobs: enqueue, status, watch, cancel, retry, delete."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, NoReturn
from uuid import UUID, uuid4

import typer
from rich.prompt import Confirm
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from worker import database
from worker.cli import preflight
from worker.cli.output import AsJson, connected, console, die, print_json
from worker.core import settings
from worker.core.errors import JobError, first_line
from worker.core.settings import ConfigError
from worker.jobs import queue
from worker.ops import doctor
from worker.ops.terminal import findings, live, tables

app = typer.Typer()
Ids = Annotated[list[UUID], typer.Argument(help="Ids of jobs.")]


@app.command()
def enqueue(
    photos: Annotated[
        list[str] | None, typer.Argument(help="Addresses, or files where the store can serve them.")
    ] = None,
    sample: Annotated[
        str | None, typer.Option(metavar="NAME", help="A bundled photo instead, such as vase.png.")
    ] = None,
    shop: Annotated[str, typer.Option(help="The shop's domain.")] = "demo.myshopify.com",
    product: Annotated[
        str | None, typer.Option(help="The product's id or gid; a new one without it.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="The variant's id or gid.")] = None,
    quality: Annotated[str, typer.Option(help="fast, balanced or quality.")] = "balanced",
    priority: Annotated[int, typer.Option(help="Higher comes first.")] = 0,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Look first at what the job needs, then stay until it has ended."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Inserts a job, as a backend does. With --watch exit code 0 means completed, 1 another end."""
    if bool(photos) is bool(sample):
        raise typer.BadParameter("Name photos, or a --sample.")
    configured = settings.load()
    with connected(configured) as engine:
        if watch:
            database.check_schema(engine)
            for finding in doctor.run_checks(doctor.BEFORE_A_JOB, configured):
                console.print(findings.line(finding), soft_wrap=True)
        names = [preflight.sample(sample)] if sample else photos or []
        addresses = [preflight.address(photo, configured) for photo in names]
        if watch:
            for photo in addresses:
                console.print(findings.line(preflight.check_photo(photo, configured)), soft_wrap=True)
        try:
            job = queue.enqueue(
                engine,
                shop=shop,
                product_id=product or f"test-{uuid4().hex[:8]}",
                variant_id=variant,
                image_urls=addresses,
                quality=quality,
                priority=priority,
            )
        except IntegrityError as error:
            raise ConfigError(f"The database refuses this job: {first_line(error)}") from None
        if watch:
            rows = live.jobs(engine, [job], console)
            for row in rows:
                console.print(
                    tables.verdict(row, preflight.outcome(row), preflight.advice(row)), soft_wrap=True
                )
            _print_ended(rows, as_json=as_json)
    if as_json:
        print_json({"id": str(job)})
    else:
        console.print(f"Job {job} is queued.")


@app.command()
def status(
    as_json: AsJson = False, limit: Annotated[int, typer.Option(help="Of waiting and of ended jobs.")] = 10
) -> None:
    """The queue at a glance: what waits and runs, who works, what has failed."""
    with connected(settings.load()) as engine:
        if as_json:
            print_json(
                {
                    "queue": queue.health(engine),
                    "workers": queue.workers(engine),
                    "failures": queue.failures(engine),
                    "jobs": queue.recent(engine, limit),
                }
            )
        else:
            for part in live.glance(engine, limit):
                console.print(part)


@app.command()
def watch(
    ids: Annotated[
        list[UUID] | None, typer.Argument(help="Ids of jobs; the whole queue, until Ctrl-C, without.")
    ] = None,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(help="Of waiting and of ended jobs, for the whole queue.")] = 10,
) -> None:
    """Shows jobs live until they have ended, or the queue. Exit code: 1 if one has not ended as completed."""
    if as_json and not ids:
        raise typer.BadParameter("--json goes with ids of jobs.")
    with connected(settings.load()) as engine:
        if ids:
            _print_ended(live.jobs(engine, ids, console), as_json=as_json)
        with suppress(KeyboardInterrupt):
            live.everything(engine, console, limit)


@app.command()
def cancel(ids: Ids, as_json: AsJson = False) -> None:
    """Ends waiting jobs at once and asks running ones to stop."""
    _for_each(ids, queue.request_cancel, "cancelled", "has ended already or does not exist", as_json=as_json)


@app.command()
def retry(
    ids: Annotated[list[UUID] | None, typer.Argument(help="Ids of jobs.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed, instead of ids.")] = False,
    since: Annotated[str, typer.Option(help="How long ago at the most: 90s, 30m, 2h, 7d.")] = "1h",
    as_json: AsJson = False,
) -> None:
    """Runs jobs that have ended once more."""
    if bool(ids) is failed:
        raise typer.BadParameter("Name jobs, or say --failed.")
    if failed:
        engine = database.connect(database.url(settings.load()))
        ids = queue.failed_since(engine, _seconds(since))
        engine.dispose()
    _for_each(
        ids or [], _retry, "queued again", "has not ended, does not exist, or waits already", as_json=as_json
    )


@app.command()
def delete(
    shop: Annotated[str, typer.Option(help="The shop's domain.")],
    product: Annotated[
        str | None, typer.Argument(help="The product's id or gid; everything of the shop without it.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="The variant's id or gid, to delete it alone.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deletes the files and rows of a product, a variant or a whole shop, for good. Exit code: 75 try again later."""
    from worker.ops import delete  # noqa: PLC0415
    from worker.storage import open_store, paths  # noqa: PLC0415

    # An empty id, such as an unset variable of a shell leaves, must not mean everything.
    if not shop.strip() or "" in {product, variant} or (variant and not product):
        raise typer.BadParameter("Name a shop, a product of it, or a variant of a product.")
    if as_json and not yes:
        raise typer.BadParameter("--json goes with --yes.")
    configured = settings.load()
    engine = database.connect(database.url(configured))
    store = open_store(configured)
    stem = paths.stem(shop, product, variant)
    try:
        if not yes:
            jobs, files = delete.find(engine, store, stem, shop)
            console.print(f"{stem}: files {len(files)}, rows {len(jobs)}", soft_wrap=True, highlight=False)
            if not Confirm.ask("Delete them for good?", console=console, default=False):
                raise typer.Abort
        removed = delete.delete(engine, store, stem, shop)
    except delete.StillRunning as error:
        die(str(error), os.EX_TEMPFAIL)
    except JobError as error:
        die(f"The storage has failed: {error}", os.EX_TEMPFAIL if error.retryable else 1)
    if as_json:
        print_json({"path": stem, "jobs": removed.jobs, "files": removed.files})
    else:
        console.print(
            f"{stem}: deleted, files {removed.files}, rows {removed.jobs}", soft_wrap=True, highlight=False
        )


def _print_ended(jobs: Sequence[Mapping[str, Any]], *, as_json: bool) -> NoReturn:
    """Exit code 0 if all jobs have ended as completed, else 1."""
    if as_json:
        print_json(jobs)
    raise typer.Exit(0 if jobs and all(job["status"] == "completed" for job in jobs) else 1)


def _for_each(
    ids: list[UUID], act: Callable[[Engine, UUID], bool], done: str, not_done: str, *, as_json: bool
) -> None:
    engine = database.connect(database.url(settings.load()))
    outcome = {str(job): act(engine, job) for job in ids}
    if as_json:
        print_json(outcome)
    else:
        for job, was_done in outcome.items():
            console.print(f"{job} {done if was_done else not_done}")
    raise typer.Exit(0 if all(outcome.values()) else 1)


def _retry(engine: Engine, job: UUID) -> bool:
    try:
        return queue.retry(engine, job)
    except IntegrityError:
        # Another one with its dedupe_key has not ended.
        return False


def _seconds(duration: str) -> float:
    """`2h` → 7200."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = duration[:-1], duration[-1:]
    if unit not in units or not number.isdigit():
        raise typer.BadParameter(f"{duration} is not a duration such as 90s, 30m, 2h or 7d.")
    return float(int(number) * units[unit])
