"""Three unlike daemons on one database: each takes what it can do, one is killed, and what nobody takes is named."""

import psycopg
import pytest
from conftest import StartDaemon, until
from sqlalchemy.engine import Engine

from worker.jobs import hosts, queue
from worker.local.server import DevServer

POOLS = {"one": {"a"}, "two": {"b"}, "three": {"a", "c"}}


@pytest.mark.parametrize("rows", [30, pytest.param(300, marks=pytest.mark.long)])
def test_three_unlike_daemons_share_a_queue_and_one_is_killed(
    engine: Engine, sql: psycopg.Connection, start_daemon: StartDaemon, site: DevServer, rows: int
) -> None:
    daemons = {
        name: start_daemon(ready=False, WORKER_NAME=name, WORKER_POOLS=", ".join(pools), WORKER_LANES="1")
        for name, pools in POOLS.items()
    }
    for daemon in daemons.values():
        daemon.wait_for("ready")
    # Their photo is missing, so that a job ends at once and for good.
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, pool, engine)"
        " SELECT 'shop-' || n %% 4, n::text, ARRAY[%s], (ARRAY['a', 'b', 'c'])[1 + n %% 3],"
        " (ARRAY[NULL, 'relief', 'triposr'])[1 + n / 3 %% 3] FROM generate_series(1, %s) AS n",
        [f"{site.url}/none.png", rows],
    )
    until(
        lambda: (
            sql.execute("SELECT count(*) > 1 FROM worker.attempts WHERE worker = 'two'").fetchone() == (True,)
        )
    )
    daemons["two"].process.kill()
    daemons["two"].process.wait()
    sql.execute("UPDATE worker.hosts SET seen_at = now() - interval '31 s' WHERE name = 'two'")
    # The rest of pool a and c ends, and none of it by a host that must not take it.
    until(
        lambda: (
            sql.execute(
                "SELECT count(*) FROM jobs WHERE pool <> 'b' AND coalesce(engine, '') <> 'triposr' AND completed_at IS NULL"
            ).fetchone()
            == (0,)
        ),
        120,
    )
    taken = sql.execute(
        "SELECT attempts.worker, pool, engine FROM worker.attempts JOIN jobs ON jobs.id = job_id"
    ).fetchall()
    assert {worker for worker, _, _ in taken} == set(POOLS)
    assert all(pool in POOLS[worker] and engine in {None, "relief"} for worker, pool, engine in taken)

    unserved = {(row["pool"], row["engine"]) for row in queue.unserved(engine)}
    assert {(pool, "triposr") for pool in "abc"} <= unserved
    assert unserved <= {*((pool, "triposr") for pool in "abc"), ("b", None), ("b", "relief")}
    states = {host["name"]: host["state"] for host in hosts.list_hosts(engine)}
    assert states == {"one": "live", "three": "live", "two": "gone"}

    # A paused host claims nothing, drains and leaves; its pause stays.
    assert hosts.pause(engine, "three")
    paused = queue.enqueue(engine, shop="x", product_id="x", image_urls=[f"{site.url}/none.png"], pool="c")
    other = queue.enqueue(engine, shop="x", product_id="y", image_urls=[f"{site.url}/none.png"], pool="a")
    until(lambda: queue.get_jobs(engine, [other])[0]["completed_at"])
    assert queue.get_jobs(engine, [paused])[0]["attempts"] == 0
    assert daemons["one"].stop() == daemons["three"].stop() == 0
    assert sql.execute("SELECT name, paused_at IS NOT NULL FROM worker.hosts ORDER BY name").fetchall() == [
        ("three", True),
        ("two", False),
    ]
