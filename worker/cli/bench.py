"""`worker bench`: measurements on this machine."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from worker import display, settings
from worker.cli.output import AsJson, console, print_json
from worker.settings import ConfigError

app = typer.Typer(no_args_is_help=True, help="Measurements on this machine.")


@app.command("tsr")
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
        print_json(found)
    else:
        console.print(display.bench_table(found))


@app.command("finish")
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
        print_json(found)
    else:
        console.print(display.finish_table(found))


@app.command("queue")
def bench_queue(
    quick: Annotated[
        bool, typer.Option("--quick", help="Little of everything, to see that it works; no figures to quote.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The queue's speed, and what it does when daemons are killed or frozen or Postgres is away. Takes ten minutes."""
    from worker import dev  # noqa: PLC0415 - what only a laptop needs
    from worker.bench import queue as bench  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is ended
    dev.ensure_weights(console, "relief")
    with console.status("") as doing:
        found = bench.run(bench.QUICK if quick else bench.Size(), lambda what: doing.update(f"{what} …"))
    if as_json:
        print_json(found)
    else:
        console.print(display.queue_table(found))
