"""What a database or a role hands down to every connection does not stop the queue, or is named."""

import psycopg
import pytest
from conftest import HOST, connected, new_database

from worker import database
from worker.core.errors import JobError
from worker.core.settings import ConfigError
from worker.jobs import hosts, queue
from worker.local.postgres import Postgres
from worker.webhooks import outbox

HARMLESS = {
    "client_encoding": "LATIN1",
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "search_path": "nowhere",
    "lock_timeout": "1",
    "idle_session_timeout": "300",
    "synchronous_commit": "off",
}
"""Settings under which all works on any connection: what is read does not depend on them, or they matter to no statement."""

PINNED = {
    "datestyle": "German",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "1",
    "row_security": "off",
}
"""Settings that are pinned on a direct connection."""


def hand_down(sql: psycopg.Connection, settings: dict[str, str]) -> None:
    """Set them for the database, and so for every later connection."""
    for name, value in settings.items():
        sql.execute(
            f"ALTER DATABASE {sql.info.dbname} SET {name} = {value if ',' in value else repr(value)}".encode()
        )


def use(url: str, sql: psycopg.Connection) -> None:
    """The queue's statements, as a daemon, a person and a sender make them."""
    with connected(url) as engine:
        database.check_schema(engine)
        for product in "123":
            queue.enqueue(
                engine, shop="商店.example", product_id=product, image_urls=["http://a/b"], metadata={"é": 1}
            )
        job = queue.claim(engine, worker="w", lease_s=30)
        assert job
        assert job.shop == "商店.example"
        assert queue.renew(engine, job, lease_s=30) is False
        assert queue.fail(engine, job, JobError("photo_unreachable"), report={})["status"] == "pending"
        other = queue.claim(engine, worker="w", lease_s=30)
        assert other
        queue.complete(engine, other, model_url="http://m/1.glb", report={"seconds": {"upload": 0.1}})
        assert queue.health(engine)["completed_last_hour"] == 1
        assert hosts.check_in(engine, HOST).due
        rows = {str(row["id"]): row for row in queue.recent(engine)}
        ended = sql.execute("SELECT completed_at FROM jobs WHERE id = %s", [other.id]).fetchone()
        assert (rows[str(other.id)]["completed_at"],) == ended
        assert str(rows[str(other.id)]["completed_at"].tzinfo) == "UTC"
        assert rows[str(job.id)]["status"] == "pending"
        event = outbox.take(engine, sending_s=30)
        assert event
        assert '"é": 1' in event.body
        outbox.retry_later(engine, event, wait_s=5, refusals=0, reason="é")
        due = outbox.due_in(engine)
        assert due is not None
        assert due <= 5


@pytest.fixture
def plain(sql: psycopg.Connection) -> psycopg.Connection:
    """A connection that none of the settings reaches."""
    sql.execute(
        "SET statement_timeout = 0; SET row_security = on; SET timezone = 'UTC'; SET datestyle = 'ISO'"
    )
    return sql


@pytest.mark.parametrize("name", HARMLESS)
def test_settings_that_a_database_hands_down_do_not_matter(
    database_url: str, plain: psycopg.Connection, name: str
) -> None:
    hand_down(plain, {name: HARMLESS[name]})
    use(database_url, plain)


def test_they_do_not_matter_through_a_pooler_either(pooled_url: str, plain: psycopg.Connection) -> None:
    hand_down(plain, {name: value for name, value in HARMLESS.items() if name != "idle_session_timeout"})
    use(pooled_url, plain)


def test_settings_that_would_matter_are_pinned(database_url: str, plain: psycopg.Connection) -> None:
    hand_down(plain, PINNED)
    use(database_url, plain)


@pytest.mark.parametrize("name", [name for name in PINNED if name != "datestyle"])
def test_a_pooler_s_settings_that_would_matter_are_named(
    pooled_url: str, plain: psycopg.Connection, name: str
) -> None:
    hand_down(plain, {name: PINNED[name] if name != "statement_timeout" else "900"})
    with (
        connected(pooled_url) as engine,
        pytest.raises(ConfigError, match=f"^{name} is .*ALTER ROLE … SET {name} ="),
    ):
        database.check_schema(engine)


def test_a_database_that_does_not_store_unicode_is_named(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE plain_bytes ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
        url = postgres.url("plain_bytes")
        with (
            connected(url) as engine,
            pytest.raises(ConfigError, match=r"server_encoding is SQL_ASCII.*UTF8"),
        ):
            database.check_schema(engine)
        admin.execute("DROP DATABASE plain_bytes WITH (FORCE)")


def test_options_of_one_s_own_stay_beside_ours(postgres: Postgres) -> None:
    with (
        new_database(postgres) as url,
        connected(f"{url}?options=-c%20application_name%3Dmine%20-c%20geqo%3Doff") as engine,
    ):
        database.check_schema(engine)
        assert database.fetch_value(engine, "SHOW geqo") == "off"
