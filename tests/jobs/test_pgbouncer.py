"""The queue's tests once more, through a real pgbouncer in transaction mode with two connections to the server.

A module's own fixture goes before the one of conftest, so the tests that are imported run on the `engine` of this one.
"""

from collections.abc import Iterator

import psycopg
import pytest
from conftest import StartDaemon, connected, until
from sqlalchemy.engine import Engine
from test_lease import *  # noqa: F403
from test_queue import *  # noqa: F403

from worker.jobs import queue


@pytest.fixture
def engine(pooled_url: str) -> Iterator[Engine]:
    with connected(pooled_url) as engine:
        yield engine


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
    until(lambda: queue.get_jobs(engine, [job])[0]["attempts"] == 1)
    assert daemon.wait_for("not_listening", 60)
    assert daemon.stop() == 0
