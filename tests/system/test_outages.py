"""Postgres goes away in every way and comes back: nobody exits, what was finished is written, claims go on.

Two daemons live through all of it: one has a job that ends during the outage, the other is idle.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gates
import proxy
import psycopg
import pytest
from conftest import NUMBERS, Daemon, files_below, launch, until

from worker import database
from worker.database import migrate
from worker.local.postgres import remove_server, start_server

AWAY_S = 2
RESUMED_S = 60  # what a slow machine may need; `worker bench queue` tells how long it takes


class Site:
    """A Postgres of its own, a proxy before it, and a daemon on each."""

    def __init__(self, folder: Path, gate: gates.Gates, weights: Path) -> None:
        self.folder = folder
        self.gates = gate
        self.server = start_server(folder / "postgres")
        self.url = self.server.url()
        migrate.upgrade(database.parse(self.url, "DATABASE_URL"))
        self.variables = gate.environment | {
            "DATABASE_URL": self.url,
            "WORKER_WEIGHTS_DIR": str(weights),
            "PYTHON_ROGUE": str(folder),
        }
        self.daemons: list[Daemon] = []

    def launch(self, **variables: str) -> Daemon:
        number = len(self.daemons)
        daemon = launch(self.folder, number, self.variables | {"WORKER_NAME": f"d{number}"} | variables)
        self.daemons.append(daemon)
        return daemon

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def enqueue(self) -> Any:
        number = next(NUMBERS)
        return self.sql(
            "INSERT INTO jobs (shop, product_id, image_urls, quality) VALUES ('a', %s, %s, 'fast') RETURNING id",
            str(number),
            [f"{self.gates.url}/{number}.png"],
        )[0][0]

    def row(self, job: Any) -> tuple[Any, ...]:
        return self.sql("SELECT status::text, attempts, claimed_by FROM jobs WHERE id = %s", job)[0]

    def product(self, job: Any) -> str:
        return str(self.sql("SELECT product_id FROM jobs WHERE id = %s", job)[0][0])

    def postmaster(self) -> int:
        return int((self.server.data / "postmaster.pid").read_text().split()[0])

    def signal_all(self, number: signal.Signals) -> None:
        """To Postgres with all its processes."""
        postmaster = self.postmaster()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == postmaster:
                os.kill(int(stat.parent.name), number)
        os.kill(postmaster, number)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, u2netp: Path, mug: bytes) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("outages")
    with gates.serve(mug) as gate:
        site = Site(folder, gate, u2netp)
        try:
            for _ in range(2):
                site.launch()
            for daemon in site.daemons:
                daemon.wait_for("ready", 60)
            yield site
        finally:
            for daemon in site.daemons:
                daemon.process.kill()
                daemon.process.wait()
            site.server.stop("immediate")
            remove_server(folder / "postgres")


Disturbance = Callable[[Site], Any]


@contextmanager
def stopped(site: Site, mode: str) -> Iterator[None]:
    site.server.stop(mode)
    try:
        yield
    finally:
        start_server(site.folder / "postgres")


@contextmanager
def frozen(site: Site) -> Iterator[None]:
    site.signal_all(signal.SIGSTOP)
    try:
        yield
    finally:
        site.signal_all(signal.SIGCONT)


@contextmanager
def failed_over(site: Site) -> Iterator[None]:
    """What a connection sees that is left on a server which is the standby now."""
    site.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    site.sql("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        site.sql("ALTER SYSTEM RESET default_transaction_read_only")
        site.sql("SELECT pg_reload_conf()")
        until(lambda: site.sql("SHOW default_transaction_read_only") == [("off",)])


@contextmanager
def cut_off(site: Site) -> Iterator[None]:
    """Every connection is ended by the server, which goes on."""
    terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'shop-model-worker'"
    site.sql(terminate)
    yield


OUTAGES: dict[str, Disturbance] = {
    "restarted": lambda site: stopped(site, "fast"),
    "crashed": lambda site: stopped(site, "immediate"),
    "frozen": frozen,
    "read-only": failed_over,
    "connections ended": cut_off,
}


@pytest.mark.parametrize(
    ("outage", "away_s"),
    [
        *((outage, AWAY_S) for outage in OUTAGES),
        *(
            pytest.param(outage, s, marks=pytest.mark.long)
            for outage in ("restarted", "frozen")
            for s in (15, 45)
        ),
    ],
)
def test_an_outage_loses_no_result_and_ends_no_daemon(site: Site, outage: str, away_s: float) -> None:
    said = [len(daemon.events()) for daemon in site.daemons]
    site.gates.photos.clear()
    job = site.enqueue()
    until(lambda: site.row(job)[2])
    busy = next(daemon for n, daemon in enumerate(site.daemons) if site.row(job)[2] == f"d{n}")
    with OUTAGES[outage](site):
        began = time.monotonic()
        site.gates.photos.set()
        until(
            lambda: [file for file in files_below(busy.temp) if file.name == "poster.png"],
            what="the model to be made",
        )
        time.sleep(max(0, away_s - (time.monotonic() - began)))
    following = site.enqueue()
    until(lambda: site.row(following)[1] == 1, RESUMED_S, "claims to go on")
    until(lambda: site.row(job)[0] == "completed", RESUMED_S, f"the result to be written: {site.row(job)}")
    assert site.row(job)[1] == 1, "done once"
    until(lambda: site.row(following)[0] == "completed")
    assert site.row(following)[1] == 1
    assert [daemon.process.poll() for daemon in site.daemons] == [None, None]
    for daemon, before in zip(site.daemons, said, strict=True):
        lines = Counter(
            line["event"]
            for line in daemon.events()[before:]
            if line["level"] in {"warning", "error"} and line.get("job_id") is None
        )
        assert all(count == 1 for count in lines.values()), f"one line a change of state: {lines}"


@pytest.mark.long
@pytest.mark.parametrize("outage", ["crashed", "frozen"])
def test_an_outage_costs_no_lane_of_several_its_result(site: Site, outage: str) -> None:
    near = list(site.daemons)
    daemon = site.launch(WORKER_LANES="3", WORKER_NAME="lanes")
    try:
        until(lambda: len(daemon.events("child_ready")) == 3, 120, "all lanes")
        site.gates.photos.clear()
        with stopped_processes(near):
            jobs = [site.enqueue() for _ in range(3)]
            until(lambda: all(site.row(job)[2] == "lanes" for job in jobs), what="each lane to have a job")
            with OUTAGES[outage](site):
                site.gates.photos.set()
                until(
                    # Each lies in the child's folder and in the daemon's own.
                    lambda: [file.name for file in files_below(daemon.temp)].count("poster.png") == 6,
                    120,
                    "three models to be made",
                )
            until(lambda: all(site.row(job)[0] == "completed" for job in jobs), RESUMED_S, "the results")
            assert [site.row(job)[1] for job in jobs] == [1, 1, 1], "each done once"
            following = [site.enqueue() for _ in range(3)]
            until(lambda: all(site.row(job)[0] == "completed" for job in following), 120, "claims to go on")
        assert daemon.process.poll() is None
        assert len(daemon.events("database_lost")) == 1, "one for all lanes"
    finally:
        site.gates.photos.set()
        site.daemons.remove(daemon)
        daemon.process.kill()
        daemon.process.wait()


def test_a_daemon_behind_a_dead_link_loses_its_job_to_another_and_comes_back(site: Site) -> None:
    """The proxy takes what is sent and says nothing; its kernel acknowledges, so TCP itself sees no harm."""
    with proxy.serve(site.server.port) as link:
        far_url = site.url.replace(f":{site.server.port}/", f":{link.port}/")
        far = site.launch(DATABASE_URL=far_url, WORKER_LEASE_S="6")
        try:
            far.wait_for("ready", 60)
            near = [daemon for daemon in site.daemons if daemon is not far]
            site.gates.photos.clear()
            with stopped_processes(near):
                job = site.enqueue()
                until(lambda: site.row(job)[2] == "d2", what="the far daemon to have the job")
                link.swallow()
            until(lambda: site.row(job)[1] == 2, what="a near daemon to have the job")
            far.wait_for("lease_lost")
            site.gates.photos.set()
            until(lambda: site.row(job)[0] == "completed")
            assert len(site.gates.versions(site.product(job))) == 1, "stored once"
            assert not far.events("job_completed")

            link.heal()  # for new connections; those of now stay dead
            with stopped_processes(near):
                following = site.enqueue()
                until(lambda: site.row(following)[2] == "d2", 60, "the far daemon to claim again")
                until(lambda: site.row(following)[0] == "completed")
            assert far.process.poll() is None
        finally:
            site.gates.photos.set()
            site.daemons.remove(far)
            far.process.kill()
            far.process.wait()


@contextmanager
def stopped_processes(daemons: list[Daemon]) -> Iterator[None]:
    """Idle daemons that do not get in a test's way."""
    for daemon in daemons:
        daemon.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for daemon in daemons:
            daemon.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "recovers", [False, pytest.param(True, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_a_wrong_password_is_said_once_and_tried_seldom(site: Site, recovers: bool) -> None:
    site.sql("DROP ROLE IF EXISTS shy")
    site.sql("CREATE ROLE shy LOGIN SUPERUSER PASSWORD 'right'")
    daemon = site.launch(DATABASE_URL=f"postgresql://shy:right@127.0.0.1:{site.server.port}/postgres")
    try:
        daemon.wait_for("ready", 60)
        site.sql("ALTER ROLE shy PASSWORD 'wrong'")
        site.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shy'")
        daemon.wait_for("database_auth_failed", 60)
        tries = _refusals(site)
        time.sleep(60 if recovers else 3)
        assert _refusals(site) - tries <= 4, "Supabase bans addresses that hammer"
        assert len(daemon.events("database_auth_failed")) == 1
        assert daemon.process.poll() is None
        if recovers:
            site.sql("ALTER ROLE shy PASSWORD 'right'")
            daemon.wait_for("database_recovered", 330)
    finally:
        site.daemons.remove(daemon)
        daemon.process.kill()
        daemon.process.wait()
        site.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shy'")


def _refusals(site: Site) -> int:
    log = (site.server.data / "log").read_text(errors="replace")
    return log.count('password authentication failed for user "shy"')
