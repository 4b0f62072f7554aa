import time

import psycopg
from conftest import until
from pydantic import SecretStr

from worker.jobs.wakeup import Listener, Wakeup
from worker.settings import Settings


def test_a_wake_up_between_two_waits_is_not_lost() -> None:
    wakeup = Wakeup()
    seen = wakeup.count
    wakeup.wake()
    began = time.monotonic()
    assert wakeup.wait(seen, 10) == 1
    assert time.monotonic() - began < 5
    assert wakeup.wait(1, 0.01) == 1


def test_an_insert_wakes_and_a_broken_connection_is_made_again(
    database_url: str, sql: psycopg.Connection
) -> None:
    wakeup = Wakeup()
    settings = Settings().model_copy(update={"database_url": SecretStr(database_url)})
    Listener(settings, wakeup).start()
    until(lambda: wakeup.count == 1)
    insert = "INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a', '1', '{http://a/b}')"
    sql.execute(insert)
    until(lambda: wakeup.count == 2)
    sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    until(lambda: wakeup.count == 3, 20, "the listener to come back")
    sql.execute(insert)
    until(lambda: wakeup.count == 4)
