"""Measure the queue when nothing goes wrong, and when everything does: `python tests/benchmarks/queue.py [--quick] [--json]`.

The daemons are real, with the engine `relief`, and have the default settings except where a measurement names others.
"""

import sys
from pathlib import Path

# Not this folder, which Python puts first: its `queue` would hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import uuid4

import psycopg
from benchmarks.rig import Daemon, Json, Rig, rig, sql, until
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import Engine

from worker import database
from worker.core.settings import ConfigError
from worker.jobs import queue
from worker.jobs.queue import Claimer
from worker.local.postgres import start_server
from worker.local.stack import interrupt_on_signals
from worker.local.weights import ensure_weights
from worker.versions import queue as versions
from worker.versions.queue import Publication

POLL_S = 1.0
LONG_S = 150.0  # longer than anything here takes
INSERT = "INSERT INTO jobs (shop, product_id, image_urls, quality, refresh) VALUES (%s, %s, %s, 'fast', true) RETURNING id::text"
# A job as a bare queue would keep it, and the loop that does it: what a worker must know of it, and no rules.
BARE = """
    CREATE TABLE bare (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), shop text NOT NULL, product_id text NOT NULL, variant_id text,
        image_urls text[] NOT NULL, quality text NOT NULL DEFAULT 'balanced', metadata jsonb NOT NULL DEFAULT '{}',
        status text NOT NULL, model_url text, created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        started_at timestamptz, ended_at timestamptz)
    WITH (fillfactor = 80)
"""
BARE_CLAIM = (
    "UPDATE bare SET status = 'running', started_at = now() WHERE id = (SELECT id FROM bare"
    " WHERE status = 'pending' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED)"
    " RETURNING id, shop, product_id, variant_id, image_urls, quality, metadata"
)
BARE_FINISH = "UPDATE bare SET status = 'done', ended_at = now(), model_url = %s WHERE id = %s"
CLAIMERS = (1, 4)
ROUNDS = 10
WARM = 10  # jobs that each claimer does in each round before the clock starts: a daemon's connections are not new
CLAIMER = Claimer(worker="bench", lease_s=30)
MODEL_URL = "http://a/b.glb"
# pgqueuer takes and ends its jobs one by one, as a worker of a minute a job would. A package for itself: it gets its own Python.
PGQUEUER = """
import asyncio, sys, time
from datetime import timedelta
from uuid import uuid4
import asyncpg
from pgqueuer.adapters.persistence.queries import EntrypointExecutionParameter, Queries

async def work(url):
    queries = Queries.from_asyncpg_connection(await asyncpg.connect(url))
    claimer, entrypoints = uuid4(), {"job": EntrypointExecutionParameter(0)}
    await queries.queue_size()
    async def run(jobs):
        for _ in range(jobs):
            [job] = await queries.dequeue(1, entrypoints, claimer, None, timedelta(seconds=30))
            await queries.log_jobs([(job, "successful", None)])
    return run

async def main(url, each, claimers, warm):
    queries = Queries.from_asyncpg_connection(await asyncpg.connect(url))
    if not each:
        await queries.install()
    elif not claimers:
        await queries.enqueue(["job"] * each, [b"{}"] * each, [0] * each)
    else:
        runs = [await work(url) for _ in range(claimers)]
        await asyncio.gather(*(run(warm) for run in runs))
        began = time.perf_counter()
        await asyncio.gather(*(run(each) for run in runs))
        print(time.perf_counter() - began)

asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
"""

Contestant = Callable[[str], AbstractContextManager[Callable[[int], None]]]
"""Connects to a database, and yields a function that does so many jobs."""


@dataclass(frozen=True)
class Size:
    """The size of each measurement."""

    history: int = 500_000  # finished rows
    settled: int = 4_000  # claimed and settled by each of the two loops
    shops: int = 50
    crowd: int = 5_000  # jobs of the shop that does not let the other in
    pickups: int = 60
    window_s: float = 60.0  # in which statements are counted
    lease_s: float = 30.0
    kills: int = 3
    outages: Sequence[float] = (1.5, 15.0, 45.0)


QUICK = Size(2_000, 100, 10, 200, 10, 10.0, 3.0, 1, (1.5,))


def run(size: Size, on_step: Callable[[str], None], pgqueuer: str | None, *, rates_only: bool) -> Json:
    """Do all measurements. `--json` prints what they give. Raises: ConfigError; TimeoutError if the queue does not do its work."""
    found: Json = {}
    with tempfile.TemporaryDirectory(prefix="worker-bench-") as folder, rig(Path(folder)) as bench:
        on_step("claiming and settling beside a bare loop")
        found["commit_ms"] = commit_ms(bench.database("commits"))
        found["settled_per_s"] = settled_per_s(bench, size, pgqueuer)
        if rates_only:
            return found
        on_step("one shop behind another's crowd")
        found["fair_after_claims"] = fair_after_claims(bench, size)
        on_step("picking up, by LISTEN and by polling")
        found["pickup_ms"] = pickup_ms(bench, size)
        on_step("counting statements")
        found["statements_per_s"] = statements_per_s(bench, size)
        on_step("killing daemons")
        found |= {"retaken_s": retaken_s(bench, size), "lease_s": size.lease_s}
        on_step("freezing a daemon")
        found["frozen_writes"] = frozen_writes(bench, size)
        on_step("taking Postgres away")
        found["outages"] = outages(bench, size)
    return found


def settled_per_s(bench: Rig, size: Size, pgqueuer: str | None) -> Json:
    """Measure claims and settlements over a deep history, with one claimer and with four, in turns: ours as the daemon does them,
    alone and with the version and the publication of a whole job, and a bare loop of two UPDATEs with psycopg. Also the kB of
    WAL that a job costs, from a checkpoint on. pgqueuer, run by that Python, has a database without history: it keeps none in
    its queue.
    """
    url = bench.database("rate")
    # The history as it would be, without the time that triggers would take to write it.
    sql(url, "ALTER DATABASE rate SET session_replication_role = replica")
    sql(
        url,
        "INSERT INTO jobs (shop, product_id, image_urls, status, progress, attempts, model_url, started_at, completed_at)"
        " SELECT 'shop-' || n %% %s, n::text, '{http://a/b}', 'completed', 100, 1, 'http://a/b.glb', now(), now()"
        " FROM generate_series(1, %s) AS n",
        size.shops,
        size.history,
    )
    sql(url, "ALTER DATABASE rate RESET session_replication_role")
    sql(url, BARE)
    sql(url, "CREATE INDEX bare_pending ON bare (created_at) WHERE status = 'pending'")
    _insert_bare(url, size, "done", size.history)
    contestants: dict[str, Callable[[int, int], float]] = {
        "bare": lambda each, claimers: _together(url, _bare, each, claimers),
        "claim_and_end": lambda each, claimers: _together(url, _claim_and_end, each, claimers),
        "whole_job": lambda each, claimers: _together(url, _whole_job, each, claimers),
    }
    if pgqueuer:
        other = bench.postgres.create_database("pgqueuer")
        _pgqueuer(pgqueuer, other)
        contestants["pgqueuer"] = lambda each, claimers: float(_pgqueuer(pgqueuer, other, each, claimers))
    found = {}
    for claimers in CLAIMERS:
        if pgqueuer:
            _pgqueuer(pgqueuer, other, size.settled + ROUNDS * WARM * claimers)
        found[str(claimers)] = _settle_in_turns(url, size, claimers, contestants)
    return found


def commit_ms(url: str) -> float:
    """Measure how long a commit waits for the disk, on which all rates depend: the medians with synchronous_commit less without."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE waits (n int)")
        connection.execute("INSERT INTO waits VALUES (0)")
        medians = {}
        for setting in ("on", "off"):
            connection.execute(f"SET synchronous_commit = {setting}".encode())
            taken = []
            for _ in range(200):
                began = time.perf_counter()
                connection.execute("UPDATE waits SET n = n + 1")
                taken.append(time.perf_counter() - began)
            medians[setting] = statistics.median(taken)
    return round(1000 * (medians["on"] - medians["off"]), 2)


def _pgqueuer(python: str, url: str, jobs: int = 0, claimers: int = 0) -> str:
    """Let pgqueuer install itself, insert jobs, or do so many with each claimer. Returns what it prints: the seconds."""
    command = [python, "-c", PGQUEUER, url, str(jobs), str(claimers), str(WARM)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _settle_in_turns(
    url: str, size: Size, claimers: int, contestants: Mapping[str, Callable[[int, int], float]]
) -> Json:
    each = size.settled // ROUNDS // claimers
    jobs = ROUNDS * each * claimers
    needed = jobs + ROUNDS * WARM * claimers
    sql(
        url,
        "INSERT INTO jobs (shop, product_id, image_urls)"
        " SELECT 'shop-' || n %% %s, 'p' || n, '{http://a/b}' FROM generate_series(1, %s) AS n",
        size.shops,
        2 * needed,
    )
    _insert_bare(url, size, "pending", needed)
    sql(url, "VACUUM ANALYZE")
    sql(url, "CHECKPOINT")
    spent = dict.fromkeys(contestants, 0.0)
    wal = dict.fromkeys(contestants, 0.0)
    for _ in range(ROUNDS):
        # In turns, so that a busy moment does not fall on one of them alone.
        for name, work in contestants.items():
            [(before,)] = sql(url, "SELECT pg_current_wal_lsn()")
            spent[name] += work(each, claimers)
            [(written,)] = sql(url, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), %s)::float", before)
            wal[name] += written
    return {name: round(jobs / seconds, 1) for name, seconds in spent.items()} | {
        "ratio": {name: round(spent["bare"] / seconds, 2) for name, seconds in spent.items()},
        "wal_kb": {name: round(written / needed / 1000, 1) for name, written in wal.items()},
    }


def _insert_bare(url: str, size: Size, status: str, rows: int) -> None:
    sql(
        url,
        "INSERT INTO bare (shop, product_id, image_urls, status)"
        " SELECT 'shop-' || n %% %s, n::text, '{http://a/b}', %s FROM generate_series(1, %s) AS n",
        size.shops,
        status,
        rows,
    )


def _together(url: str, contestant: Contestant, each: int, claimers: int) -> float:
    """Let each claimer do so many jobs, after some for its caches. Returns the seconds from the moment when all are ready."""
    ready = threading.Barrier(claimers + 1)

    def claimer() -> None:
        with contestant(url) as work:
            work(WARM)
            ready.wait()
            work(each)

    threads = [threading.Thread(target=claimer) for _ in range(claimers)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


@contextmanager
def _bare(url: str) -> Iterator[Callable[[int], None]]:
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:

        def work(jobs: int) -> None:
            for _ in range(jobs):
                row = connection.execute(BARE_CLAIM).fetchone()
                assert row
                connection.execute(BARE_FINISH, [MODEL_URL, row[0]])

        yield work


@contextmanager
def _claim_and_end(url: str) -> Iterator[Callable[[int], None]]:
    with _engine(url) as engine:

        def work(jobs: int) -> None:
            job = queue.claim(engine, **CLAIMER)
            for left in reversed(range(jobs)):
                assert job
                if left:
                    _, job = queue.complete_and_claim(engine, job, CLAIMER, model_url=MODEL_URL, report={})
                else:
                    queue.complete(engine, job, model_url=MODEL_URL, report={})

        yield work


@contextmanager
def _whole_job(url: str) -> Iterator[Callable[[int], None]]:
    with _engine(url) as engine:

        def work(jobs: int) -> None:
            job = queue.claim(engine, **CLAIMER)
            for left in reversed(range(jobs)):
                assert job
                digest, key = uuid4().hex, sha256(job.id.bytes).hexdigest()
                files = dict.fromkeys((".cutout.png", ".png", ".webp", ".glb"), key)
                stem = f"{job.shop}/{job.product_id}"
                versions.begin(engine, job, digest=digest, stem=stem, files=files, result_key=key)
                path = queue.complete(engine, job, model_url=MODEL_URL, report={}, digest=digest)
                assert path
                publication = Publication.of(job, path=path, stem=stem, digest=digest, files=files)
                if left:
                    _, job = versions.finish_publication_and_claim(engine, publication, CLAIMER)
                else:
                    versions.finish_publication(engine, publication)

        yield work


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = database.connect(database.parse(url, "DATABASE_URL"), pool_size=1)
    engine.connect().close()
    yield engine
    engine.dispose()


def fair_after_claims(bench: Rig, size: Size) -> int:
    """Return which claim, counted from 1, takes shop B's one job, which came when shop A had filled the queue; four lanes."""
    url = bench.database("fair")
    sql(
        url,
        "INSERT INTO jobs (shop, product_id, image_urls) SELECT 'a', n::text, %s FROM generate_series(1, %s) AS n",
        bench.photos.missing,
        size.crowd,
    )
    daemon = bench.start(url, WORKER_LANES="4")
    until(lambda: sql(url, "SELECT count(*) >= 20 FROM jobs WHERE attempts > 0") == [(True,)], 60, "claims")
    job = _insert(url, bench.photos.missing, shop="b")
    [(committed,)] = sql(url, "SELECT clock_timestamp()")
    until(
        lambda: sql(url, "SELECT attempts FROM jobs WHERE id = %s", job) == [(1,)], LONG_S, "shop B's claim"
    )
    bench.stop(daemon)
    [(before,)] = sql(
        url,
        "SELECT count(*) FROM jobs JOIN (SELECT started_at FROM jobs WHERE id = %s) AS b"
        " ON jobs.started_at > %s AND jobs.started_at < b.started_at",
        job,
        committed,
    )
    return int(before) + 1


def pickup_ms(bench: Rig, size: Size) -> Json:
    """Measure from the INSERT's commit to the lane's line in the log that it has the job."""
    url = bench.database("pickup")
    listening = _pickups(bench, url, size)
    # Nobody listens there, so polling is what is left.
    nowhere = "postgresql://127.0.0.1:9/nowhere"
    polling = _pickups(bench, url, size, WORKER_LISTEN_DATABASE_URL=nowhere, WORKER_POLL_S=str(POLL_S))
    return {
        "listen": {"p50": _percentile(listening, 50), "p95": _percentile(listening, 95)},
        "poll": {"interval": POLL_S, "p95": _percentile(polling, 95)},
    }


def _pickups(bench: Rig, url: str, size: Size, **settings: str) -> list[float]:
    daemon = bench.start(url, **settings)
    committed = {}
    with psycopg.connect(url, autocommit=True) as connection:
        for n in range(size.pickups):
            time.sleep(random.uniform(0.1, 0.1 + POLL_S / 2))
            row = connection.execute(INSERT, ["a", f"{n}", bench.photos.missing]).fetchone()
            assert row
            committed[row[0]] = time.time()
            until(lambda: daemon.events("job_failed", job_id=row[0]), LONG_S, "a job to end")  # noqa: B023 - called at once
    claimed = {job: daemon.first("job_claimed", 1, job_id=job) for job in committed}
    bench.stop(daemon)
    return [1000 * (claimed[job] - committed[job]) for job in committed]


def _percentile(values: list[float], percent: int) -> float:
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 2)


def statements_per_s(bench: Rig, size: Size) -> Json:
    """Count what one daemon sends, from the server's own log, while it is idle and while a job runs."""
    server = bench.postgres.url()
    for setting in ("log_line_prefix = '%a '", "log_statement = 'all'"):
        sql(server, f"ALTER SYSTEM SET {setting}")
    sql(server, "SELECT pg_reload_conf()")
    url = bench.database("statements")
    daemon = bench.start(url)
    counted = {"idle": _statements(bench, size)}
    _hold(bench, url, [daemon], photos=16)
    counted["busy"] = _statements(bench, size)
    bench.stop(daemon)
    sql(server, "ALTER SYSTEM RESET log_statement")
    sql(server, "SELECT pg_reload_conf()")
    return counted


def _statements(bench: Rig, size: Size) -> float:
    log = bench.postgres.data / "log"
    time.sleep(5)  # what the start, or the claim, still sends
    before = log.stat().st_size
    time.sleep(size.window_s)
    lines = log.read_bytes()[before:].decode(errors="replace").splitlines()
    ours = [line for line in lines if line.startswith(f"{database.CONNECT_ARGS['application_name']} LOG:  ")]
    sent = [line for line in ours if "LOG:  statement: " in line or "LOG:  execute " in line]
    return round(len(sent) / size.window_s, 3)


def retaken_s(bench: Rig, size: Size) -> list[float]:
    """Measure from `kill -9` of a daemon in the middle of a job until another one has it."""
    url = bench.database("killed")
    lease = {"WORKER_LEASE_S": str(size.lease_s)}
    pair = [bench.start(url, **lease), bench.start(url, **lease)]
    taken = []
    for _ in range(size.kills):
        job, victim, other = _hold(bench, url, pair)
        victim.process.kill()
        killed = time.time()
        victim.process.wait()
        taken.append(round(other.first("job_claimed", LONG_S, job_id=job) - killed, 2))
        bench.photos.quick.set()
        pair = [other, bench.start(url, **lease)]
        _completed(url, job)
    bench.stop(*pair)
    return taken


def frozen_writes(bench: Rig, size: Size) -> int:
    """Count the rows and files that a frozen daemon changes when it wakes, after another one has done its job."""
    url = bench.database("frozen")
    lease = {"WORKER_LEASE_S": str(size.lease_s)}
    pair = [bench.start(url, **lease), bench.start(url, **lease)]
    job, frozen, other = _hold(bench, url, pair)
    for pid in frozen.processes():
        os.kill(pid, signal.SIGSTOP)
    other.first("job_claimed", LONG_S, job_id=job)
    bench.photos.quick.set()
    other.first("job_completed", LONG_S, job_id=job)
    until(
        lambda: sql(url, "SELECT count(*) FROM worker.outbox WHERE delivered_at IS NULL") == [(0,)],
        60,
        "webhooks",
    )
    before = _state(bench, url)
    for pid in frozen.processes():
        os.kill(pid, signal.SIGCONT)
    frozen.first("lease_lost", LONG_S)
    time.sleep(size.lease_s / 3 + 2)  # whatever it might still do
    after = _state(bench, url)
    bench.stop(*pair)
    return sum(before.get(key) != after.get(key) for key in before | after)


def _state(bench: Rig, url: str) -> dict[str, str]:
    """Return every row of the queue and every file of the store, as text."""
    rows = {
        f"{table} {key}": row
        for table, key_of in (("public.jobs", "id"), ("worker.outbox", "seq"))
        for key, row in sql(url, f"SELECT {key_of}::text, t::text FROM {table} AS t")
    }
    files = (file for file in bench.files.rglob("*") if file.is_file())
    return rows | {
        str(file): f"{file.stat().st_mtime_ns} {sha256(file.read_bytes()).hexdigest()}" for file in files
    }


def outages(bench: Rig, size: Size) -> list[Json]:
    """Stop Postgres under a daemon with a job, which then ends, and under an idle one."""
    url = bench.database("outages")
    pair = [bench.start(url), bench.start(url)]
    found = [_outage(bench, url, pair, away_s) for away_s in size.outages]
    bench.stop(*pair)
    return found


def _outage(bench: Rig, url: str, pair: list[Daemon], away_s: float) -> Json:
    job, _, _ = _hold(bench, url, pair)
    bench.postgres.stop()
    bench.photos.quick.set()
    time.sleep(away_s)
    start_server(bench.folder / "postgres")
    back = time.time()
    following = _insert(url, bench.photos.missing)
    taker = until(
        lambda: [daemon for daemon in pair if daemon.events("job_claimed", job_id=following)],
        LONG_S,
        "the next claim",
    )[0]
    until(lambda: _row(url, job)["completed_at"], LONG_S, "the result")
    row = _row(url, job)
    return {
        "away_s": away_s,
        "lost": int((row["status"], row["attempts"]) != ("completed", 1)),
        "exits": sum(daemon.process.poll() is not None for daemon in pair),
        "next_claim_s": round(taker.first("job_claimed", 1, job_id=following) - back, 2),
    }


def _hold(bench: Rig, url: str, daemons: list[Daemon], photos: int = 1) -> tuple[str, Daemon, Daemon]:
    """Start a job that runs until the photos come quickly. Return its id, the daemon that has it and one that is idle."""
    bench.photos.quick.clear()
    job = _insert(url, bench.photos.slow(photos))
    owners = until(lambda: [d for d in daemons if d.events("job_progress", job_id=job)], LONG_S, "a claim")
    return job, owners[0], next((daemon for daemon in daemons if daemon not in owners), owners[0])


def _insert(url: str, photos: list[str], shop: str = "a") -> str:
    [(job,)] = sql(url, INSERT, shop, f"{time.monotonic_ns()}", photos)
    return str(job)


def _completed(url: str, job: str) -> None:
    until(lambda: _row(url, job)["status"] == "completed", LONG_S, "the job to be completed")


def _row(url: str, job: str) -> dict[str, Any]:
    [(row,)] = sql(url, "SELECT to_jsonb(jobs) FROM jobs WHERE id = %s", job)
    return dict(row)


def as_table(found: Mapping[str, Any]) -> Table:
    """Return what a person reads."""
    table = Table("", "", "beside it", box=None, header_style="dim")
    table.add_row("a commit waits for the disk", f"{found['commit_ms']:.2f} ms")
    for claimers, rate in found["settled_per_s"].items():
        for name, what in (
            ("claim_and_end", "claimed and ended"),
            ("whole_job", "with version and publication"),
        ):
            table.add_row(
                f"{what}, claimers: {claimers}",
                f"{rate[name]:.0f} a second, {rate['wal_kb'][name]:.1f} kB of WAL a job",
                f"a bare loop {rate['bare']:.0f}, {rate['wal_kb']['bare']:.1f} kB; {rate['ratio'][name]:.2f} of it"
                + (f"; pgqueuer {rate['pgqueuer']:.0f}" if "pgqueuer" in rate else ""),
            )
    if "fair_after_claims" not in found:
        return table
    listen, poll = found["pickup_ms"]["listen"], found["pickup_ms"]["poll"]
    statements = found["statements_per_s"]
    table.add_row("picked up, LISTEN", f"p50 {listen['p50']:.1f} ms, p95 {listen['p95']:.1f} ms", "")
    table.add_row("picked up, polling", f"p95 {poll['p95']:.0f} ms", f"interval {poll['interval']:g} s")
    table.add_row("statements, idle", f"{statements['idle']:.2f} a second", f"busy {statements['busy']:.2f}")
    table.add_row(
        "one job behind another shop's crowd", f"starts with claim {found['fair_after_claims']}", "4 lanes"
    )
    table.add_row(
        "kill -9 → running elsewhere",
        ", ".join(f"{seconds:.1f} s" for seconds in found["retaken_s"]),
        f"lease {found['lease_s']:g} s",
    )
    table.add_row("written by a daemon that was frozen", f"{found['frozen_writes']} rows and files", "")
    for outage in found["outages"]:
        table.add_row(
            f"Postgres away for {outage['away_s']:g} s",
            f"next claim after {outage['next_claim_s']:.1f} s",
            f"{outage['lost']} results lost, {outage['exits']} daemons ended",
        )
    return table


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description="Measure the queue, and what it does when daemons are killed or frozen or Postgres is away. Takes ten minutes."
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a little of everything, to see that it works; no figures to quote",
    )
    parser.add_argument("--rates", action="store_true", help="only claims and settlements")
    parser.add_argument(
        "--pgqueuer", metavar="PYTHON", help="a Python with pgqueuer and asyncpg, to compare with"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args()
    interrupt_on_signals()
    console = Console(stderr=True)
    try:
        ensure_weights(console, "relief")
        with console.status("") as status:
            found = run(
                QUICK if chosen.quick else Size(),
                lambda step: status.update(f"{step} …"),
                chosen.pgqueuer,
                rates_only=chosen.rates,
            )
    except ConfigError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    if chosen.json:
        print(json.dumps(found, indent=2))
    else:
        Console().print(as_table(found))


if __name__ == "__main__":
    main()
