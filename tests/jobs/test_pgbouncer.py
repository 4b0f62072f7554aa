"""The queue's tests once more, through a real pgbouncer in transaction mode with two connections to the server.

A module's own fixture goes before the one of conftest, so the tests that are imported run on the `engine` of this one.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import StartDaemon, until
from sqlalchemy.engine import Engine
from test_lease import *  # noqa: F403
from test_queue import *  # noqa: F403

from worker import database, embedded
from worker.jobs import queue

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed; Debian has it")


@pytest.fixture(scope="module")
def pooler(postgres: embedded.Postgres) -> Iterator[int]:
    """Its port."""
    assert PGBOUNCER
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    # It will not run as root, and who it runs as instead cannot look into pytest's folders.
    nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        folder = Path(name)
        (folder / "users").write_text(f'"postgres" "{postgres.password}"\n')
        (folder / "ini").write_text(
            f"""
            [databases]
            * = host=127.0.0.1 port={postgres.port}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = scram-sha-256
            auth_file = {folder}/users
            pool_mode = transaction
            default_pool_size = 2
            """.replace("            ", "")
        )
        for path in (folder, *folder.iterdir()):
            if nobody:
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [PGBOUNCER, str(folder / "ini")],
                stdout=log,
                stderr=log,
                user=nobody.pw_uid if nobody else None,
                group=nobody.pw_gid if nobody else None,
                extra_groups=[] if nobody else None,
            )
        try:
            until(lambda: b"process up" in (folder / "log").read_bytes(), 10, (folder / "log").read_text())
            yield port
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def pooled_url(postgres: embedded.Postgres, database_url: str, pooler: int) -> str:
    return database_url.replace(f":{postgres.port}/", f":{pooler}/")


@pytest.fixture
def engine(pooled_url: str) -> Iterator[Engine]:
    engine = database.connect(database.parse(pooled_url, "DATABASE_URL"), pool_size=20)
    yield engine
    engine.dispose()


def test_the_pooler_is_in_transaction_mode(pooled_url: str) -> None:
    """Else all of the above would prove nothing: what is set for a session does not stay with who set it."""
    with (
        psycopg.connect(pooled_url, autocommit=True) as one,
        psycopg.connect(pooled_url, autocommit=True) as two,
    ):
        one.execute("SET application_name = 'one'")
        assert two.execute("SHOW application_name").fetchone() == ("one",)


def test_a_listener_that_hears_nothing_says_so_and_does_not_stop_the_work(
    start_daemon: StartDaemon, engine: Engine, pooled_url: str
) -> None:
    daemon = start_daemon(DATABASE_URL=pooled_url)
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=["http://127.0.0.1:9/x.png"])
    until(lambda: queue.look(engine, [job])[0]["attempts"] == 1)
    assert daemon.wait_for("not_listening", 60)
    assert daemon.stop() == 0
