"""Who may see and do what: row-level security, the worker's own role, and Supabase's roles where they exist."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("public.jobs", "worker.outbox", "worker.alembic_version"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute("REVOKE ALL ON FUNCTION public.cancel_job, public.retry_job FROM PUBLIC")

    # A least-privileged role for the daemon: ALTER ROLE worker LOGIN PASSWORD '…'. Roles belong to the whole
    # server, so one may exist already, and not everybody who may migrate may make one.
    op.execute("""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'worker') THEN
                CREATE ROLE worker NOLOGIN;
            END IF;
        EXCEPTION
            WHEN insufficient_privilege THEN
                RAISE WARNING 'the role "worker" was not made, for want of CREATEROLE; the daemon may run as this role';
            WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another database's migration made it at this moment
        END $$
    """)
    _if_role_exists(
        "worker",
        "GRANT USAGE ON SCHEMA worker TO worker",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON public.jobs, worker.outbox TO worker",
        "GRANT SELECT ON worker.alembic_version TO worker",
        "GRANT EXECUTE ON FUNCTION public.cancel_job, public.retry_job TO worker",
        "CREATE POLICY worker_sees_all ON public.jobs TO worker USING (true) WITH CHECK (true)",
        "CREATE POLICY worker_sees_all ON worker.outbox TO worker USING (true) WITH CHECK (true)",
        "CREATE POLICY worker_sees_all ON worker.alembic_version FOR SELECT TO worker USING (true)",
    )
    _if_role_exists(
        "service_role",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON public.jobs TO service_role",
        "GRANT EXECUTE ON FUNCTION public.cancel_job, public.retry_job TO service_role",
    )
    # Supabase grants new tables to these two. They may read what a policy of the app shows them, and write nothing.
    for role in ("anon", "authenticated"):
        _if_role_exists(
            role,
            f"REVOKE ALL ON public.jobs FROM {role}",
            f"GRANT SELECT ON public.jobs TO {role}",
            f"REVOKE ALL ON FUNCTION public.cancel_job, public.retry_job FROM {role}",
        )

    op.execute("""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_publication WHERE pubname = 'supabase_realtime' AND NOT puballtables)
               AND NOT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = 'supabase_realtime'
                               AND schemaname = 'public' AND tablename = 'jobs') THEN
                ALTER PUBLICATION supabase_realtime ADD TABLE public.jobs;
            END IF;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE WARNING 'public.jobs was not added to supabase_realtime: run this as the publication''s owner';
        END $$
    """)


def downgrade() -> None:
    op.execute("""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_publication_tables WHERE pubname = 'supabase_realtime'
                       AND schemaname = 'public' AND tablename = 'jobs'
                       AND NOT (SELECT puballtables FROM pg_publication WHERE pubname = 'supabase_realtime')) THEN
                ALTER PUBLICATION supabase_realtime DROP TABLE public.jobs;
            END IF;
        END $$
    """)
    # The role stays: it may be in use by another database of this server.
    _if_role_exists(
        "worker",
        "DROP POLICY IF EXISTS worker_sees_all ON public.jobs",
        "DROP POLICY IF EXISTS worker_sees_all ON worker.outbox",
        "DROP POLICY IF EXISTS worker_sees_all ON worker.alembic_version",
        "REVOKE ALL ON public.jobs, worker.outbox, worker.alembic_version FROM worker",
        "REVOKE ALL ON FUNCTION public.cancel_job, public.retry_job FROM worker",
        "REVOKE ALL ON SCHEMA worker FROM worker",
    )
    for table in ("public.jobs", "worker.outbox", "worker.alembic_version"):
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")


def _if_role_exists(role: str, *statements: str) -> None:
    body = "; ".join(statements)
    op.execute(f"""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN {body}; END IF;
        END $$
    """)
