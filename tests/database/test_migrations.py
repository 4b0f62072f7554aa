"""The schema goes up, down and up again, on plain Postgres and on one that looks like Supabase's."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from conftest import BINARIES

from worker import database
from worker.core.settings import ConfigError
from worker.database import migrate, taken
from worker.local.postgres import PACKAGE, VERSION, Postgres

ROOT = Path(__file__).parents[2]

# Of the newest version: they read older servers too, of which a package may hold nothing but the server.
WHEEL = importlib.util.find_spec(PACKAGE)
PROGRAMS = Path(str(WHEEL and WHEEL.origin)).parent / VERSION / "bin"


# How a command of sql/ begins that makes a function, and its body.
FUNCTION = re.compile(r"^CREATE OR REPLACE FUNCTION ([\w.]+)\(.*?AS \$\$(.*?)\$\$;", re.MULTILINE | re.DOTALL)


def alembic(url: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": url},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def config(scripts: Path, url: str = "") -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts))
    if url:
        config.attributes["url"] = database.parse(url, "")
    return config


def migrations(folder: Path) -> Path:
    """A copy to change, as a later version of the worker would bring."""
    return Path(shutil.copytree(ROOT / "migrations", folder / "migrations"))


def catalogue(url: str) -> list[str]:
    """The whole schema, with owners, rights and comments; sorted, since some of pg_dump's order is that of the making."""
    dump = subprocess.run(
        [PROGRAMS / "pg_dump", "--schema-only", url], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return sorted(line for line in dump.splitlines() if "restrict " not in line)


def functions(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT pronamespace::regnamespace || '.' || proname, prosrc FROM pg_proc"
            " WHERE pronamespace::regnamespace::text IN ('public', 'worker')"
        ).fetchall()
    assert len(rows) == len(dict(rows)), "no function has two forms"
    return dict(rows)


def relations(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT n.nspname || '.' || relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE nspname IN ('public', 'worker') AND relkind IN ('r', 'v', 'S')"
            " UNION SELECT n.nspname || '.' || typname FROM pg_type JOIN pg_namespace n ON n.oid = typnamespace"
            " WHERE nspname IN ('public', 'worker') AND typtype = 'e'"
        )
        return {row[0] for row in rows} | set(functions(url))


def insert_jobs(sql: psycopg.Connection) -> None:
    """Jobs in all states, with their events and attempts."""
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls) SELECT 'a', n::text, '{http://a/b}' FROM generate_series(1, 4) n"
    )
    sql.execute("SELECT worker.claim_job('w', 'h', '{default}', '', 30, NULL) FROM generate_series(1, 3)")
    sql.execute(
        "SELECT worker.complete_job(id, lease_token, 'x', '{}', NULL, false, 60) FROM jobs WHERE product_id = '1'"
    )
    sql.execute(
        "SELECT worker.fail_job(id, lease_token, 'no_object', 'No.', false, '{}') FROM jobs WHERE product_id = '2'"
    )
    found = sql.execute("SELECT product_id, status::text FROM jobs ORDER BY product_id").fetchall()
    assert found == [("1", "completed"), ("2", "failed"), ("3", "processing"), ("4", "pending")]


def test_up_down_and_up_again_with_alembic(empty_database: str) -> None:
    alembic(empty_database, "upgrade", "head")
    first = catalogue(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        insert_jobs(connection)
    alembic(empty_database, "downgrade", "base")
    assert relations(empty_database) == {"worker.alembic_version"}
    alembic(empty_database, "upgrade", "head")
    assert catalogue(empty_database) == first
    with psycopg.connect(empty_database, autocommit=True) as connection:
        insert_jobs(connection)


# The functions that 0102 had with other parameters, as far as their parameters say.
OF_0102 = """
CREATE FUNCTION public.retry_job(job_id uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION worker.complete_job(job_id uuid, token uuid, url text, report jsonb, superseded_message text)
    RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION worker.check_in(
    host_name text, host_instance uuid, host_version text, host_engine text, host_pools text[], host_lanes int,
    host_devices text[], host_memory_mb int, OUT due boolean, OUT expired boolean, OUT seconds double precision,
    OUT paused boolean, OUT shared boolean) LANGUAGE sql AS 'SELECT true, true, 1.0::float, true, true';
"""
VERSIONED = (b"worker.versions", b"worker.published", b"worker.erasures")


def test_the_first_release_is_migrated_with_its_data_and_back(
    empty_database: str, sql: psycopg.Connection, database_url: str
) -> None:
    url = database.parse(empty_database, "")
    migrate.upgrade(url, "0102")
    # What this version's functions write, in the columns of that one.
    insert_jobs(sql)
    with psycopg.connect(empty_database, autocommit=True) as old:
        old.execute(OF_0102)
        columns = sql_list(old, "public.jobs")
        for table in ("public.jobs", "worker.outbox", "worker.attempts"):
            copy(sql, old, table, sql_list(old, table))
        old.execute("SELECT setval('worker.outbox_seq_seq', 100), setval('worker.attempts_id_seq', 100)")
        rows = old.execute(f"SELECT {columns} FROM jobs ORDER BY id".encode()).fetchall()
        assert len(rows) == 4
        migrate.upgrade(url)
        assert catalogue(empty_database) == catalogue(database_url)
        assert old.execute(f"SELECT {columns} FROM jobs ORDER BY id".encode()).fetchall() == rows
        assert old.execute(
            "SELECT DISTINCT refresh, review, excluded_photos, version FROM jobs"
        ).fetchall() == [(False, "none", [], None)]
        old.execute("SELECT retry_job(id, without_photo => NULL) FROM jobs WHERE status = 'failed'")
        job, token = one(
            old.execute("SELECT id, lease_token FROM worker.claim_job('w', 'h', '{default}', '', 30, NULL)")
        )
        begun = old.execute("SELECT worker.begin_version(%s, %s, 'd', 's', '{}', 'k')", [job, token])
        assert begun.fetchone() == (True,)
        done = old.execute(
            "SELECT completed FROM worker.complete_job(%s, %s, 'x', '{}', 'd', true, 60)", [job, token]
        )
        assert done.fetchone() == (True,)
        assert old.execute("SELECT approve_job(%s)", [job]).fetchone() == (True,)
        old.execute("SELECT forget_shop('b')")
        assert all(old.execute(b"SELECT FROM " + table).fetchone() is not None for table in VERSIONED)
        rows = old.execute(f"SELECT {columns} FROM jobs ORDER BY id".encode()).fetchall()
        command.downgrade(config(ROOT / "migrations", empty_database), "0102")
        assert sql_list(old, "public.jobs") == columns
        assert old.execute(f"SELECT {columns} FROM jobs ORDER BY id".encode()).fetchall() == rows
        assert not {table.decode() for table in VERSIONED} & relations(empty_database)
        migrate.upgrade(url)
        assert catalogue(empty_database) == catalogue(database_url)


def sql_list(sql: psycopg.Connection, table: str) -> str:
    """The columns of a table, for a statement."""
    found = sql.execute(
        "SELECT string_agg(attname, ', ' ORDER BY attname) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [table],
    )
    return str(one(found)[0])


def copy(source: psycopg.Connection, target: psycopg.Connection, table: str, columns: str) -> None:
    with (
        source.cursor().copy(f"COPY {table} ({columns}) TO STDOUT".encode()) as rows,
        target.cursor().copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copied,
    ):
        for block in rows:
            copied.write(block)


def one(cursor: psycopg.Cursor[Any]) -> Any:
    (row,) = cursor.fetchall()
    return row


def test_a_second_upgrade_changes_nothing(sql: psycopg.Connection, database_url: str) -> None:
    insert_jobs(sql)
    tables = (b"jobs", b"worker.outbox", b"worker.attempts")
    rows = [sql.execute(b"SELECT * FROM " + table).fetchall() for table in tables]
    first = catalogue(database_url)
    alembic(database_url, "upgrade", "head")
    assert catalogue(database_url) == first
    assert [sql.execute(b"SELECT * FROM " + table).fetchall() for table in tables] == rows


def test_every_function_stands_whole_in_one_file(database_url: str) -> None:
    made = [
        found
        for file in (ROOT / "migrations" / "sql").iterdir()
        for found in FUNCTION.findall(file.read_text())
    ]
    # storage_path belongs to the tables, because indexes hold its results.
    real = {name: text for name, text in functions(database_url).items() if name != "worker.storage_path"}
    assert len(made) == len(dict(made)) == len(real)
    assert dict(made) == real


def test_an_edited_function_is_applied_by_the_next_upgrade_though_no_revision_is_new(
    database_url: str, tmp_path: Path
) -> None:
    before = functions(database_url)
    edited = migrations(tmp_path)
    file = edited / "sql" / "jobs.sql"
    file.write_text(file.read_text().replace("'job %: % not changed", "'job % keeps 100 %% of :%"))
    alembic(database_url, "current")
    assert functions(database_url) == before
    command.upgrade(config(edited, database_url), "head")
    changed = {name: text for name, text in functions(database_url).items() if before[name] != text}
    assert list(changed) == ["worker.guard_job"]
    assert "'job % keeps 100 %% of :%" in changed["worker.guard_job"]
    migrate.upgrade(database.parse(database_url, ""))
    assert functions(database_url) == before


def test_back_from_a_later_revision(sql: psycopg.Connection, database_url: str, tmp_path: Path) -> None:
    """Its functions go before its columns do, and an upgrade with this version's own files ends where it began."""
    insert_jobs(sql)
    first, rows = catalogue(database_url), sql.execute("SELECT * FROM jobs").fetchall()
    later = migrations(tmp_path)
    (later / "versions" / "9999_later.py").write_text(f"""
from alembic import op
revision, down_revision = "9999", "{database.SCHEMA}"
def upgrade():
    op.execute("ALTER TABLE public.jobs ADD COLUMN hue text")
def downgrade():
    op.execute("ALTER TABLE public.jobs DROP COLUMN hue")
""")
    with (later / "sql" / "jobs.sql").open("a") as file:
        file.write("""
CREATE FUNCTION worker.paint(job public.jobs) RETURNS SETOF public.jobs LANGUAGE sql BEGIN ATOMIC
    UPDATE public.jobs SET hue = 'red' RETURNING *;
END;
CREATE TRIGGER paint AFTER UPDATE OF hue ON public.jobs FOR EACH ROW EXECUTE FUNCTION worker.wake();
""")
    command.upgrade(config(later, database_url), "+1")
    assert "worker.paint" in functions(database_url)
    command.downgrade(config(later, database_url), "-1")
    assert list(functions(database_url)) == ["worker.storage_path"]
    engine = database.connect(database.parse(database_url, ""))
    with pytest.raises(ConfigError, match=r"without functions\..*worker migrate"):
        database.check_schema(engine)
    engine.dispose()
    migrate.upgrade(database.parse(database_url, ""))
    assert catalogue(database_url) == first
    assert sql.execute("SELECT * FROM jobs").fetchall() == rows


def test_what_alembic_prints_makes_the_same_schema(empty_database: str, database_url: str) -> None:
    upgrade = alembic("", "upgrade", "head", "--sql")
    downgrade = alembic("", "downgrade", f"{database.SCHEMA}:base", "--sql")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(upgrade.encode())
        assert catalogue(empty_database) == catalogue(database_url)
        version = connection.execute("SELECT version_num FROM worker.alembic_version").fetchall()
        assert version == [(database.SCHEMA,)]
        insert_jobs(connection)
        connection.execute(downgrade.encode())
        assert relations(empty_database) == {"worker.alembic_version"}
        assert connection.execute("SELECT * FROM worker.alembic_version").fetchall() == []


@pytest.mark.usefixtures("superuser")
def test_an_upgrade_leaves_the_owner_s_own_grants(sql: psycopg.Connection, database_url: str) -> None:
    sql.execute("CREATE ROLE reader")
    try:
        sql.execute("GRANT SELECT ON job_status TO reader; GRANT EXECUTE ON FUNCTION cancel_job TO reader")
        sql.execute("REVOKE SELECT ON queue_health FROM worker")
        migrate.upgrade(database.parse(database_url, ""))
        assert sql.execute(
            "SELECT has_table_privilege('reader', 'job_status', 'SELECT'),"
            " has_function_privilege('reader', 'cancel_job(uuid)', 'EXECUTE'),"
            " has_table_privilege('worker', 'queue_health', 'SELECT')"
        ).fetchone() == (True, True, True)
    finally:
        sql.execute("DROP OWNED BY reader; DROP ROLE reader")


@pytest.mark.usefixtures("superuser")
def test_a_backup_can_be_restored(
    postgres: Postgres, sql: psycopg.Connection, empty_database: str, tmp_path: Path
) -> None:
    """The rules are a CHECK that calls a function of the table's own row: pg_dump must order them well."""
    sql.execute("INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a', '1', '{http://a/b}')")
    sql.execute("SELECT worker.claim_job('w', 'h', '{default}', '', 30, NULL)")
    backup = tmp_path / "backup"
    source = postgres.url(sql.info.dbname)
    subprocess.run([PROGRAMS / "pg_dump", "--format=custom", "--file", backup, source], check=True)
    subprocess.run(
        [PROGRAMS / "pg_restore", "--exit-on-error", "--dbname", empty_database, backup], check=True
    )
    with psycopg.connect(empty_database, autocommit=True) as restored:
        for table in (b"jobs", b"worker.outbox", b"worker.attempts"):
            rows = b"SELECT * FROM " + table
            assert restored.execute(rows).fetchall() == sql.execute(rows).fetchall() != []
        with pytest.raises(psycopg.errors.CheckViolation, match="max_attempts_is_1_to_25"):
            restored.execute("UPDATE jobs SET max_attempts = 0")


def test_worker_migrate_does_the_same(empty_database: str, database_url: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "worker", "migrate"],
        env=os.environ | {"DATABASE_URL": empty_database},
        cwd="/",
        check=True,
    )
    assert catalogue(empty_database) == catalogue(database_url)


def test_the_code_expects_the_newest_revision() -> None:
    script = ScriptDirectory.from_config(config(ROOT / "migrations"))
    assert script.get_heads() == [database.SCHEMA]
    assert script.get_bases() == [database.FIRST_SCHEMA]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ("0102", r"\(0102\) is older.*worker migrate"),
        ("9999", "newer.*downgrade 0103"),
        ("0101", "before the first release.*worker migrate"),
        ("0006", "before the first release.*worker migrate"),
        (None, "no jobs table.*worker migrate"),
    ],
)
def test_a_schema_that_does_not_fit_is_named_with_the_command(
    sql: psycopg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, found: str | None, says: str
) -> None:
    monkeypatch.setattr("worker.database.connection.SCHEMA", "0103")
    sql.execute("DELETE FROM worker.alembic_version")
    if found:
        sql.execute("INSERT INTO worker.alembic_version VALUES (%s)", [found])
    engine = database.connect(database.parse(database_url, ""))
    with pytest.raises(ConfigError, match=says):
        database.check_schema(engine)
    engine.dispose()


def test_an_empty_database_is_named_with_the_command(empty_database: str) -> None:
    engine = database.connect(database.parse(empty_database, ""))
    with pytest.raises(ConfigError, match=r"no jobs table.*worker migrate"):
        database.check_schema(engine)
    engine.dispose()


@pytest.mark.parametrize("arguments", [["worker", "migrate"], ["alembic", "upgrade", "head"]], ids=" ".join)
@pytest.mark.parametrize(
    ("found", "says"),
    [("0001", "before the first release"), ("0101", "before the first release"), ("9999", "'9999'")],
)
def test_a_database_that_cannot_be_migrated_ends_the_command_in_one_line(
    sql: psycopg.Connection, database_url: str, arguments: list[str], found: str, says: str
) -> None:
    sql.execute("UPDATE worker.alembic_version SET version_num = %s", [found])
    before = relations(database_url)
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    (line,) = done.stdout.splitlines()
    assert says in line
    assert relations(database_url) == before


def test_what_the_line_says_makes_room_for_the_schema(sql: psycopg.Connection, database_url: str) -> None:
    insert_jobs(sql)
    first = catalogue(database_url)
    sql.execute(database.DROP_OLD_SCHEMA.encode())
    assert relations(database_url) == set()
    migrate.upgrade(database.parse(database_url, ""))
    assert catalogue(database_url) == first


def use_roles(sql: psycopg.Connection) -> None:
    """Do as Supabase's roles what they may do, and try what they may not."""
    published = sql.execute("SELECT tablename FROM pg_publication_tables").fetchall()
    assert published == [("jobs",)]

    sql.execute("SET ROLE service_role")
    sql.execute("INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a', '1', '{http://a/b}')")
    assert sql.execute("SELECT cancel_job(id) FROM jobs").fetchone() == (True,)
    assert sql.execute("SELECT status::text FROM jobs").fetchone() == ("cancelled",)
    assert sql.execute("SELECT retry_job(id) FROM jobs").fetchone() == (True,)
    for decision in ("approve_job(id)", "reject_job(id, 'No.')", "publish_version(id)"):
        assert sql.execute(f"SELECT {decision} FROM jobs".encode()).fetchone() == (False,), "it waits"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        sql.execute("SELECT count(*) FROM worker.versions")

    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, batch) VALUES ('b', '1', '{http://a/b}', 'x')"
    )
    assert sql.execute("SELECT cancel_batch('b', 'x')").fetchone() == (1,)
    assert sql.execute("SELECT retry_batch('b', 'x')").fetchone() == (0,)
    assert sql.execute("SELECT set_batch_priority('b', 'x', 1)").fetchone() == (0,)
    assert sql.execute("SELECT shop, batch, cancelled FROM batch_status").fetchall() == [("b", "x", 1)]
    sql.execute("DELETE FROM jobs WHERE shop = 'b'")

    assert sql.execute("SELECT pending FROM queue_health WHERE shop = 'a'").fetchone() == (1,)
    assert sql.execute("SELECT position FROM job_status").fetchone() == (1,)
    assert sql.execute("SELECT forget_shop(shop => 'b')::text ~ '-'").fetchone() == (True,)
    assert sql.execute("SELECT forget_product(shop => 'b', product_id => '1')::text ~ '-'").fetchone() == (
        True,
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        sql.execute("SELECT count(*) FROM worker.erasures")

    for user in (b"anon", b"authenticated"):
        sql.execute(b"SET ROLE " + user)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute("SELECT count(*) FROM job_status")
        assert sql.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute("INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a', '1', '{http://a/b}')")
        for text in (
            "SELECT cancel_job(gen_random_uuid())",
            "SELECT cancel_batch('b', 'x')",
            "SELECT count(*) FROM batch_status",
            "SELECT count(*) FROM shop_usage",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                sql.execute(text.encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute("SELECT forget_shop('a')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute("SELECT forget_product('a', '1')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute("SELECT approve_job(gen_random_uuid())")
    sql.execute("RESET ROLE")


@pytest.mark.skipif(
    not BINARIES, reason="the embedded Postgres has none of Supabase's roles; the next test makes them"
)
def test_supabase_s_roles_and_default_privileges(sql: psycopg.Connection) -> None:
    assert sql.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)
    use_roles(sql)


@pytest.mark.usefixtures("superuser")
def test_at_supabase_its_roles_and_its_publication_are_used(postgres: Postgres, empty_database: str) -> None:
    """Supabase's `postgres` is no superuser; anon, authenticated and service_role exist; Realtime is a publication."""
    name = empty_database.rpartition("/")[2]
    with psycopg.connect(empty_database, autocommit=True) as admin:
        admin.execute("CREATE ROLE owner LOGIN CREATEROLE PASSWORD 'owner'")
        admin.execute("CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE service_role BYPASSRLS")
        admin.execute("GRANT anon, authenticated, service_role TO owner")
        admin.execute(f"ALTER DATABASE {name} OWNER TO owner".encode())
        admin.execute("ALTER SCHEMA public OWNER TO owner")
        admin.execute("CREATE PUBLICATION supabase_realtime")
        admin.execute("ALTER PUBLICATION supabase_realtime OWNER TO owner")
        admin.execute("GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role")
        admin.execute(
            "ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public"
            " GRANT ALL ON TABLES TO anon, authenticated, service_role"
        )
        admin.execute(
            "ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public"
            " GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role"
        )
    url = f"postgresql://owner:owner@127.0.0.1:{postgres.port}/{name}"
    try:
        alembic(url, "upgrade", "head")
        with psycopg.connect(empty_database, autocommit=True) as admin:
            use_roles(admin)
        alembic(url, "upgrade", "head")
        alembic(url, "downgrade", "base")
        alembic(url, "upgrade", "head")
    finally:
        with psycopg.connect(postgres.url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} (FORCE)".encode())
            admin.execute("DROP ROLE owner, anon, authenticated, service_role")


@pytest.mark.usefixtures("superuser")
def test_the_worker_role_sees_the_rows_and_a_stranger_does_not(sql: psycopg.Connection) -> None:
    sql.execute("INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a', '1', '{http://a/b}')")
    sql.execute("SET ROLE worker")
    assert sql.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    assert sql.execute("SELECT version_num FROM worker.alembic_version").fetchone() == (database.SCHEMA,)
    assert sql.execute(
        "SELECT count(*) FROM worker.claim_job('w', 'h', '{default}', '', 30, 1)"
    ).fetchone() == (1,)
    assert sql.execute("SELECT running FROM queue_health WHERE shop = 'a'").fetchone() == (1,)
    assert sql.execute("SELECT count(*) FROM worker.attempts").fetchone() == (1,)
    sql.execute("RESET ROLE")
    sql.execute("CREATE ROLE stranger")
    try:
        sql.execute("GRANT SELECT ON jobs TO stranger")
        sql.execute("SET ROLE stranger")
        assert sql.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    finally:
        sql.execute("RESET ROLE")
        sql.execute("REVOKE ALL ON jobs FROM stranger")
        sql.execute("DROP ROLE stranger")


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE TABLE jobs (id int)", "table public.jobs"),
        ("CREATE VIEW jobs AS SELECT 1 AS id", "view public.jobs"),
        ("CREATE TYPE job_status AS ENUM ('pending', 'done')", "type public.job_status"),
        ("CREATE DOMAIN queue_health AS text", "domain public.queue_health"),
        ("CREATE TYPE job_status AS (a int)", "type public.job_status"),
        ("CREATE MATERIALIZED VIEW queue_health AS SELECT 1 AS a", "materialized view public.queue_health"),
        ("CREATE FUNCTION cancel_job(uuid) RETURNS int LANGUAGE sql AS 'SELECT 1'", "function public.cancel_job(uuid)"),
        ("CREATE FUNCTION retry_job(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1'", "function public.retry_job(integer, text)"),
        ("CREATE TABLE mine (a int); CREATE INDEX jobs_started ON mine (a)", "index public.jobs_started"),
        ("CREATE SCHEMA worker; CREATE TABLE worker.shifts (a int)", "schema worker"),
    ],
    ids=lambda value: value if "CREATE" not in value else "",
)  # fmt: skip
def test_what_has_a_name_of_ours_is_named_and_left_as_it_is(
    empty_database: str, made: str, named: str
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as sql:
        sql.execute(made.encode())
        before = catalogue(empty_database)
        with pytest.raises(ConfigError) as refusal:
            migrate.upgrade(database.parse(empty_database, ""))
        line = str(refusal.value)
        assert f": {named}. Nothing" in line
        assert "\n" not in line
        assert catalogue(empty_database) == before
        sql.execute(line.partition("take old jobs over): ")[2].encode())
        migrate.upgrade(database.parse(empty_database, ""))
        insert_jobs(sql)


def test_types_of_the_project_may_have_names_of_ours_in_the_schema_worker(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as sql:
        sql.execute("CREATE TYPE job_state AS ENUM ('open'); CREATE TYPE outcome AS ENUM ('won')")
        migrate.upgrade(database.parse(empty_database, ""))
        insert_jobs(sql)


def test_all_names_that_the_schema_needs_in_public_are_looked_for(sql: psycopg.Connection) -> None:
    made = sql.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname <> 'jobs_pkey'"
        " UNION SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'"
    ).fetchall()
    assert {name for (name,) in made} == set(taken.RELATIONS)
    functions = sql.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    ).fetchall()
    assert {name for (name,) in functions} == set(taken.FUNCTIONS)
