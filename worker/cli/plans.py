"""The commands on plans of shops: limits, usage."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from sqlalchemy.engine import Engine

from worker.cli.options import AsJson
from worker.cli.output import connected, console, die, print_json
from worker.cli.sections import FLEET
from worker.core import settings
from worker.database import Row
from worker.jobs import plans
from worker.ops.terminal import plans as tables

app = typer.Typer()
T = TypeVar("T")

NONE = "none"
MOST = 1000  # plans that are listed


@app.command(rich_help_panel=FLEET)
def limits(
    shop: Annotated[
        str | None, typer.Argument(metavar="SHOP", help="The shop's domain. Default: all.")
    ] = None,
    jobs_a_day: Annotated[
        str | None,
        typer.Option(metavar="N", help="Jobs that it may insert on a day in UTC, or none for no limit."),
    ] = None,
    at_once: Annotated[
        str | None, typer.Option(metavar="N", help="Its jobs that may run at the same time, or none.")
    ] = None,
    presets: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="The presets that it may use, as fast,balanced, or none."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove its limits.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show or set what a shop may have: its plan.

    What is not named stays as it is. What waits and runs already stays, too.

    Exit status: 1 the shop has no limits.
    """
    named: dict[str, tuple[Any] | None] = {
        "jobs_a_day": _parse(jobs_a_day, _count),
        "jobs_at_once": _parse(at_once, _count),
        "presets": _parse(presets, _presets),
    }
    changes = {name: value[0] for name, value in named.items() if value}
    if (changes or remove) and not (shop and shop.strip()):
        raise typer.BadParameter("Name the shop whose limits are to change.")
    if changes and remove:
        raise typer.BadParameter("Give either limits or --remove.")
    with connected(settings.load()) as engine:
        if shop and remove and not plans.remove(engine, shop):
            die(f"{shop} has no limits. See: worker limits", 1)
        if shop and changes:
            known = _plan(engine, shop) or {}
            plans.set_plan(engine, shop, **{name: changes.get(name, known.get(name)) for name in named})
        found = plans.list_plans(engine, part=shop or "", after="", limit=MOST)
    found = [plan for plan in found if shop in {None, plan["shop"]}]
    if as_json:
        print_json(found)
    elif found:
        console.print(tables.plans_table(found))
    else:
        text = f"{shop} has no limits." if shop else "No shop has limits."
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    if shop and not found and not remove:
        raise typer.Exit(1)


@app.command(rich_help_panel=FLEET)
def usage(
    shop: Annotated[
        str | None, typer.Argument(metavar="SHOP", help="The shop's domain. Default: all.")
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=4000, metavar="N", help="Show this many days, with today.")
    ] = 30,
    as_json: AsJson = False,
) -> None:
    """Show what shops have used, by day in UTC and preset.

    The line without a shop has the sums of shops that were forgotten.
    """
    with connected(settings.load()) as engine:
        found = plans.usage(engine, shop=shop, days=days)
    if as_json:
        print_json(found)
    elif found:
        console.print(tables.usage_table(found, console.width))
    else:
        console.print("No job has ended.")


def _plan(engine: Engine, shop: str) -> Row | None:
    found = plans.list_plans(engine, part=shop, after="", limit=MOST)
    return next((plan for plan in found if plan["shop"] == shop), None)


def _parse(text: str | None, parse: Callable[[str], T]) -> tuple[T | None] | None:
    """Return what an option says: None if it is not given, a tuple with None for no limit."""
    if text is None:
        return None
    return (None,) if text == NONE else (parse(text),)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 31):
        raise typer.BadParameter(f"'{text}' is neither a number of jobs nor {NONE}.")
    return int(text)


def _presets(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in plans.PRESETS:
            raise typer.BadParameter(f"'{name}' is not one of {', '.join(plans.PRESETS)}.")
    return names
