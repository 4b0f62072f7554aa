"""Replay days of a queue, and compare each estimate with what came: `python tests/benchmarks/estimates.py [--days N] [--json] [--picture FILE]`.

Three pools with steady arrivals run on the real SQL, in a real Postgres whose clock is simulated: the session's search_path puts
functions now() and clock_timestamp() of ours before Postgres's. What comes, and how long it takes, is drawn at random, always the
same. Every four minutes job_status and batch_status are asked when some jobs and all batches will end. A second replay has bursts
of urgent jobs besides, which nobody could foresee.
"""

import sys
from pathlib import Path

# Not this folder, which Python puts first: its `queue` would hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import json
import math
import random
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
from PIL import Image, ImageDraw, ImageFont
from psycopg.rows import dict_row
from sqlalchemy.engine import Engine

from worker import database
from worker.core.errors import JobError
from worker.database import migrate, transaction
from worker.jobs import estimates, queue
from worker.jobs.queue import Job
from worker.local.postgres import start_server

SQL = Path(__file__).parents[2] / "migrations" / "sql"
BEGIN = datetime(2026, 11, 23, tzinfo=UTC)  # a Monday
SEED = 18
FORECAST_S = 10.0
ASK_S = 237.0
WARM_UP_S = 4 * 3600.0  # nothing is asked before
DAY_S = 86_400.0

SECONDS = {"fast": 20.0, "balanced": 60.0, "quality": 150.0}
SPREAD = 0.2  # of the logarithm of the seconds
CACHED, CACHED_S = 0.05, 2.0  # share of jobs whose result is known
RETRIED = 0.02  # share of attempts that fail and are repeated


@dataclass(frozen=True)
class Pool:
    """A pool: its hosts' lanes, its shops, and what comes. `alone_s` is the mean time between two single jobs."""

    name: str
    engine: str
    lanes: Sequence[int]
    shops: int
    alone_s: float
    presets: Sequence[str]
    batch_s: float | None = None  # mean time between two batches
    batch: tuple[int, int] = (100, 600)
    urgent: float = 0.0  # share of the single jobs that have a priority
    shop_limit: int | None = None


POOLS = (
    Pool("default", "relief", (2, 2), 15, 26.0, ("fast", "balanced", "balanced", "quality"), urgent=0.1),
    Pool("catalogues", "relief", (4,), 12, 60.0, ("balanced",), batch_s=7 * 3600.0),
    Pool(
        "gpu",
        "triposr",
        (2, 1),
        8,
        100.0,
        ("balanced", "quality"),
        batch_s=9 * 3600.0,
        batch=(40, 160),
        shop_limit=2,
    ),
)


@dataclass(frozen=True)
class Question:
    """An estimate: of what, in which pool, asked when, and the seconds until its end as estimated and as it was."""

    kind: str
    pool: str
    what: str
    asked_s: float
    estimated_s: float
    real_s: float

    @property
    def error(self) -> float:
        """The difference, as a share of the truth."""
        return abs(self.estimated_s - self.real_s) / max(self.real_s, 1.0)


@dataclass
class Open:
    """A question whose answer is not known yet."""

    kind: str
    pool: str
    asked_s: float
    estimated_s: float


@dataclass
class Replay:
    """The state of a replay. `now` is in seconds since BEGIN."""

    engine: Engine
    days: float
    bursts: bool
    dice: random.Random = field(default_factory=lambda: random.Random(SEED))
    now: float = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    number: int = 0
    idle: dict[str, int] = field(default_factory=dict)
    cached: set[UUID] = field(default_factory=set)
    asked: dict[Any, list[Open]] = field(default_factory=lambda: defaultdict(list))
    unfinished: dict[tuple[str, str], int] = field(default_factory=dict)
    pool_of: dict[tuple[str, str], str] = field(default_factory=dict)
    found: list[Question] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)  # by kind
    unanswered: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    bursts_at: list[float] = field(default_factory=list)

    def run(self) -> list[Question]:
        for pool in POOLS:
            for n, lanes in enumerate(pool.lanes):
                name = f"{pool.name}-{n}"
                self.idle[name] = lanes
                self.sql(
                    "INSERT INTO worker.hosts (name, instance, version, engine, pools, lanes, devices, memory_mb, seen_at)"
                    " VALUES (%s, gen_random_uuid(), '1', %s, %s, %s, '{}', 1, 'infinity')",
                    name, pool.engine, [pool.name], lanes,
                )  # fmt: skip
            if pool.shop_limit:
                for n in range(pool.shops):
                    self.sql(
                        "INSERT INTO worker.shop_limits (shop, jobs_at_once) VALUES (%s, %s)",
                        f"{pool.name}-shop-{n}", pool.shop_limit,
                    )  # fmt: skip
            self.later(self.dice.expovariate(1 / pool.alone_s), partial(self.single, pool))
            if pool.batch_s:
                self.later(self.dice.uniform(0, pool.batch_s), partial(self.batch, pool))
        self.later(FORECAST_S, self.forecast)
        self.later(WARM_UP_S, self.ask)
        if self.bursts:
            self.later(WARM_UP_S + 3600, self.burst)
        end = self.days * DAY_S
        while self.events and self.now < end:
            self.now, _, act = heappop(self.events)
            self.set_clock()
            act()
        return self.found

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        self.number += 1
        heappush(self.events, (self.now + seconds, self.number, act))

    def set_clock(self) -> None:
        self.sql(
            "SELECT set_config('simulated.now', %s, false)", (BEGIN + timedelta(seconds=self.now)).isoformat()
        )

    def sql(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        with transaction(self.engine) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def insert(
        self, pool: Pool, shop: int, jobs: int, *, priority: int = 0, batch: str | None = None
    ) -> None:
        presets = [self.dice.choice(pool.presets) for _ in range(jobs)]
        self.sql(
            "INSERT INTO public.jobs (shop, product_id, image_urls, pool, priority, batch, quality, run_after)"
            " SELECT %s, gen_random_uuid()::text, '{https://a/b}', %s, %s, %s, quality, now()"
            " FROM unnest(%s::text[]) AS quality",
            f"{pool.name}-shop-{shop}", pool.name, priority, batch, presets,
        )  # fmt: skip
        self.jobs += jobs
        self.claim(pool)

    def single(self, pool: Pool) -> None:
        urgent = self.dice.random() < pool.urgent
        self.insert(pool, self.dice.randrange(pool.shops), 1, priority=5 if urgent else 0)
        self.later(self.dice.expovariate(1 / pool.alone_s), lambda: self.single(pool))

    def batch(self, pool: Pool) -> None:
        shop, jobs = self.dice.randrange(pool.shops), self.dice.randint(*pool.batch)
        name = f"batch-{self.number}"
        key = (f"{pool.name}-shop-{shop}", name)
        self.unfinished[key], self.pool_of[key] = jobs, pool.name
        self.insert(pool, shop, jobs, batch=name)
        self.later(self.dice.uniform(0.5, 1.5) * (pool.batch_s or 0), lambda: self.batch(pool))

    def burst(self) -> None:
        """A shop wants many things at once, before all others."""
        self.bursts_at.append(self.now)
        for pool in POOLS:
            self.insert(pool, 0, 60, priority=9)
        self.later(8 * 3600, self.burst)

    def claim(self, pool: Pool) -> None:
        for n in range(len(pool.lanes)):
            name = f"{pool.name}-{n}"
            while self.idle[name]:
                job = queue.claim(self.engine, worker=name, lease_s=1e6, pools=[pool.name], runs=pool.engine)
                if job is None:
                    return
                self.idle[name] -= 1
                self.begin(job, pool, name)

    def begin(self, job: Job, pool: Pool, host: str) -> None:
        seconds = SECONDS[job.quality] * math.exp(self.dice.gauss(0, SPREAD))
        fails = self.dice.random() < RETRIED and job.attempts < job.max_attempts
        if self.dice.random() < CACHED:
            seconds, fails = CACHED_S, False
        self.later(
            self.dice.random() * seconds if fails else seconds,
            lambda: self.end(job, pool, host, fails=fails),
        )

    def end(self, job: Job, pool: Pool, host: str, *, fails: bool) -> None:
        self.idle[host] += 1
        if fails:
            again = queue.fail(self.engine, job, JobError("no_space"), report={})["run_after"]
            self.later((again - BEGIN).total_seconds() - self.now + 0.01, partial(self.claim, pool))
        else:
            queue.complete(self.engine, job, model_url="x", report={})
            self.answer(job.id)
            key = (job.shop, job.batch or "")
            if key in self.unfinished:
                self.unfinished[key] -= 1
                if not self.unfinished[key]:
                    self.answer(key)
                    del self.unfinished[key]
        self.claim(pool)

    def answer(self, what: Any) -> None:
        for each in self.asked.pop(what, ()):
            self.found.append(
                Question(
                    each.kind, each.pool, str(what), each.asked_s, each.estimated_s, self.now - each.asked_s
                )
            )

    def forecast(self) -> None:
        self.sql("UPDATE worker.forecasts SET next_at = now()")
        estimates.update(self.engine)
        self.later(FORECAST_S, self.forecast)

    def ask(self) -> None:
        """Note an estimate of a waiting job and of a running one of each pool, and of each batch."""
        for pool in POOLS:
            for status, kind in (("pending", "waiting job"), ("processing", "running job")):
                ids = self.sql(
                    "SELECT id FROM public.jobs WHERE status = %s::worker.job_state AND pool = %s ORDER BY created_at, id",
                    status,
                    pool.name,
                )
                if ids:
                    job = self.dice.choice(ids)["id"]
                    self.note(kind, pool.name, job, "FROM public.job_status WHERE id = %s", job)
        for key in sorted(self.unfinished):
            self.note(
                "batch",
                self.pool_of[key],
                key,
                "FROM public.batch_status WHERE (shop, batch) = (%s, %s)",
                *key,
            )
        self.later(ASK_S, self.ask)

    def note(self, kind: str, pool: str, what: Any, source: str, *parameters: Any) -> None:
        (row,) = self.sql(
            f"SELECT extract(epoch FROM estimated_end - now())::float8 AS s {source}", *parameters
        )
        if row["s"] is None:
            self.unanswered[kind] += 1
        else:
            self.answered[kind] += 1
            self.asked[what].append(Open(kind, pool, self.now, row["s"]))


def simulate_the_clock(url: str) -> None:
    """Let all of the worker's functions and views of a database use a clock that the session sets."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA simulated")
        connection.execute("CREATE SEQUENCE simulated.tick")
        connection.execute("""
            CREATE FUNCTION simulated.now() RETURNS timestamptz LANGUAGE sql STABLE
            RETURN current_setting('simulated.now')::timestamptz
        """)
        # It moves on within a statement, so that the rows of one keep their order.
        connection.execute("""
            CREATE FUNCTION simulated.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
            RETURN current_setting('simulated.now')::timestamptz + nextval('simulated.tick') % 1000 * interval '1 us'
        """)
        connection.execute("SET search_path = simulated, pg_catalog, public")
        connection.execute(b"SET simulated.now = '2026-11-23'")
        for name in ("estimates", "batches", "views"):
            connection.execute((SQL / f"{name}.sql").read_bytes())
        pinned = connection.execute(
            "SELECT oid::regprocedure::text FROM pg_proc, unnest(proconfig) AS setting"
            " WHERE pronamespace IN ('worker'::regnamespace, 'public'::regnamespace) AND setting LIKE 'search_path=%'"
        ).fetchall()
        for (function,) in pinned:
            connection.execute(f"ALTER FUNCTION {function} SET search_path = simulated, pg_catalog".encode())


def replay(days: float, *, bursts: bool) -> Replay:
    with tempfile.TemporaryDirectory(prefix="worker-bench-") as folder:
        Path(folder).chmod(0o711)
        server = start_server(Path(folder) / "postgres")
        try:
            with psycopg.connect(server.url(), autocommit=True) as admin:
                admin.execute("ALTER SYSTEM SET fsync = off")
                admin.execute("SELECT pg_reload_conf()")
            url = server.create_database("replay")
            target = database.parse(url, "DATABASE_URL")
            migrate.upgrade(target)
            simulate_the_clock(url)
            engine = database.connect(target, pool_size=1)
            sa.event.listen(engine, "connect", _use_the_clock)
            game = Replay(engine, days, bursts)
            game.run()
            engine.dispose()
            return game
        finally:
            server.stop("immediate")


def _use_the_clock(connection: psycopg.Connection[Any], _record: object) -> None:
    connection.execute("SET search_path = simulated, pg_catalog, public")
    connection.execute("SELECT set_config('simulated.now', %s, false), setseed(0.18)", [BEGIN.isoformat()])


def summary(found: Sequence[Question]) -> dict[str, Any]:
    errors = [each.error for each in found]
    return {
        "estimates": len(errors),
        "median_error": round(statistics.median(errors), 3),
        "median_error_s": round(statistics.median(abs(each.estimated_s - each.real_s) for each in found), 1),
        "within_20_percent": round(sum(error <= 0.2 for error in errors) / len(errors), 3),
        "within_50_percent": round(sum(error <= 0.5 for error in errors) / len(errors), 3),
        "median_of_estimate_by_truth": round(
            statistics.median(each.estimated_s / max(each.real_s, 1) for each in found), 2
        ),
    }


def table(game: Replay) -> dict[str, Any]:
    groups: dict[str, list[Question]] = defaultdict(list)
    for each in game.found:
        groups["all"].append(each)
        groups[each.kind].append(each)
        groups[f"{each.kind}, {each.pool}"].append(each)
        if any(each.asked_s < moment < each.asked_s + each.real_s for moment in game.bursts_at):
            groups[f"{each.kind}, asked before a burst that came before its end"].append(each)
    return {
        "jobs": game.jobs,
        "asked": game.answered + game.unanswered,  # by kind
        "null": game.unanswered,
        "estimates": {name: summary(found) for name, found in sorted(groups.items())},
    }


COLORS = {"default": "#2563eb", "catalogues": "#ea580c", "gpu": "#059669"}
WIDTH, HEIGHT, MARGIN = 1600, 1180, 90
SIZES = {"batch": 4.0, "waiting job": 2.5, "running job": 1.5}
INK, FAINT, BAND_20, BAND_50 = "#1f2937", "#9ca3af", "#d1fae5", "#f0fdf4"


def draw(games: dict[str, Replay], file: Path) -> None:
    """Draw each estimate against the truth, and those of the longest batch as it went."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    for n, (title, game) in enumerate(games.items()):
        left = MARGIN + n * (WIDTH // 2)
        _draw_ratios(pen, game, title, (left, 80, left + WIDTH // 2 - MARGIN - 30, 560))
        _draw_longest(pen, game, (left, 680, left + WIDTH // 2 - MARGIN - 30, 1080))
    for n, (pool, color) in enumerate(COLORS.items()):
        x = MARGIN + n * 230
        pen.ellipse((x, HEIGHT - 38, x + 14, HEIGHT - 24), fill=color)
        pen.text((x + 24, HEIGHT - 31), f"pool {pool}", INK, font=_font(20), anchor="lm")
    pen.text(
        (WIDTH - MARGIN, HEIGHT - 31),
        "large: batches, middling: waiting jobs, small: running jobs",
        INK,
        font=_font(18),
        anchor="rm",
    )
    image.save(file, optimize=True)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _draw_ratios(pen: ImageDraw.ImageDraw, game: Replay, title: str, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    low, high = math.log(5), math.log(8 * 3600)

    def x_of(seconds: float) -> float:
        return left + (right - left) * min(max((math.log(seconds) - low) / (high - low), 0), 1)

    def y_of(ratio: float) -> float:
        return (top + bottom) / 2 - (bottom - top) / 2 * min(max(math.log(ratio) / math.log(4), -1), 1)

    for share, color in ((0.5, BAND_50), (0.2, BAND_20)):
        pen.rectangle((left, y_of(1 + share), right, y_of(1 - share)), fill=color)
    good = [
        round(100 * sum(each.error <= share for each in game.found) / len(game.found)) for share in (0.2, 0.5)
    ]
    pen.text((left, top - 56), title, INK, font=_font(26))
    pen.text(
        (left, top - 24),
        f"{len(game.found):,} estimates: {good[0]} % within 20 %, {good[1]} % within 50 %",
        INK,
        font=_font(18),
    )
    for each in game.found:
        x, y = x_of(max(each.real_s, 1)), y_of(max(each.estimated_s, 1) / max(each.real_s, 1))
        size = SIZES[each.kind]
        pen.ellipse((x - size, y - size, x + size, y + size), fill=COLORS[each.pool])
    for ratio, label in (
        (0.25, "a quarter"),
        (0.5, "-50 %"),
        (0.8, "-20 %"),
        (1, "as it came"),
        (1.2, "+20 %"),
        (1.5, "+50 %"),
        (4, "4 times"),
    ):
        pen.text((left - 8, y_of(ratio)), label, INK, font=_font(15), anchor="rm")
    pen.line((left, y_of(1), right, y_of(1)), fill=FAINT)
    for seconds, label in ((10, "10 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h"), (4 * 3600, "4 h")):
        pen.line((x_of(seconds), bottom, x_of(seconds), bottom + 6), fill=INK)
        pen.text((x_of(seconds), bottom + 10), label, INK, font=_font(16), anchor="mt")
    pen.text(
        (right, bottom + 34),
        "time that was left until the end, when it was asked",
        INK,
        font=_font(16),
        anchor="rt",
    )
    pen.rectangle(box, outline=FAINT)


def _draw_longest(pen: ImageDraw.ImageDraw, game: Replay, box: tuple[int, int, int, int]) -> None:
    """Draw the estimated time left of the batch that took longest, beside the real one."""
    left, top, right, bottom = box
    batches: dict[str, list[Question]] = defaultdict(list)
    for each in game.found:
        if each.kind == "batch":
            batches[each.what].append(each)
    longest = max(batches.values(), key=lambda each: (_burst_in(game, each) is not None, each[0].real_s))
    began, whole = longest[0].asked_s, longest[0].real_s
    most = 1.25 * max(whole, *(each.estimated_s for each in longest))

    def at(asked_s: float, left_s: float) -> tuple[float, float]:
        return left + (right - left) * (asked_s - began) / whole, bottom - (bottom - top) * left_s / most

    pen.text(
        (left, top - 56),
        f"The batch that took longest ({len(longest)} looks, pool {longest[0].pool})",
        INK,
        font=_font(22),
    )
    pen.text((left, top - 26), "time left: estimated (dots) and as it came (line)", INK, font=_font(18))
    if (burst := _burst_in(game, longest)) is not None:
        x = at(burst, 0)[0]
        pen.line((x, top, x, bottom), fill="#dc2626", width=2)
        pen.text((x + 6, top + 4), "60 urgent jobs", "#dc2626", font=_font(16))
    pen.line((*at(began, whole), *at(began + whole, 0)), fill=FAINT, width=2)
    for each in longest:
        x, y = at(each.asked_s, each.estimated_s)
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=COLORS[each.pool])
    for hour in range(int(most // 3600) + 1):
        pen.text((left - 8, at(began, hour * 3600)[1]), f"{hour} h", INK, font=_font(16), anchor="rm")
    for hour in range(int(whole // 3600) + 1):
        pen.text((at(began + hour * 3600, 0)[0], bottom + 10), f"{hour} h", INK, font=_font(16), anchor="mt")
    pen.text((right, bottom + 34), "time since the first look", INK, font=_font(16), anchor="rt")
    pen.rectangle(box, outline=FAINT)


def _burst_in(game: Replay, looks: Sequence[Question]) -> float | None:
    """Return when urgent jobs came while a batch was made."""
    began, end = looks[0].asked_s, looks[0].asked_s + looks[0].real_s
    return next((moment for moment in game.bursts_at if began < moment < end), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Replay days of a queue, and compare each estimate with what came."
    )
    parser.add_argument("--days", type=float, default=2.0, help="simulated days of each of the two replays")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--picture", type=Path, help="draw the estimates into this file")
    arguments = parser.parse_args()
    games = {
        "Steady arrivals": replay(arguments.days, bursts=False),
        "… with 60 urgent jobs in each pool every 8 hours": replay(arguments.days, bursts=True),
    }
    if arguments.picture:
        draw(games, arguments.picture)
    found = dict(zip(("steady", "bursts"), map(table, games.values()), strict=True))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for name, figures in found.items():
        print(
            f"{name}: {figures['jobs']:,} jobs, {figures['asked'].total():,} questions, {figures['null'].total():,} of them answered null"
        )
        for kind, asked in sorted(figures["asked"].items()):
            print(f"  {kind:28} {asked:,} questions, {figures['null'][kind]:,} answered null")
        for group, line in figures["estimates"].items():
            print(f"  {group:28} {line}")


if __name__ == "__main__":
    main()
