"""Which host takes which job: pools, engines, the turns of their lines, and paused hosts."""

import dataclasses
import time
from collections import Counter
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy.engine import Engine

from worker.jobs import hosts, queue
from worker.jobs.hosts import Host
from worker.jobs.queue import Job

GPU = {"worker": "gpu", "pools": ("default", "large"), "runs": "triposr"}
BOX = {"worker": "box", "pools": ("previews",), "runs": "relief"}


def enqueue(engine: Engine, product: str, **more: Any) -> Any:
    return queue.enqueue(engine, **{"shop": "a", "product_id": product, "image_urls": ["http://a/b"]} | more)


def claim(engine: Engine, host: dict[str, Any]) -> Job | None:
    return queue.claim(engine, lease_s=30, **host)


def register(engine: Engine, host: dict[str, Any]) -> Host:
    entry = Host(
        name=host["worker"],
        version="1",
        engine=host["runs"],
        pools=host["pools"],
        lanes=1,
        devices=["cpu"],
        memory_mb=1,
    )
    hosts.check_in(engine, entry)
    return entry


@pytest.mark.parametrize(
    ("pool", "job_engine", "taker"),
    [
        ("default", None, "gpu"),
        ("default", "triposr", "gpu"),
        ("default", "relief", None),
        ("large", None, "gpu"),
        ("previews", None, "box"),
        ("previews", "relief", "box"),
        ("previews", "triposr", None),
        ("Default", None, None),
    ],
)
def test_a_host_takes_the_jobs_of_its_pools_that_its_engine_may_do(
    engine: Engine, pool: str, job_engine: str | None, taker: str | None
) -> None:
    entries = [register(engine, host) for host in (GPU, BOX)]
    job = enqueue(engine, "1", pool=pool, job_engine=job_engine)
    due = {entry.name for entry in entries if hosts.check_in(engine, entry).due}
    assert due == {taker} - {None}, "nobody else is woken for it"
    unserved = [(pool, job_engine, 1)] if taker is None else []
    assert [tuple(row.values()) for row in queue.unserved(engine)] == unserved
    assert queue.health(engine)["unserved"] == len(unserved)
    assert queue.gauges(engine, "c")["unserved"] == len(unserved)
    found = {host["worker"]: claim(engine, host) for host in (GPU, BOX)}
    assert {name: each.id for name, each in found.items() if each} == ({taker: job} if taker else {})


def test_the_highest_priority_of_all_its_lines_comes_first(engine: Engine) -> None:
    low = enqueue(engine, "1", pool="large")
    high = enqueue(engine, "2", priority=5, job_engine="triposr")
    middle = enqueue(engine, "3", priority=3)
    enqueue(engine, "4", priority=9, job_engine="relief")
    taken = [claim(engine, GPU) for _ in range(4)]
    assert [job and job.id for job in taken] == [high, middle, low, None]


def test_a_crowd_in_one_line_keeps_no_other_line_waiting(engine: Engine) -> None:
    for n in range(20):
        enqueue(engine, f"{n}", pool="large")
        enqueue(engine, f"p{n}", job_engine="triposr", shop="b")
    first = enqueue(engine, "one")
    taken = [job.id for _ in range(3) if (job := claim(engine, GPU))]
    assert first in taken


def test_a_host_that_takes_a_part_of_the_lines_does_not_turn_the_shops_of_the_others_back(
    engine: Engine,
) -> None:
    """Were the shop of the last claim of all the turn of all, the box's claims of shop z would have the GPU begin at a."""
    box = {"worker": "box", "pools": ("default",), "runs": "relief"}
    for shop in "abc":
        for n in range(6):
            enqueue(engine, f"{n}", shop=shop, job_engine="triposr")
    for n in range(9):
        enqueue(engine, f"{n}", shop="z", job_engine="relief")
    shops: Counter[str] = Counter()
    for _ in range(9):
        for host in (GPU, box):
            job = claim(engine, host)
            assert job
            shops[job.shop] += 1
    assert shops == {"a": 3, "b": 3, "c": 3, "z": 9}


def test_a_waiting_job_may_change_its_pool_and_engine_and_a_running_one_may_not(
    engine: Engine, sql: psycopg.Connection
) -> None:
    job = enqueue(engine, "1")
    sql.execute("UPDATE jobs SET pool = 'large', engine = 'triposr', quality = 'fast'")
    taken = claim(engine, GPU)
    assert taken
    assert (taken.id, taken.quality) == (job, "fast")
    notices: list[str] = []
    sql.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    sql.execute("UPDATE jobs SET pool = 'x', engine = NULL, quality = 'quality', priority = 7")
    assert notices == [
        f"job {job}: engine, pool, quality not changed, because only the worker that holds the lease may do so"
    ]
    assert sql.execute("SELECT pool, engine, quality, priority FROM jobs").fetchone() == (
        "large",
        "triposr",
        "fast",
        7,
    )
    queue.complete(engine, taken, model_url="x", report={})
    sql.execute("UPDATE jobs SET engine = NULL")
    assert queue.retry(engine, job)
    assert sql.execute("SELECT engine FROM jobs").fetchone() == (None,)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("pool", value) for value in (" ", "x" * 101, "a,b", "a ", "\ta", "a\nb")),
        *(("engine", value) for value in ("", "x" * 101, " a", "a\x85b")),
    ],
)
def test_a_pool_and_an_engine_have_a_name(sql: psycopg.Connection, column: str, value: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=f"{column}_is_a_name_of_1_to_100_characters"):
        sql.execute(
            f"INSERT INTO jobs (shop, product_id, image_urls, {column}) VALUES ('a', '1', '{{http://a/b}}', %s)".encode(),
            [value],
        )


def test_a_paused_host_claims_nothing_and_finishes_what_it_has(
    engine: Engine, sql: psycopg.Connection
) -> None:
    entry = register(engine, GPU)
    enqueue(engine, "1")
    job = claim(engine, GPU)
    assert job
    enqueue(engine, "2")
    assert hosts.pause(engine, "gpu")
    assert claim(engine, GPU) is None
    assert not queue.renew(engine, job, lease_s=30)
    queue.complete(engine, job, model_url="x", report={})
    assert queue.health(engine)["unserved"] == 1
    assert hosts.check_in(engine, entry).paused

    hosts.check_out(engine, entry)
    again = dataclasses.replace(entry, instance=uuid4())
    assert not hosts.check_in(engine, again).shared, "a daemon that stopped in order is no other daemon"
    assert hosts.check_in(engine, again).paused, "a pause survives a restart"
    assert claim(engine, GPU) is None

    sql.execute("LISTEN worker_jobs")
    assert hosts.resume(engine, "gpu")
    assert [notice.channel for notice in sql.notifies(timeout=5, stop_after=1)] == ["worker_jobs"]
    assert not hosts.check_in(engine, again).paused
    assert claim(engine, GPU)


def test_a_paused_host_that_stops_is_shown_until_it_is_resumed(engine: Engine) -> None:
    entry = register(engine, GPU)
    hosts.pause(engine, "gpu")
    hosts.check_out(engine, entry)
    (host,) = hosts.list_hosts(engine)
    assert (host["state"], host["up"], host["stopped_at"] is not None) == ("paused", False, True)
    figures = queue.gauges(engine, "c")
    assert [figures[f"hosts_{state}"] for state in ("live", "paused", "gone")] == [0, 1, 0]
    assert hosts.resume(engine, "gpu")
    assert hosts.list_hosts(engine) == []


def test_nobody_pauses_a_host_that_is_not_there(engine: Engine) -> None:
    assert not hosts.pause(engine, "gpu")
    assert not hosts.resume(engine, "gpu")


def test_a_host_is_gone_after_three_beats_and_forgotten_after_a_day(
    engine: Engine, sql: psycopg.Connection
) -> None:
    entry = register(engine, GPU)
    register(engine, BOX)
    enqueue(engine, "1")
    assert {host["name"]: host["state"] for host in hosts.list_hosts(engine)} == {
        "box": "live",
        "gpu": "live",
    }
    sql.execute("UPDATE worker.hosts SET seen_at = now() - interval '31 s' WHERE name = 'gpu'")
    assert {host["name"]: host["state"] for host in hosts.list_hosts(engine)} == {
        "box": "live",
        "gpu": "gone",
    }
    assert queue.health(engine)["unserved"] == 1
    figures = queue.gauges(engine, "c")
    assert [figures[f"hosts_{state}"] for state in ("live", "paused", "gone")] == [1, 0, 1]
    hosts.check_in(engine, entry)
    assert queue.health(engine)["unserved"] == 0

    hosts.pause(engine, "box")
    sql.execute("UPDATE worker.hosts SET seen_at = now() - interval '25 h'")
    assert hosts.forget(engine) == 1
    assert [host["name"] for host in hosts.list_hosts(engine)] == ["box"], "a pause is not forgotten"


def test_an_entry_is_written_every_few_seconds_and_not_at_every_look(
    engine: Engine, sql: psycopg.Connection
) -> None:
    entry = register(engine, GPU)
    [(first,)] = sql.execute("SELECT xmin FROM worker.hosts").fetchall()
    for _ in range(3):
        hosts.check_in(engine, entry)
    assert sql.execute("SELECT xmin FROM worker.hosts").fetchall() == [(first,)]
    sql.execute(
        "UPDATE worker.hosts SET seen_at = now() - interval '5 s', started_at = now() - interval '1 h'"
    )
    hosts.check_in(engine, entry)
    found = sql.execute(
        "SELECT seen_at > now() - interval '1 s', started_at < now() - interval '59 min' FROM worker.hosts"
    )
    assert found.fetchone() == (True, True)


def test_two_daemons_of_one_name_are_told(engine: Engine) -> None:
    first = register(engine, GPU)
    assert not hosts.check_in(engine, first).shared
    second = register(engine, GPU)
    assert hosts.check_in(engine, first).shared
    assert hosts.check_in(engine, second).shared
    assert not hosts.check_in(engine, second).shared


def test_a_host_whose_entry_another_session_has_locked_looks_for_jobs_all_the_same(
    engine: Engine, database_url: str
) -> None:
    entry = register(engine, GPU)
    enqueue(engine, "1")
    with psycopg.connect(database_url) as other:
        other.execute("UPDATE worker.hosts SET seen_at = now() - interval '1 h'")
        other.commit()
        other.execute("SELECT FROM worker.hosts FOR UPDATE")
        began = time.monotonic()
        assert hosts.check_in(engine, entry).due
        assert time.monotonic() - began < 3
