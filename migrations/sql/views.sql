-- The queue for people. Every upgrade applies this file: migrations/env.py. Views are replaced, not dropped, so that the
-- owner's own grants on them stay; a revision drops one first whose columns are to change otherwise than by new ones at
-- the end.

CREATE OR REPLACE VIEW public.job_status WITH (security_invoker = true) AS
WITH lap AS (
    SELECT id, pool, priority, shop,
        row_number() OVER (PARTITION BY pool, priority, shop ORDER BY run_after, created_at) AS lap
    FROM public.jobs WHERE status = 'pending'
), line AS (
    SELECT id, row_number() OVER (PARTITION BY pool ORDER BY priority DESC, lap, shop) AS position FROM lap
), pace AS (
    -- A row that was inserted as completed may say anything; thousands of years times a position is no interval any more.
    SELECT avg(least(greatest(took, '0'), '1 h')) AS a_job FROM (
        SELECT completed_at - started_at AS took FROM public.jobs
        WHERE status = 'completed' AND completed_at IS NOT NULL ORDER BY completed_at DESC LIMIT 50) AS latest
), running AS (
    SELECT count(*) AS jobs FROM public.jobs WHERE status = 'processing'
)
SELECT job.id, job.shop, job.product_id, job.variant_id, job.status::text AS status, job.progress, job.stage,
    line.position,
    CASE WHEN job.status = 'pending' THEN greatest(
        line.position * pace.a_job / greatest(1, running.jobs), job.run_after - now(), interval '0')
    END AS estimated_wait,
    job.priority, job.attempts, job.max_attempts, job.run_after, job.queued_at, job.started_at, job.completed_at,
    job.claimed_by, job.cancel_requested_at, job.model_url, job.error_code, job.error_message, job.pool, job.engine
FROM public.jobs AS job LEFT JOIN line USING (id) CROSS JOIN pace CROSS JOIN running;

COMMENT ON VIEW public.job_status IS
'Jobs for people: how far, and for those that wait their position in the queue of their pool and about how long it will take.';

CREATE OR REPLACE VIEW public.queue_health WITH (security_invoker = true) AS
WITH taken AS MATERIALIZED (
    SELECT DISTINCT unnest(pools) AS pool, engine FROM worker.live_hosts() WHERE paused_at IS NULL
)
SELECT shop,
    count(*) FILTER (WHERE status = 'pending') AS pending,
    count(*) FILTER (WHERE status = 'pending' AND run_after <= now()) AS due,
    now() - min(greatest(queued_at, run_after)) FILTER (WHERE status = 'pending' AND run_after <= now())
        AS oldest_has_waited,
    count(*) FILTER (WHERE status = 'processing') AS running,
    count(*) FILTER (WHERE status = 'processing' AND lease_expires_at < now() - interval '5 s') AS stuck,
    count(*) FILTER (WHERE status = 'completed') AS completed_last_hour,
    count(*) FILTER (WHERE status = 'failed') AS failed_last_hour,
    count(*) FILTER (WHERE status = 'pending' AND run_after <= now() AND NOT EXISTS (
        SELECT FROM taken WHERE taken.pool = lately.pool AND coalesce(lately.engine, taken.engine) = taken.engine)
    ) AS unserved
FROM (
    -- Three indexes, so that it costs what is going on and not what has been.
    SELECT shop, status, pool, engine, queued_at, run_after, lease_expires_at FROM public.jobs WHERE status = 'pending'
    UNION ALL
    SELECT shop, status, pool, engine, queued_at, run_after, lease_expires_at FROM public.jobs
    WHERE status = 'processing'
    UNION ALL
    SELECT shop, status, pool, engine, queued_at, run_after, lease_expires_at FROM public.jobs
    WHERE completed_at > now() - interval '1 h'
) AS lately
GROUP BY GROUPING SETS ((shop), ());

COMMENT ON VIEW public.queue_health IS
'The queue at a glance, by shop; the line without a shop is the sum. `unserved` are due jobs that no running host can take.';
