"""The command line. Every command prints for people; with `--json` one document on stdout and nothing else there."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn
from uuid import UUID, uuid4

import typer
from rich.console import Console
from rich.live import Live
from rich.prompt import Confirm
from rich.text import Text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from worker import __version__, daemon, database, display, logs, settings, systemd, weights
from worker.errors import JobError
from worker.jobs import queue
from worker.settings import ConfigError
from worker.webhooks import outbox

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turns product photos into 3D models for Shopify shops, one row of public.jobs at a time.",
)
weights_app = typer.Typer(no_args_is_help=True, help="The models that the worker needs on disk.")
app.add_typer(weights_app, name="weights")
webhooks_app = typer.Typer(no_args_is_help=True, help="What the backend was told, or would not take.")
app.add_typer(webhooks_app, name="webhooks")
bench_app = typer.Typer(no_args_is_help=True, help="Measurements on this machine.")
app.add_typer(bench_app, name="bench")

# What people read goes to stderr, so that stdout can be a document for a program.
console = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Folder = Annotated[Path, typer.Option(help="Where it keeps its data.")]
Port = Annotated[int, typer.Option(help="The port for files and webhooks; 0 takes a free one.")]
EngineName = Annotated[str, typer.Option(help="relief makes previews and needs no weights.")]
Ids = Annotated[list[UUID], typer.Argument(help="Ids of jobs.")]
WeightNames = Annotated[
    list[str] | None, typer.Argument(help="triposr, or a background model; what is configured without.")
]

PAUSE_S = 0.3  # between two looks at the rows


def main() -> None:
    """The console script. Errors that a person can mend are one line."""
    try:
        app()
    except ConfigError as error:
        _die(str(error), daemon.CONFIGURATION)
    except OperationalError as error:
        _die(f"The database cannot be reached: {str(error.orig).strip()}", daemon.TEMPORARY)
    except DBAPIError as error:
        _die(str(error.orig).strip(), 1)


@app.command()
def run() -> None:
    """Claims jobs and does them, until SIGTERM. Exit codes: 0 drained, 75 start again, 78 configuration."""
    configured = settings.load()
    logs.configure(configured.log_format, configured.log_level)
    raise typer.Exit(daemon.run(configured))


@app.command()
def migrate(revision: Annotated[str, typer.Argument(help="Where to go.")] = "head") -> None:
    """Brings the database's schema up to this version of the worker, as `alembic upgrade head` does."""
    from worker.migrate import upgrade  # noqa: PLC0415 - alembic is of no use to the daemon

    target = database.url(settings.load())
    upgrade(target, revision)
    console.print(f"The schema of {target.database} is at {revision}.")


@app.command()
def enqueue(
    photos: Annotated[list[str], typer.Argument(help="Addresses, or files where the store can serve them.")],
    shop: Annotated[str, typer.Option(help="The shop's domain.")] = "demo.myshopify.com",
    product: Annotated[
        str | None, typer.Option(help="The product's id or gid; a new one without it.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="The variant's id or gid.")] = None,
    quality: Annotated[str, typer.Option(help="fast, balanced or quality.")] = "balanced",
    priority: Annotated[int, typer.Option(help="Higher comes first.")] = 0,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until the job has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Inserts a job, as a backend does."""
    configured = settings.load()
    engine = database.connect(database.url(configured))
    try:
        job = queue.enqueue(
            engine,
            shop=shop,
            product_id=product or f"test-{uuid4().hex[:8]}",
            variant_id=variant,
            image_urls=[_address(photo, configured) for photo in photos],
            quality=quality,
            priority=priority,
        )
    except IntegrityError as error:
        raise ConfigError(f"The database refuses this job: {str(error.orig).splitlines()[0]}") from None
    if watch:
        raise typer.Exit(_watch(engine, lambda: queue.look(engine, [job]), as_json=as_json))
    if as_json:
        _print_json({"id": str(job)})
    else:
        console.print(f"Job {job} is queued.")


@app.command()
def status(
    as_json: AsJson = False, limit: Annotated[int, typer.Option(help="Of waiting and of ended jobs.")] = 10
) -> None:
    """The queue at a glance."""
    engine = database.connect(database.url(settings.load()))
    counts = {row["status"]: row["jobs"] for row in queue.counts(engine)}
    jobs = queue.recent(engine, limit)
    if as_json:
        _print_json({"counts": counts, "jobs": [dict(job) for job in jobs]})
        return
    console.print("   ".join(f"{name} [bold]{counts.get(name, 0)}[/bold]" for name in display.COLORS))
    if jobs:
        console.print(display.jobs_table(jobs))


@app.command()
def watch(
    ids: Annotated[
        list[UUID] | None, typer.Argument(help="Ids of jobs; all that run and wait without.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Shows jobs live until they have ended."""
    engine = database.connect(database.url(settings.load()))
    ids = ids or [job["id"] for job in queue.recent(engine, 20) if job["completed_at"] is None]
    raise typer.Exit(_watch(engine, lambda: queue.look(engine, ids), as_json=as_json))


@app.command()
def cancel(ids: Ids, as_json: AsJson = False) -> None:
    """Ends waiting jobs at once and asks running ones to stop."""
    _for_each(ids, queue.ask_to_cancel, "cancelled", "has ended already or does not exist", as_json=as_json)


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
    from worker import delete  # noqa: PLC0415
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
        _die(str(error), daemon.TEMPORARY)
    except JobError as error:
        _die(f"The storage has failed: {error}", daemon.TEMPORARY if error.retryable else 1)
    if as_json:
        _print_json({"path": stem, "jobs": removed.jobs, "files": removed.files})
    else:
        console.print(
            f"{stem}: deleted, files {removed.files}, rows {removed.jobs}", soft_wrap=True, highlight=False
        )


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Looks for what a deployment gets wrong, and says how to mend it. Run it as the service's user.

    Exit codes: 78 something is wrong, 75 something does not answer, 1 a check has failed itself.
    """
    from worker import doctor  # noqa: PLC0415 - what the daemon has no use for

    found = []
    for name, finding in doctor.examine():
        found.append((name, finding))
        if not as_json:
            console.print(doctor.line(name, finding), soft_wrap=True)
    code = doctor.exit_status(finding for _, finding in found)
    if as_json:
        checks = [
            {"check": name, "level": finding.level.name.lower(), "text": finding.text, "fix": finding.fix}
            for name, finding in found
        ]
        _print_json({"exit_status": code, "checks": checks})
    raise typer.Exit(code)


@weights_app.command("fetch")
def fetch_weights(
    names: WeightNames = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL|FOLDER",
            help="A mirror's address, or a folder, with the published files of the one model that is named.",
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="TripoSR in half precision, in half the space.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep TripoSR's published file beside what it is converted to.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetches models, once, and goes on where it was interrupted. Exit codes: 75 try again later, 78 it cannot work."""
    from worker.weights import bar  # noqa: PLC0415 - the daemon draws no bars

    configured = settings.load()
    if source and len(names or []) != 1:
        raise typer.BadParameter("--from goes with the name of one model.")
    paths = {}
    for name in names or weights.needed(configured.engine, configured.background_model):
        try:
            with bar.shown(console, name) as progress:
                paths[name] = weights.fetch(
                    configured.weights_dir,
                    name,
                    source=source,
                    half=half,
                    keep=keep,
                    progress=systemd.extending(name, progress),
                    say=lambda what: console.print(what, soft_wrap=True, highlight=False, style="dim"),
                )
        except weights.SourceUnreachable as error:
            _die(str(error), daemon.TEMPORARY)
        except (weights.FetchFailed, weights.WeightsMissing) as error:
            raise ConfigError(str(error)) from None
        if not as_json:
            console.print(f"{name}: {paths[name]}", soft_wrap=True, highlight=False)
    if as_json:
        _print_json({name: {"path": path} for name, path in paths.items()})


@weights_app.command("verify")
def verify_weights(names: WeightNames = None, as_json: AsJson = False) -> None:
    """Says whether models are there and whole. Exit code: 78 if one is not."""
    configured = settings.load()
    report: dict[str, dict[str, Any]] = {}
    for name in names or weights.needed(configured.engine, configured.background_model):
        try:
            path = weights.verify(configured.weights_dir, name)
        except weights.WeightsMissing as error:
            # Another checkpoint than the official one can be used, and is told all the same.
            usable = isinstance(error, weights.NotOfficial)
            report[name] = {"verified": False, "usable": usable, "problem": str(error)}
        else:
            report[name] = {"verified": True, "usable": True, "path": path}
    problems = [result["problem"] for result in report.values() if not result["verified"]]
    if as_json:
        _print_json(report)
        raise typer.Exit(daemon.CONFIGURATION if problems else 0)
    for name in (name for name, result in report.items() if result["verified"]):
        console.print(f"{name}: as it should be")
    if problems:
        raise ConfigError(" ".join(problems))


@weights_app.command("path")
def path_of_weights(names: WeightNames = None, as_json: AsJson = False) -> None:
    """Prints where models belong, whether they are there or not."""
    configured = settings.load()
    names = names or weights.needed(configured.engine, configured.background_model)
    try:
        paths = {name: weights.path(configured.weights_dir, name) for name in names}
    except weights.WeightsMissing as error:
        raise ConfigError(str(error)) from None
    if as_json:
        _print_json(paths)
    else:
        typer.echo("\n".join(map(str, paths.values())))


@webhooks_app.command("list")
def list_webhooks(
    limit: Annotated[int, typer.Option(help="Of dead events, the latest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """The dead events, which the backend would not take, and how many wait."""
    engine = database.connect(database.url(settings.load()))
    counts, events = outbox.counts(engine), outbox.dead(engine, limit)
    engine.dispose()
    if as_json:
        _print_json({**counts, "events": events})
        return
    since = f", the oldest since {counts['oldest']:%d %b %H:%M} UTC" if counts["oldest"] else ""
    console.print(f"waiting [bold]{counts['waiting']}[/bold]{since}   dead [bold]{counts['dead']}[/bold]")
    if events:
        console.print(display.dead_table(events))


@webhooks_app.command("replay")
def replay_webhooks(
    ids: Annotated[list[UUID] | None, typer.Argument(help="Ids of dead events.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead events.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sends dead events after all, unless the backend has had a later one of the job. Exit code: 1 if one is not sent."""
    if every == bool(ids):
        raise typer.BadParameter("Name dead events, or say --all.")
    engine = database.connect(database.url(settings.load()))
    sent = outbox.replay(engine, ids or None)
    engine.dispose()
    outcome = {str(event): event in sent for event in ids or sent}
    if as_json:
        _print_json(outcome)
    else:
        for event, was_sent in outcome.items():
            console.print(f"{event} {'is sent again' if was_sent else 'is not dead, or was overtaken'}")
        if every:
            console.print(f"{len(sent)} dead events are sent again.")
    raise typer.Exit(0 if all(outcome.values()) else 1)


@bench_app.command("tsr")
def bench_tsr(
    scene: Annotated[
        Path, typer.Option(help="A folder with scene_code.npy and decoder.safetensors; a checkout has one.")
    ] = Path("tests/data/tsr-fitted"),
    resolution: Annotated[list[int] | None, typer.Option(help="Of the grid; 256 and 384 without.")] = None,
    repeat: Annotated[int, typer.Option(help="Runs, of which the median counts.")] = 3,
    as_json: AsJson = False,
) -> None:
    """TripoSR's network, and its surface against a dense extraction in the same run. Takes some minutes."""
    from worker.bench import tsr  # noqa: PLC0415 - imports torch

    folder = settings.load().weights_dir / "triposr"
    if not (scene / "scene_code.npy").exists():
        raise ConfigError(f"There is no scene in {scene}. Name a folder with --scene.")
    found = tsr.run(scene, folder, resolution or [256, 384], repeat)
    if as_json:
        _print_json(found)
    else:
        console.print(display.bench_table(found))


@bench_app.command("finish")
def bench_finish(
    scene: Annotated[
        Path, typer.Option(help="A folder with scene_code.npy and decoder.safetensors; a checkout has one.")
    ] = Path("tests/data/tsr-fitted"),
    as_json: AsJson = False,
) -> None:
    """From the surface to the file: the seconds of each step, at every preset."""
    from worker.bench import finish  # noqa: PLC0415 - imports torch

    if not (scene / "scene_code.npy").exists():
        raise ConfigError(f"There is no scene in {scene}. Name a folder with --scene.")
    found = finish.run(scene)
    if as_json:
        _print_json(found)
    else:
        console.print(display.finish_table(found))


@bench_app.command("queue")
def bench_queue(
    quick: Annotated[
        bool, typer.Option("--quick", help="Little of everything, to see that it works; no figures to quote.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The queue's speed, and what it does when daemons are killed or frozen or Postgres is away. Takes ten minutes."""
    from worker import dev  # noqa: PLC0415 - what only a laptop needs
    from worker.bench import queue as bench  # noqa: PLC0415

    dev.ensure_weights(console, "relief")
    with console.status("") as doing:
        found = bench.run(bench.QUICK if quick else bench.Size(), lambda what: doing.update(f"{what} …"))
    if as_json:
        _print_json(found)
    else:
        console.print(display.queue_table(found))


@app.command()
def dev(folder: Folder = Path(".worker"), port: Port = 8765, engine: EngineName = "relief") -> None:
    """Runs everything on this machine: Postgres, a store, a receiver for webhooks, and the daemon."""
    from worker import dev  # noqa: PLC0415 - what only a laptop needs

    raise typer.Exit(dev.run(folder, engine=engine, port=port, console=console))


@app.command()
def demo(
    results: Annotated[Path, typer.Option(help="Where the models and the page go.")] = Path("results"),
    engine: EngineName = "relief",
) -> None:
    """Makes 3D models of sample photos through the real daemon, and a page to look at them."""
    from worker import demo  # noqa: PLC0415

    raise typer.Exit(demo.run(results, engine=engine, console=console))


@app.command()
def version() -> None:
    """Prints the version."""
    typer.echo(__version__)


def _address(photo: str, configured: settings.Settings) -> str:
    """A file goes to the store, under its content's hash, and from there by its address to the worker."""
    if "://" in photo:
        return photo
    file = Path(photo)
    if not file.is_file():
        raise ConfigError(f"{photo} is neither an address nor a file.")
    from worker.storage import open_store, sha256, version  # noqa: PLC0415

    types = {
        ".jpg": "image/jpeg",
        ".jpeg": "image/jpeg",
        ".png": "image/png",
        ".webp": "image/webp",
        ".avif": "image/avif",
    }
    ending = file.suffix.lower()
    address = open_store(configured).put(
        f"uploads/{version(sha256(file))}{ending}", file, types.get(ending, "application/octet-stream")
    )
    if not address.startswith("http"):
        raise ConfigError(
            f"{photo} is a file, and nothing serves the store. Run `worker dev`, or set WORKER_STORAGE_URL."
        )
    return address


def _watch(engine: Engine, look: Callable[[], Sequence[Mapping[str, Any]]], *, as_json: bool) -> int:
    """0 if all jobs end as completed, else 1."""
    jobs = look()
    with Live(display.jobs_table(jobs), console=console, auto_refresh=False) as live:
        while any(job["completed_at"] is None for job in jobs):
            time.sleep(PAUSE_S)
            jobs = look()
            live.update(display.jobs_table(jobs), refresh=True)
    engine.dispose()
    if as_json:
        _print_json([dict(job) for job in jobs])
    return 0 if jobs and all(job["status"] == "completed" for job in jobs) else 1


def _for_each(
    ids: list[UUID], act: Callable[[Engine, UUID], bool], done: str, not_done: str, *, as_json: bool
) -> None:
    engine = database.connect(database.url(settings.load()))
    outcome = {str(job): act(engine, job) for job in ids}
    if as_json:
        _print_json(outcome)
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


def _print_json(document: Any) -> None:
    print(json.dumps(document, default=str, indent=2))  # noqa: T201 - the document is the output


def _die(reason: str, code: int) -> NoReturn:
    console.print(Text.assemble(("error: ", "bold red"), reason), soft_wrap=True)
    sys.exit(code)
