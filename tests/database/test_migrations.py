"""The schema goes up, down and up again, on plain Postgres and on one that looks like Supabase's."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from worker import database
from worker.core.settings import ConfigError
from worker.database import migrate
from worker.local.postgres import Postgres

ROOT = Path(__file__).parents[2]


def alembic(url: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": url},
        check=True,
    )


def relations(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('public', 'worker')"
            " UNION SELECT n.nspname || '.' || p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace"
            " WHERE nspname IN ('public', 'worker')"
        )
        return {row[0] for row in rows}


def test_up_down_and_up_again_with_alembic(empty_database: str) -> None:
    alembic(empty_database, "upgrade", "head")
    first = relations(empty_database)
    alembic(empty_database, "downgrade", "base")
    assert relations(empty_database) == {"worker.alembic_version"}
    alembic(empty_database, "upgrade", "head")
    assert relations(empty_database) == first
    assert {"public.jobs", "worker.outbox", "public.retry_job", "public.cancel_job"} <= first
    assert {"worker.attempts", "worker.claim_job"} <= first


def test_up_down_and_up_again_with_jobs_in_the_table(empty_database: str) -> None:
    """From before the rule that two jobs of one product never run at once, with two that do."""
    target = database.parse(empty_database, "")
    migrate.upgrade(target, "0003")
    functions = (
        "SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'worker'::regnamespace"
    )
    with psycopg.connect(empty_database, autocommit=True) as connection:
        before: dict[str, str] = dict(connection.execute(functions).fetchall())
        connection.execute("""
            INSERT INTO jobs (shop, product_id, image_urls, status, progress, attempts, started_at, lease_token,
                lease_expires_at, claimed_by, completed_at, model_url)
            SELECT 'a', product, '{http://a/b}', status::job_status, progress, 1, now(),
                CASE status WHEN 'processing' THEN gen_random_uuid() END,
                CASE status WHEN 'processing' THEN now() END, CASE status WHEN 'processing' THEN 'w' END,
                CASE status WHEN 'completed' THEN now() END, CASE status WHEN 'completed' THEN 'x' END
            FROM (VALUES ('1', 'processing', 40), ('gid://shopify/Product/1', 'processing', 10),
                         ('2', 'processing', 5), ('3', 'pending', 0), ('4', 'completed', 100))
                AS jobs (product, status, progress)""")
        for _ in range(2):
            migrate.upgrade(target)
            rows = connection.execute(
                "SELECT product_id, status::text, attempts, queued_at = created_at FROM jobs"
                " WHERE completed_at IS NULL ORDER BY created_at"
            )
            assert rows.fetchall() == [
                ("1", "processing", 1, True),
                ("gid://shopify/Product/1", "pending", 0, True),
                ("2", "processing", 1, True),
                ("3", "pending", 1, True),
            ]
            connection.execute("SELECT count(*) FROM job_status")
            alembic(empty_database, "downgrade", "0003")
            assert dict(connection.execute(functions).fetchall()) == before


def test_a_backup_can_be_restored(
    postgres: Postgres, sql: psycopg.Connection, empty_database: str, tmp_path: Path
) -> None:
    """The rules are a CHECK that calls a function of the table's own row: pg_dump must order them well."""
    sql.execute("INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a', '1', '{http://a/b}')")
    sql.execute("SELECT worker.claim_job('w', 'h', 30, NULL)")
    backup = tmp_path / "backup"
    source = postgres.url(sql.info.dbname)
    subprocess.run([postgres.binaries / "pg_dump", "--format=custom", "--file", backup, source], check=True)
    subprocess.run(
        [postgres.binaries / "pg_restore", "--exit-on-error", "--dbname", empty_database, backup], check=True
    )
    with psycopg.connect(empty_database, autocommit=True) as restored:
        for table in (b"jobs", b"worker.outbox", b"worker.attempts"):
            rows = b"SELECT * FROM " + table
            assert restored.execute(rows).fetchall() == sql.execute(rows).fetchall() != []
        with pytest.raises(psycopg.errors.CheckViolation, match="quality_is_fast_balanced_or_quality"):
            restored.execute("UPDATE jobs SET quality = 'ultra'")


def test_worker_migrate_does_the_same(empty_database: str, database_url: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "worker", "migrate"],
        env=os.environ | {"DATABASE_URL": empty_database},
        cwd="/",
        check=True,
    )
    assert relations(empty_database) == relations(database_url)


def test_the_code_expects_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [database.SCHEMA]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ("0001", "older.*worker migrate"),
        ("9999", "newer.*downgrade"),
        (None, "no jobs table.*worker migrate"),
    ],
)
def test_a_schema_that_does_not_fit_is_named_with_the_command(
    empty_database: str, found: str | None, says: str
) -> None:
    if found:
        migrate.upgrade(database.parse(empty_database, ""))
        with psycopg.connect(empty_database) as connection:
            connection.execute("UPDATE worker.alembic_version SET version_num = %s", [found])
    engine = database.connect(database.parse(empty_database, ""))
    with pytest.raises(ConfigError, match=says):
        database.check_schema(engine)
    engine.dispose()


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
            published = admin.execute("SELECT tablename FROM pg_publication_tables").fetchall()
            assert published == [("jobs",)]

            admin.execute("SET ROLE service_role")
            admin.execute("INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a', '1', '{http://a/b}')")
            assert admin.execute("SELECT cancel_job(id) FROM jobs").fetchone() == (True,)
            assert admin.execute("SELECT status::text FROM jobs").fetchone() == ("cancelled",)
            assert admin.execute("SELECT retry_job(id) FROM jobs").fetchone() == (True,)

            assert admin.execute("SELECT pending FROM queue_health WHERE shop = 'a'").fetchone() == (1,)
            assert admin.execute("SELECT position FROM job_status").fetchone() == (1,)

            for user in (b"anon", b"authenticated"):
                admin.execute(b"SET ROLE " + user)
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    admin.execute("SELECT count(*) FROM job_status")
                assert admin.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    admin.execute(
                        "INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a', '1', '{http://a/b}')"
                    )
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    admin.execute("SELECT cancel_job(gen_random_uuid())")
            admin.execute("RESET ROLE")
        alembic(url, "downgrade", "base")
        alembic(url, "upgrade", "head")
    finally:
        with psycopg.connect(postgres.url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} (FORCE)".encode())
            admin.execute("DROP ROLE owner, anon, authenticated, service_role")


def test_the_worker_role_sees_the_rows_and_a_stranger_does_not(sql: psycopg.Connection) -> None:
    sql.execute("INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a', '1', '{http://a/b}')")
    sql.execute("SET ROLE worker")
    assert sql.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    assert sql.execute("SELECT version_num FROM worker.alembic_version").fetchone() == (database.SCHEMA,)
    assert sql.execute("SELECT count(*) FROM worker.claim_job('w', 'h', 30, 1)").fetchone() == (1,)
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
