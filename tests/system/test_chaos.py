"""A day's worth of chaos in half a minute for each seed; what must hold is checked from outside.

All seeds: `pytest -m long tests/system/test_chaos.py`. Some, or others: with CHAOS_SEEDS=7,123 before it.
"""

import faulthandler
import json
import os
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import proxy
import psycopg
import pytest
from chaos import World
from conftest import NUMBERS, StartDaemon, files_below, until

from worker import database
from worker.database import migrate
from worker.local.postgres import Postgres, remove_server, start_server

SEEDS = [int(seed) for seed in os.environ.get("CHAOS_SEEDS", "1,2,3,4,5,6,7,8,9,10").split(",")]
SECONDS = float(os.environ.get("CHAOS_SECONDS", "30"))
CALM_S = 90
IN_THE_WAY = (
    "_DIR cannot be used: [Errno 17] File exists"  # 78, for who starts while a file lies in a folder's place
)
UNDERSTOOD = (
    "SIGTERM: ",
    "The daemon that started this child is gone.",
    IN_THE_WAY,
)  # lines that are no JSON
TERMINAL = {"completed", "failed", "cancelled"}
# Events of the log that tell of a defect of ours.
DEFECTS = {
    "lane_error",
    "child_error",
    "thread_ended",
    "upkeep_failed",
    "webhook_error",
    "webhooks_error",
    "result_refused",
}


@pytest.fixture(scope="module")
def server(memory: Path) -> Iterator[Postgres]:
    folder = memory / "chaos"
    server = start_server(folder)
    yield server
    start_server(folder)
    server.stop("immediate")
    remove_server(folder)


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}")
def test_after_the_chaos_every_job_has_ended_once_and_nothing_is_left(
    seed: int, server: Postgres, tmp_path: Path, mug: bytes, u2netp: Path
) -> None:
    name = f"chaos_{next(NUMBERS)}"
    migrate.upgrade(database.parse(server.create_database(name), "DATABASE_URL"))
    with proxy.serve(server.port) as link:
        world = World(seed, tmp_path, server, name, link, mug, u2netp)
        try:
            for place in range(len(world.daemons)):
                world.start(place)
            for daemon in world.living():
                daemon.wait_for("ready")
            world.disturb(SECONDS)
            world.calm(CALM_S)
            problems = [problem for check in CHECKS for problem in check(world)]
        except BaseException as error:
            error.add_note("\n".join(world.story))
            raise
        finally:
            world.close()
        assert not problems, "\n".join([f"seed {seed}", *world.story, *problems])


def check_rows(world: World) -> Iterator[str]:
    rows = world.ask("SELECT id, status::text, error_code, attempts, product_id FROM jobs")
    if len(rows) < SECONDS:
        yield f"there was little to do: {len(rows)} jobs"
    for job, status, code, attempts, product in rows:
        if status not in TERMINAL:
            yield f"{job} is {status}"
        elif job in world.spared and status != "completed":
            yield f"{job} of {product} is {status} ({code}) after {attempts} attempts"


def check_attempts(world: World) -> Iterator[str]:
    attempts = defaultdict[Any, list[tuple[datetime, datetime | None, str]]](list)
    for job, began, ended, worker in world.ask(
        "SELECT job_id, started_at, ended_at, worker FROM worker.attempts ORDER BY started_at"
    ):
        attempts[job].append((began, ended, worker))
    for job, made in attempts.items():
        if any(ended is None for _, ended, _ in made):
            yield f"{job}: an attempt has no end"
        for (_, ended, one), (began, _, other) in pairwise(made):
            if ended and began < ended:
                yield f"{job}: {one} worked until {ended} and {other} from {began}"


def check_events(world: World) -> Iterator[str]:
    received = defaultdict[str, list[tuple[int, str]]](list)
    seen = set[str]()
    for identity, body in world.web.accepted:
        if identity not in seen:  # a delivery whose answer was lost comes again
            seen.add(identity)
            received[body["jobId"]].append((body["seq"], body["status"]))
    for job, status in world.ask("SELECT id, status::text FROM jobs"):
        events = received[str(job)]
        numbers = [number for number, _ in events]
        if numbers != sorted(set(numbers)):
            yield f"{job}: seq does not rise: {events}"
        if not events or events[-1][1] != status:
            yield f"{job} is {status}, and the last event is not: {events}"
        if any(one in TERMINAL and other in TERMINAL for (_, one), (_, other) in pairwise(events)):
            yield f"{job}: two ends in a row: {events}"
    dead = world.ask("SELECT count(*) FROM worker.outbox WHERE dead_at IS NOT NULL")
    if dead != [(0,)]:
        yield f"dead events: {dead}"


def check_files(world: World) -> Iterator[str]:
    known = set[Path]()
    for stem, digest, hashes in world.ask("SELECT stem, digest, files FROM worker.versions"):
        known |= {world.store / f"{stem}/v.{digest}{ending}" for ending in hashes}
    for (url,) in world.ask("SELECT model_url FROM jobs WHERE status = 'completed'"):
        file = Path(unquote(urlsplit(url).path))
        content = file.read_bytes() if file.exists() else b""
        if file not in known:
            yield f"{file} is no version's"
        elif content[:4] != b"glTF" or struct.unpack("<I", content[8:12])[0] != len(content):
            yield f"{file} is not whole"
    for stem, written, hashes in world.ask(
        "SELECT one.stem, written, files FROM worker.published AS one JOIN worker.versions USING (path, digest)"
    ):
        published = {world.store / f"{stem}{ending}": expected for ending, expected in hashes.items()}
        known |= set(published)
        for file, expected in published.items():
            if not written or sha256(file.read_bytes()).hexdigest() != expected:
                yield f"{file} is not that of the published version {written}"
    yield from (f"{file} belongs to nothing" for file in files_below(world.store) if file not in known)


def check_leftovers(world: World) -> Iterator[str]:
    own = {daemon.process.pid for daemon in world.living()}
    for path in world.temp.rglob("*"):
        known = (
            path.name == ".lock"
            or any(part.startswith(".check-") for part in path.parts)  # the daemon's check of the folder
            or (path.parent == world.temp and int(path.name.partition("-")[0]) in own)
        )
        if not known:
            yield f"{path} was left behind"
    try:
        until(lambda: len(world.processes()) == 2 * len(own), 20)
    except AssertionError:
        yield f"{len(world.processes())} processes live, of {len(own)} daemons"
    for daemon in world.all_daemons:
        status, pid = daemon.process.poll(), daemon.process.pid
        wrong_place = status == 78 and IN_THE_WAY in daemon.log.read_text()
        if status is not None and pid not in world.ended_by_us and not wrong_place:
            yield f"{daemon.log.name} ended by itself with {status}"


def check_logs(world: World) -> Iterator[str]:
    for daemon in world.all_daemons:
        for line in daemon.log.read_text().splitlines():
            if not line.startswith("{"):
                if not any(words in line for words in UNDERSTOOD):
                    yield f"{daemon.log.name}: {line}"
                continue
            event = json.loads(line)
            if event["event"] in DEFECTS or "exception" in event or "Traceback" in line:
                yield f"{daemon.log.name}: {event.get('exception', line)}"


CHECKS = (check_rows, check_attempts, check_events, check_files, check_leftovers, check_logs)


@pytest.mark.long
def test_a_thousand_jobs_leave_the_memory_of_daemon_and_child_as_it_was(
    start_daemon: StartDaemon, sql: psycopg.Connection, photos: Callable[[str, bytes], str], mug: bytes
) -> None:
    faulthandler.cancel_dump_traceback_later()  # it takes more than five minutes, and its waits have limits of their own
    daemon = start_daemon()
    url = photos("mug.png", mug)

    def resident_mb() -> list[float]:
        """Of the daemon and its child, after so many more jobs."""
        pids = daemon.process.pid, daemon.events("child_ready")[-1]["pid"]
        status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
        return [int(text.partition("VmRSS:")[2].split()[0]) / 1024 for text in status]

    def after(jobs: int) -> list[float]:
        sql.execute(
            "INSERT INTO jobs (shop, product_id, image_urls, quality)"
            " SELECT 'shop-' || n %% 7, gen_random_uuid(), ARRAY[%s], 'fast' FROM generate_series(1, %s) n",
            [url, jobs],
        )
        left = "SELECT count(*) FROM jobs WHERE status <> 'completed'"
        until(lambda: sql.execute(left).fetchone() == (0,), 600, "the jobs to be done")
        return resident_mb()

    warm = after(300)
    seen = [warm, after(350), after(350)]
    assert len(daemon.events("child_ready")) == 1
    for early, late in zip(warm, seen[-1], strict=True):
        assert late < early + 12, f"MB of daemon and child after 300, 650 and 1000 jobs: {seen}"
