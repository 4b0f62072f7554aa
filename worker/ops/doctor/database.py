"""The database, with the daemon's own connection settings and role."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from worker import database
from worker.core.errors import one_line
from worker.core.finding import Finding, advice, fail, from_error, ok, unreachable
from worker.core.settings import ConfigError, Settings
from worker.database import session
from worker.jobs import hosts, queue
from worker.ops.advice import start_worker

QUERIES = database.queries("worker.ops.doctor")

# What the daemon does with each table.
TABLES = {
    ("public.jobs", "worker.outbox", "worker.attempts", "worker.hosts"): (
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
    ),
    ("worker.alembic_version",): ("SELECT",),
}
AS_WORKER = "Log in as the role worker, to which the migrations grant all rights (ALTER ROLE worker LOGIN PASSWORD '…')"
HEAR_S = 5.0
SKEW_S, TOLERANCE_S = 5.0, 240.0  # receivers of Standard Webhooks refuse timestamps that are five minutes off
TRANSACTION_PORT = 6543  # Supabase's transaction poolers

# What libpq says, mostly without a SQLSTATE, and how to fix it.
EXPLAINED = {
    "password authentication failed": "Correct the user or the password in DATABASE_URL. Write the characters @ / : # "
    "of a password as %40 %2F %3A %23.",
    "no password supplied": "Put the password into DATABASE_URL: postgresql://user:password@host/name.",
    "Tenant or user not found": "At Supabase's pooler the user is ROLE.PROJECT, and the region in the host's name must be the "
    "project's. Copy the URL from Supabase's dashboard: Connect.",
    "no pg_hba.conf entry": "Allow this host in the server's pg_hba.conf, or encrypt: add ?sslmode=require to DATABASE_URL.",
    "does not exist": "Correct the database's or the role's name in DATABASE_URL.",
    "SSL": "Add ?sslmode=require to DATABASE_URL, or remove it if the server has no TLS.",
}


def reachable(settings: Settings) -> Iterator[Finding]:
    """Connect, and check that the server can be written to, keeps what it confirms, and the connection is encrypted.

    Raises: ConfigError for a setting of the session under which the queue would not work.
    """
    target = database.url(settings)
    try:
        with _connected(target) as connection:
            session.check(connection)
            who = connection.exec_driver_sql(QUERIES["who"]).mappings().one()
            encrypted = _pgconn(connection).ssl_in_use
    except DBAPIError as error:
        yield _explained(error, target)
        return
    yield ok("database", f"Postgres {who['version']}, database {who['database']} as {who['role']}")
    if who["read_only"]:
        yield fail(
            "database", "the server is read-only", "Point DATABASE_URL to the primary, not to a replica."
        )
    if who["forgets"]:
        yield advice(
            "database",
            "synchronous_commit is off: a crash of the server can undo the end of a job, which then runs again",
            "Run as the database's owner: ALTER ROLE … SET synchronous_commit = on;",
        )
    if not encrypted and _is_remote(target):
        yield advice("database", "the connection is not encrypted", "Add ?sslmode=require to DATABASE_URL.")


def pooler(settings: Settings) -> Iterator[Finding]:
    """Tell a pooler from a direct connection: it gives a process number at login and runs statements in another process."""
    target = database.url(settings)
    with _connected(target) as connection:
        direct = _pgconn(connection).backend_pid == connection.exec_driver_sql(QUERIES["backend"]).scalar()
    if direct:
        yield ok("pooler", "none: a direct connection")
    elif target.port == TRANSACTION_PORT:
        yield ok("pooler", "a transaction pooler, which works")
    else:
        yield ok("pooler", "a pooler, which works")


def schema(settings: Settings) -> Iterator[Finding]:
    """Check that the schema is the one of this worker."""
    engine = database.connect(database.url(settings), pool_size=1)
    try:
        database.check_schema(engine)
    except ConfigError as error:
        yield from_error("schema", error)
    else:
        yield ok("schema", f"{database.SCHEMA}, which fits this worker")
    finally:
        engine.dispose()


def workers(settings: Settings) -> Iterator[Finding]:
    """Name the hosts that can take a job."""
    engine = database.connect(database.url(settings), pool_size=1)
    try:
        due, known = queue.health(engine)["due"], hosts.list_hosts(engine)
    finally:
        engine.dispose()
    ahead = f"; {due} jobs are ahead in the queue" if due else ""
    live = [f"{host['name']} ({_doing(host)})" for host in known if host["state"] == "live"]
    paused = [host["name"] for host in known if host["state"] == "paused" and host["up"]]
    if live:
        more = f" and {len(live) - 3} more" if len(live) > 3 else ""
        yield ok("worker", f"{', '.join(live[:3])}{more}{ahead}")
    elif paused:
        yield advice(
            "worker", f"{', '.join(paused[:3])}: paused{ahead}", f"Resume it: worker resume {paused[0]}"
        )
    else:
        yield advice("worker", f"no worker is running{ahead}", start_worker())


def _doing(host: Mapping[str, Any]) -> str:
    free = host["lanes"] - host["running"]
    return "idle" if not host["running"] else f"{host['running']} running, {max(0, free)} free"


def rights(settings: Settings) -> Iterator[Finding]:
    """Check that the role may read and write all rows of the worker's tables."""
    found = []
    try:
        with _connected(database.url(settings)) as connection:
            role = connection.exec_driver_sql(QUERIES["who"]).mappings().one()["role"]
            for names, wanted in TABLES.items():
                rows = connection.exec_driver_sql(
                    QUERIES["rights"], {"tables": list(names), "rights": list(wanted)}
                ).mappings()
                found += [dict(row) for row in rows if row["there"]]
    except ProgrammingError as error:
        yield fail("rights", one_line(error), f"{AS_WORKER}.")
        return
    fine = True
    for table in found:
        name, lacking = table["name"], ", ".join(table["lacking"])
        if lacking:
            fine = False
            yield fail(
                "rights",
                f"{role} may not {lacking} on {name}",
                f"{AS_WORKER}; or, as the owner: GRANT {lacking} ON {name} TO {role};",
            )
        if table["hidden"] and not table["policies"]:
            fine = False
            yield fail(
                "rights",
                f"{role} sees no row of {name}: row-level security has no policy for this role and raises no error",
                f"{AS_WORKER}; or, as the owner: "
                f"CREATE POLICY {role}_sees_all ON {name} TO {role} USING (true) WITH CHECK (true);",
            )
        elif table["hidden"] and "true" not in table["policies"]:
            fine = False
            yield advice(
                "rights",
                f"{role} sees only some rows of {name}: {' OR '.join(table['policies'])}",
                "Nothing to do if this is intended.",
            )
    if not found:
        yield ok("rights", "no tables yet: see schema")
    elif fine:
        yield ok("rights", f"{role} may read and write all rows")


def listen(settings: Settings) -> Iterator[Finding]:
    """Send a notification on another connection, because a pooled connection may seem to hear its own, and wait for it."""
    channel = f"worker_doctor_{uuid4().hex[:12]}"
    fix = (
        "Set WORKER_LISTEN_DATABASE_URL to the direct connection or the session pooler (port 5432 at Supabase). Until then "
        "the worker polls, and jobs start up to WORKER_POLL_S later."
    )
    try:
        with database.listen(settings) as connection, _connected(database.url(settings)) as other:
            connection.execute(f"LISTEN {channel}".encode())
            other.exec_driver_sql(QUERIES["notify"], {"channel": channel})
            heard = any(
                notice.channel == channel for notice in connection.notifies(timeout=HEAR_S, stop_after=1)
            )
    except psycopg.Error as error:
        yield advice("listen", f"LISTEN fails: {one_line(error)}", fix)
        return
    if heard:
        yield ok("listen", "notifications arrive")
    else:
        yield advice("listen", "notifications do not arrive, as behind a transaction pooler", fix)


def clock(settings: Settings) -> Iterator[Finding]:
    """Compare this host's clock with the database's."""
    with _connected(database.url(settings)) as connection:
        connection.exec_driver_sql(QUERIES["backend"])  # so that the next statement needs no new connection
        before = time.time()
        theirs = float(connection.exec_driver_sql(QUERIES["clock"]).scalar_one())
        ours = (before + time.time()) / 2
    skew = ours - theirs
    text = f"this host's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the database's"
    fix = "Let the network set this host's clock: timedatectl set-ntp true."
    if abs(skew) > TOLERANCE_S:
        yield fail("clock", f"{text}; receivers refuse the webhooks' signatures", fix)
    elif abs(skew) > SKEW_S:
        yield advice("clock", text, fix)
    else:
        yield ok("clock", text)


def _explained(error: DBAPIError, target: URL) -> Finding:
    text = one_line(error)
    for words, fix in EXPLAINED.items():
        if words in text:
            return fail("database", text, fix)
    if isinstance(error, OperationalError):
        return unreachable(
            "database",
            text,
            f"Check that {target.host or 'the socket'}:{target.port or 5432} can be reached from here: name, port, firewall; "
            "Supabase's direct host has IPv6 only, its poolers have IPv4.",
        )
    return fail("database", text, "Correct DATABASE_URL.")


def _is_remote(target: URL) -> bool:
    host = target.host or str(target.query.get("host", "/"))
    return not (host.startswith("/") or host in {"localhost", "127.0.0.1", "::1"})


@contextmanager
def _connected(target: URL) -> Iterator[Connection]:
    engine = database.connect(target, pool_size=1)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _pgconn(connection: Connection) -> Any:
    """The connection as libpq sees it."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101 - it is psycopg that we connect with
    return driver.pgconn
