"""Connections to Postgres, safe on a direct address, a session pooler and a transaction pooler alike."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Self

import psycopg
import sqlalchemy as sa
from psycopg.abc import RV, PQGen
from psycopg.rows import dict_row
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError

from worker.core.settings import ConfigError, Settings
from worker.database import session
from worker.database.statement import Statement

# The revision of migrations/ that this code was written for; a test holds it against alembic's head.
SCHEMA = "0113"

# The first released revision. Those before it, 0001 to 0006 and 0101, can no longer be migrated.
FIRST_SCHEMA = "0102"
DROP_OLD_SCHEMA = (
    "DROP SCHEMA worker CASCADE; DROP TABLE public.jobs CASCADE; DROP TYPE IF EXISTS public.job_state, public.job_status; "
    "DROP FUNCTION public.cancel_job, public.retry_job; DROP FUNCTION IF EXISTS public.pause_host, public.resume_host, "
    "public.forget_shop, public.forget_product, public.approve_job, public.reject_job, public.publish_version, "
    "public.cancel_batch, public.retry_batch, public.set_batch_priority;"
)

# Prepared statements break behind a transaction pooler. TCP gives up on a silent peer in well under a lease.
CONNECT_ARGS: dict[str, Any] = {
    "prepare_threshold": None,
    "client_encoding": "utf8",
    "connect_timeout": 5,
    "application_name": "shop-model-worker",
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

# Every statement of ours takes milliseconds. One that is not answered by then never will be: the peer's kernel may still
# acknowledge what a proxy or a frozen server no longer reads, so TCP's own time-outs do not notice.
ANSWER_S = 10.0


Row = dict[str, Any]
"""A row of a statement's result, by column."""


class Connection(psycopg.Connection[Any]):
    """Closes itself and raises OperationalError if a statement is not answered within ANSWER_S, or `answer_s` if that is set."""

    answer_s: float | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._statements: dict[str, Statement] = {}

    @classmethod
    def connect(cls, conninfo: str = "", **parameters: Any) -> Self:
        """Connect, with our settings pinned if the other side takes them (worker/database/session.py). Raises: psycopg.Error."""
        options = f"{parameters.get('options', '')} {session.OPTIONS}".strip()
        try:
            connection = super().connect(conninfo, **parameters | {"options": options})
        except psycopg.OperationalError as error:
            if not session.takes_no_options(error):
                raise
            connection = super().connect(conninfo, **parameters)
        session.adapt(connection)
        return connection

    def repeat(self, text: str, parameters: Row) -> list[Row]:
        """Run a statement that will be run again. Returns its rows. Raises: psycopg.Error."""
        statement = self._statements.get(text)
        if statement is None:
            statement = self._statements[text] = Statement(text, self.adapters)
        return statement.run(self, parameters)

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for a statement's answer, `timeout` seconds or as above. Raises: psycopg.OperationalError, and closes the connection."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        answer_s = self.answer_s or ANSWER_S
        deadline = time.monotonic() + answer_s
        try:
            return super().wait(gen, interval, answer_s)
        except psycopg.OperationalError:
            if time.monotonic() < deadline:
                raise
            self.close()
            raise psycopg.OperationalError(f"no answer within {answer_s:g} s") from None


def url(settings: Settings) -> URL:
    """Return DATABASE_URL, parsed. Raises: ConfigError if it is missing or malformed."""
    if settings.database_url is None:
        raise ConfigError(
            "DATABASE_URL is not set. Give the Postgres that holds the jobs, as postgresql://…."
        )
    return parse(settings.database_url.get_secret_value(), "DATABASE_URL")


def parse(text: str, variable: str) -> URL:
    """Parse a `postgres://` or `postgresql://` URL for SQLAlchemy's psycopg. Raises: ConfigError, which names `variable`."""
    try:
        parsed = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"{variable} is not a URL of the form postgresql://user:password@host/name."
        ) from None
    if parsed.drivername not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise ConfigError(f"{variable} must begin with postgresql://, not {parsed.drivername}://.")
    return parsed.set(drivername="postgresql+psycopg")


def connect(target: URL, *, pool_size: int = 2) -> Engine:
    """Return an engine on which every statement is its own transaction: each rule of the queue is one statement."""
    engine = sa.create_engine(
        target,
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=2,
        pool_recycle=300,
        pool_reset_on_return=None,  # no statement leaves a transaction open
        connect_args=CONNECT_ARGS,
        hide_parameters=True,
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: list[Any], named: dict[str, Any]) -> Connection:
        return Connection.connect(*arguments, **named)

    return engine


def probe(target: URL) -> None:
    """Return if a statement would succeed now, else raise psycopg.Error. Uses a connection of its own."""
    with _direct(target) as connection:
        found = connection.execute("SELECT current_setting('transaction_read_only')").fetchone()
    if found != ("off",):
        raise psycopg.errors.ReadOnlySqlTransaction("the server is read-only")


def listen(settings: Settings) -> psycopg.Connection[Any]:
    """Return a new connection for LISTEN. Raises: ConfigError; psycopg.Error."""
    secret = settings.listen_database_url
    target = parse(secret.get_secret_value(), "WORKER_LISTEN_DATABASE_URL") if secret else url(settings)
    return _direct(target)


def _direct(target: URL) -> psycopg.Connection[Any]:
    dsn = target.set(drivername="postgresql").render_as_string(hide_password=False)
    return Connection.connect(dsn, autocommit=True, **CONNECT_ARGS)


def revision(connection: sa.Connection) -> str | None:
    """The revision that the database is at; None for one without tables.

    Raises: ConfigError with what to do, for a revision of before the first release.
    """
    if connection.scalar(sa.text("SELECT to_regclass('worker.alembic_version')::text")) is None:
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM worker.alembic_version"))
    if found is not None and found < FIRST_SCHEMA:
        raise ConfigError(
            f"The database's schema ({found}) is from before the first release and cannot be migrated. Delete it with all "
            f"its jobs, as its owner: {DROP_OLD_SCHEMA} Then run: worker migrate"
        )
    return found


def check_schema(engine: Engine) -> None:
    """Raises: ConfigError with the command to run if the database's schema is not the one that this code was written for, or if a
    setting of the session would stop the queue.
    """
    with engine.connect() as connection:
        session.check(connection)
        found = revision(connection)
        complete = connection.scalar(sa.text("SELECT to_regproc('worker.claim_job')::text")) is not None
    if found == SCHEMA and complete:
        return
    if found == SCHEMA:
        raise ConfigError(
            "The database came back from a later schema, without functions. Run: worker migrate"
        )
    if found is None:
        raise ConfigError("The database has no jobs table yet. Run: worker migrate")
    if found.isdigit() and found < SCHEMA:
        raise ConfigError(
            f"The database's schema ({found}) is older than this worker's ({SCHEMA}). Run: worker migrate"
        )
    raise ConfigError(
        f"The database's schema ({found}) is newer than this worker's ({SCHEMA}). Update this worker, "
        f"or take the schema back: with the newer worker alembic downgrade {SCHEMA}, then with this one worker migrate"
    )


def queries(package: str) -> dict[str, str]:
    """Read `queries.sql` of a package. Returns the statements by name; each stands below a line `-- name: …`.

    Their parameters `:name` are written as the driver wants them, so that SQLAlchemy compiles nothing: for a claim and a
    settlement that took as long as all of the driver's own work.
    """
    text = (files(package) / "queries.sql").read_text()
    blocks = (block.partition("\n") for block in text.split("-- name: ")[1:])
    return {name.strip(): _for_driver(statement) for name, _, statement in blocks}


def _for_driver(statement: str) -> str:
    lines = [line for line in statement.strip().splitlines() if not line.startswith("--")]
    return re.sub(r"(?<!:):([a-z]\w*)", r"%(\1)s", "\n".join(lines).replace("%", "%%"))


def fetch_all(engine: Engine, statement: str, **parameters: Any) -> list[Row]:
    """Run a statement of `queries` and return its rows. Raises: sqlalchemy's DBAPIError."""
    return _run(engine, statement, parameters)


def fetch_one(engine: Engine, statement: str, **parameters: Any) -> Row | None:
    """Run a statement of a fixed text that returns one row at most. Raises: sqlalchemy's DBAPIError."""
    rows = _run(engine, statement, parameters, repeated=True)
    return rows[0] if rows else None


def fetch_value(engine: Engine, statement: str, **parameters: Any) -> Any:
    """Run a statement that returns one value. Raises: sqlalchemy's DBAPIError."""
    row = fetch_one(engine, statement, **parameters)
    return next(iter(row.values())) if row else None


def execute(engine: Engine, statement: str, **parameters: Any) -> None:
    """Run a statement that returns no rows. Raises: sqlalchemy's DBAPIError."""
    _run(engine, statement, parameters)


@contextmanager
def transaction(
    engine: Engine, *, keep: bool = True, answer_s: float | None = None
) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection in one transaction for several statements; unless `keep`, it is rolled back at its end.

    `answer_s`: how long one of them may take, if longer than usual. Raises: sqlalchemy's DBAPIError for an error of the driver.
    """
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, Connection)  # noqa: S101 - made by connect()
        driver.answer_s = answer_s
        try:
            with driver.transaction(force_rollback=not keep):
                if answer_s is not None:  # the session has a limit of its own: worker/database/session.py
                    driver.execute("SELECT set_config('statement_timeout', %s, true)", [f"{answer_s:.0f}s"])
                yield driver
        except psycopg.Error as error:
            connection._handle_dbapi_exception(error, None, None, None, None)  # noqa: SLF001 - no public way
        finally:
            driver.answer_s = None


def _run(engine: Engine, statement: str, parameters: Row, *, repeated: bool = False) -> list[Row]:
    """Run a statement on the driver itself. SQLAlchemy's own execution would take as long again, so it only lends the
    connection, and handles an error as one of its own: its type, the monitor's event, and a pool without dead connections.
    """
    with engine.connect() as connection:
        try:
            driver = connection.connection.driver_connection
            assert isinstance(driver, Connection)  # noqa: S101 - made by connect()
            if repeated:
                return driver.repeat(statement, parameters)
            cursor = driver.cursor(row_factory=dict_row).execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.rownumber is not None else []
        except BaseException as error:  # noqa: BLE001 - raised again
            connection._handle_dbapi_exception(error, statement, parameters, None, None)  # noqa: SLF001 - no public way
