-- What `worker doctor` asks the database. Names without a schema are Postgres's own.

-- name: who
-- The server, the database and our role.
SELECT current_database() AS database, current_user AS role, current_setting('server_version') AS version,
    current_setting('transaction_read_only') = 'on' AS read_only,
    current_setting('synchronous_commit') = 'off' AS forgets;

-- name: backend
-- The server process that runs this.
SELECT pg_backend_pid();

-- name: clock
-- The database's clock, in seconds since 1970.
SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision);

-- name: notify
-- Send a notification.
SELECT pg_notify(:channel, '');

-- name: rights
-- What this role may do with each table, and whether row-level security would hide its rows, which raises no error.
SELECT CAST(wanted.name AS text) AS name, to_regclass(wanted.name) IS NOT NULL AS there,
    ARRAY(SELECT asked.action FROM unnest(CAST(:rights AS text[])) AS asked (action)
          WHERE NOT has_table_privilege(to_regclass(wanted.name), asked.action)) AS lacking,
    row_security_active(to_regclass(wanted.name)) AS hidden,
    ARRAY(SELECT coalesce(pg_get_expr(policy.polqual, policy.polrelid), 'true') FROM pg_policy AS policy
          WHERE policy.polrelid = to_regclass(wanted.name) AND policy.polpermissive
            AND (policy.polcmd = '*' OR policy.polcmd = 'r' AND CAST(:rights AS text[]) = '{SELECT}')
            AND EXISTS (SELECT FROM unnest(policy.polroles) AS held (role)
                        WHERE held.role = 0 OR pg_has_role(current_user, held.role, 'USAGE'))) AS policies
FROM unnest(CAST(:tables AS text[])) AS wanted (name)
