"""A Postgres that looks like Supabase's: its roles, default privileges and publication; `postgres` is no superuser.

As in the init scripts of github.com/supabase/postgres, as far as they concern tables of an app.
"""

import psycopg

from worker.local.postgres import Postgres

ADMIN = "supabase_admin"


def furnish(server: Postgres) -> None:
    """Make `postgres` an ordinary role, and what Supabase adds to each database."""
    with psycopg.connect(server.url(), autocommit=True) as first:
        first.execute(f"CREATE ROLE {ADMIN} SUPERUSER LOGIN PASSWORD '{server.password}'".encode())
    with psycopg.connect(_admin_url(server, "postgres"), autocommit=True) as admin:
        # The first role of a server stays a superuser, so `postgres` becomes another one.
        admin.execute("ALTER ROLE postgres RENAME TO bootstrap")
        admin.execute(
            f"""
            CREATE ROLE postgres LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS PASSWORD '{server.password}';
            CREATE ROLE anon NOINHERIT; CREATE ROLE authenticated NOINHERIT; CREATE ROLE service_role NOINHERIT BYPASSRLS;
            GRANT anon, authenticated, service_role TO postgres;
            GRANT SET ON PARAMETER session_replication_role TO postgres;
            ALTER ROLE postgres SET search_path TO "$user", public, extensions;
        """.encode()
        )
    with psycopg.connect(_admin_url(server, "template1"), autocommit=True) as admin:
        admin.execute("CREATE SCHEMA extensions; CREATE PUBLICATION supabase_realtime")
        admin.execute("ALTER PUBLICATION supabase_realtime OWNER TO postgres")
        admin.execute(
            "GRANT USAGE ON SCHEMA public, extensions TO postgres, anon, authenticated, service_role"
        )
        for role in ("postgres", ADMIN):
            for what in ("TABLES", "FUNCTIONS", "SEQUENCES"):
                admin.execute(
                    f"ALTER DEFAULT PRIVILEGES FOR ROLE {role} IN SCHEMA public"
                    f" GRANT ALL ON {what} TO postgres, anon, authenticated, service_role".encode()
                )


def let_in(server: Postgres) -> None:
    """Let `postgres` act as the role that the migration has made."""
    with psycopg.connect(_admin_url(server, "postgres"), autocommit=True) as admin:
        # Since 16 whoever makes a role is its administrator, without the right to act as it.
        option = "WITH SET TRUE" if admin.info.server_version >= 160_000 else ""
        admin.execute(f"GRANT worker TO postgres {option}".encode())


def _admin_url(server: Postgres, name: str) -> str:
    return server.url(name).replace("//postgres:", f"//{ADMIN}:")
