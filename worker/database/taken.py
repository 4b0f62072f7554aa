"""Finds what a project already has under the names that the schema needs."""

import sqlalchemy as sa

from worker.core.settings import ConfigError

# What revisions and migrations/sql/ make in `public`; a test holds these against a migrated database.
RELATIONS = (
    "jobs", "job_status", "queue_health", "batch_status", "shop_usage", "dedupe_key_is_unique_among_the_shop_s_unfinished_jobs",
    "jobs_batch", "jobs_cancelled", "jobs_due", "jobs_ended", "jobs_error", "jobs_failed", "jobs_one_running_a_path",
    "jobs_pending", "jobs_product", "jobs_reviewed", "jobs_shop", "jobs_start_by", "jobs_started", "jobs_waiting",
    "jobs_waiting_path", "jobs_waiting_product",
)  # fmt: skip
FUNCTIONS = (
    "approve_job", "cancel_batch", "cancel_job", "forget_product", "forget_shop", "pause_host", "publish_version", "reject_job",
    "resume_host", "retry_batch", "retry_job", "set_batch_priority",
)  # fmt: skip

# Each with the statement that renames it. A table's row type has the table's name and goes with it; an enum stands alone.
_FIND = sa.text("""
    SELECT kind || ' ' || identity AS thing, format('ALTER %s %s RENAME TO %I;', upper(kind), identity, name || '_before') AS fix
    FROM (
        SELECT CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index' WHEN 'I' THEN 'index'
                    WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'table' END AS kind,
            format('public.%I', relname) AS identity, relname AS name
        FROM pg_class WHERE relnamespace = to_regnamespace('public') AND relname = ANY (:relations)
        UNION ALL
        SELECT CASE typtype WHEN 'd' THEN 'domain' ELSE 'type' END, format('public.%I', typname), typname
        FROM pg_type WHERE typnamespace = to_regnamespace('public') AND typname = ANY (:relations) AND typrelid = 0
        UNION ALL
        SELECT 'function', format('public.%I(%s)', proname, oidvectortypes(proargtypes)), proname
        FROM pg_proc WHERE pronamespace = to_regnamespace('public') AND proname = ANY (:functions)
        UNION ALL
        SELECT 'schema', 'worker', 'worker'
        WHERE EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('worker') AND relname NOT LIKE 'alembic_version%')
            OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace('worker'))
            OR EXISTS (SELECT FROM pg_type WHERE typnamespace = to_regnamespace('worker')
                       AND typname NOT IN ('alembic_version', '_alembic_version'))
    ) AS found
    ORDER BY kind, identity
""")


def check_names(connection: sa.Connection) -> None:
    """Raises: ConfigError with what is in the way and the statements that rename it. For a database without our tables."""
    found = connection.execute(_FIND, {"relations": list(RELATIONS), "functions": list(FUNCTIONS)}).all()
    if found:
        things, fixes = ", ".join(row.thing for row in found), " ".join(row.fix for row in found)
        raise ConfigError(
            f"The project already has what the schema needs the name of: {things}. Nothing was changed. Rename it, then run "
            f"worker migrate again (docs/deployment.md tells how to take old jobs over): {fixes}"
        )
