-- The queue for people. Every upgrade applies this file: migrations/env.py. Views are replaced, not dropped, so that the
-- owner's own grants on them stay; a revision drops one first whose columns are to change otherwise than by new ones at
-- the end.

-- Return the first waiting jobs of each pool, `most` of them, in the order in which they are claimed if all take as long: the
-- highest priority first, and within it shop by shop. It reads no more of the index jobs_waiting than that, so the cost does
-- not depend on the backlog.
CREATE OR REPLACE FUNCTION worker.first_in_line(most int) RETURNS TABLE (job_id uuid, place bigint)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_sort = off SET enable_incremental_sort = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    in_pool text := '';
    by_engine text;
    level int;
    shops text[];
    deep int;
    more int;
    found_ids uuid[];
    ids uuid[];
    levels int[];
    laps int[];
    of_shops text[];
    found_laps int[];
    found_shops text[];
    found int;
BEGIN
    LOOP
        in_pool := (
            SELECT job.pool FROM public.jobs AS job WHERE job.status = 'pending' AND job.pool > in_pool
            ORDER BY job.pool, coalesce(job.engine, ''), job.priority DESC, job.shop, job.run_after, job.created_at LIMIT 1);
        EXIT WHEN in_pool IS NULL;
        ids := '{}';
        levels := '{}';
        laps := '{}';
        of_shops := '{}';
        by_engine := '';
        LOOP
            EXIT WHEN by_engine IS NULL;
            level := 32768;
            more := most;
            WHILE more > 0 LOOP
                level := (
                    SELECT job.priority FROM public.jobs AS job
                    WHERE job.status = 'pending' AND job.pool = in_pool AND coalesce(job.engine, '') = by_engine
                      AND job.priority < level
                    ORDER BY job.pool, coalesce(job.engine, ''), job.priority DESC, job.shop, job.run_after, job.created_at
                    LIMIT 1);
                EXIT WHEN level IS NULL;
                shops := ARRAY(
                    WITH RECURSIVE each AS (
                        (SELECT job.shop FROM public.jobs AS job
                         WHERE job.status = 'pending' AND job.pool = in_pool AND coalesce(job.engine, '') = by_engine
                           AND job.priority = level
                         ORDER BY job.pool, coalesce(job.engine, ''), job.priority DESC, job.shop, job.run_after, job.created_at
                         LIMIT 1)
                        UNION ALL
                        SELECT next.shop FROM each CROSS JOIN LATERAL (
                            SELECT job.shop FROM public.jobs AS job
                            WHERE job.status = 'pending' AND job.pool = in_pool AND coalesce(job.engine, '') = by_engine
                              AND job.priority = level AND job.shop > each.shop
                            ORDER BY job.pool, coalesce(job.engine, ''), job.priority DESC, job.shop, job.run_after, job.created_at
                            LIMIT 1) AS next
                    )
                    SELECT each.shop FROM each LIMIT more);
                deep := 1 + more / cardinality(shops);
                found := -1;
                LOOP
                    SELECT array_agg(one.id), array_agg(one.lap), array_agg(of.shop) INTO found_ids, found_laps, found_shops
                    FROM unnest(shops) AS of (shop) CROSS JOIN LATERAL (
                        SELECT mine.id, row_number() OVER ()::int AS lap FROM (
                            SELECT job.id FROM public.jobs AS job
                            WHERE job.status = 'pending' AND job.pool = in_pool AND coalesce(job.engine, '') = by_engine
                              AND job.priority = level AND job.shop = of.shop
                            ORDER BY job.pool, coalesce(job.engine, ''), job.priority DESC, job.shop, job.run_after, job.created_at
                            LIMIT deep) AS mine) AS one;
                    -- Enough, or all there are: a shop with many jobs may stand beside shops with few.
                    EXIT WHEN cardinality(found_ids) >= more OR cardinality(found_ids) = found;
                    found := cardinality(found_ids);
                    deep := deep * 4;
                END LOOP;
                ids := ids || found_ids;
                levels := levels || array_fill(level, ARRAY[cardinality(found_ids)]);
                laps := laps || found_laps;
                of_shops := of_shops || found_shops;
                more := more - cardinality(found_ids);
            END LOOP;
            by_engine := (
                SELECT coalesce(job.engine, '') FROM public.jobs AS job
                WHERE job.status = 'pending' AND job.pool = in_pool AND coalesce(job.engine, '') > by_engine
                ORDER BY job.pool, coalesce(job.engine, ''), job.priority DESC, job.shop, job.run_after, job.created_at LIMIT 1);
        END LOOP;
        RETURN QUERY
            SELECT one.id, row_number() OVER (ORDER BY one.level DESC, one.lap, one.shop, one.n)
            FROM unnest(ids, levels, laps, of_shops) WITH ORDINALITY AS one (id, level, lap, shop, n)
            ORDER BY one.level DESC, one.lap, one.shop, one.n LIMIT most;
    END LOOP;
END $$;

-- Return the pools and engines for which jobs wait, each with the time since when the job that was due first has waited. It goes
-- from one to the next along the index jobs_due. A job whose run_after is older than the job itself comes before jobs that wait
-- longer, so the first 50 are looked at.
CREATE OR REPLACE FUNCTION worker.waiting_lines() RETURNS TABLE (pool text, engine text, first_due timestamptz, waits_since timestamptz)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_sort = off SET enable_bitmapscan = off SET jit = off AS $$
#variable_conflict use_variable
DECLARE
    last_pool text := '';
    last_engine text := '';
BEGIN
    LOOP
        SELECT job.pool, coalesce(job.engine, ''), job.run_after INTO last_pool, last_engine, first_due FROM public.jobs AS job
        WHERE job.status = 'pending' AND (job.pool, coalesce(job.engine, '')) > (last_pool, last_engine)
        ORDER BY job.pool, coalesce(job.engine, ''), job.run_after LIMIT 1;
        EXIT WHEN NOT FOUND;
        pool := last_pool;
        engine := nullif(last_engine, '');
        waits_since := (
            SELECT min(greatest(job.queued_at, job.run_after)) FROM (
                SELECT one.queued_at, one.run_after FROM public.jobs AS one
                WHERE one.status = 'pending' AND one.pool = last_pool AND coalesce(one.engine, '') = last_engine
                ORDER BY one.pool, coalesce(one.engine, ''), one.run_after LIMIT 50) AS job);
        RETURN NEXT;
    END LOOP;
END $$;

-- Return the pools and engines of due jobs that no running host can take, and how many.
CREATE OR REPLACE FUNCTION worker.unserved_lines() RETURNS TABLE (pool text, engine text, jobs bigint)
LANGUAGE sql STABLE SET enable_seqscan = off AS $$
    SELECT line.pool, line.engine, (
        SELECT count(*) FROM public.jobs AS job
        WHERE job.status = 'pending' AND job.pool = line.pool AND coalesce(job.engine, '') = coalesce(line.engine, '')
          AND job.run_after <= now())
    FROM worker.waiting_lines() AS line
    WHERE line.first_due <= now() AND NOT EXISTS (
        SELECT FROM worker.served_lines() AS taken
        WHERE taken.pool = line.pool AND coalesce(line.engine, taken.engine) = taken.engine)
$$;

-- Return if a version is the published one of its path. SECURITY DEFINER: who reads job_status needs no right on the table.
CREATE OR REPLACE FUNCTION worker.is_published(its_path text, its_digest text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT EXISTS (SELECT FROM worker.published AS one WHERE one.path = its_path AND one.digest = its_digest)
$$;

CREATE OR REPLACE VIEW public.job_status WITH (security_invoker = true) AS
WITH line AS (
    SELECT job_id AS id, place AS position FROM worker.first_in_line(500)
)
SELECT job.id, job.shop, job.product_id, job.variant_id, job.status::text AS status, job.progress, job.stage,
    line.position,
    CASE WHEN job.status = 'pending' THEN worker.estimated_start(
        job.pool, job.engine, job.priority, job.shop, job.run_after, job.created_at) - now()
    END AS estimated_wait,
    job.priority, job.attempts, job.max_attempts, job.run_after, job.queued_at, job.started_at, job.completed_at,
    job.claimed_by, job.cancel_requested_at, job.model_url, job.error_code, job.error_message, job.pool, job.engine,
    job.review, job.version,
    worker.is_published(worker.storage_path(job.shop, job.product_id, job.variant_id), job.version) AS published,
    CASE WHEN job.status = 'pending' THEN worker.estimated_start(
        job.pool, job.engine, job.priority, job.shop, job.run_after, job.created_at)
    END AS estimated_start,
    CASE WHEN job.completed_at IS NULL THEN worker.estimated_end(
        job.pool, job.engine, job.priority, job.shop, job.quality, job.run_after, job.created_at,
        CASE WHEN job.status = 'processing' THEN job.started_at END)
    END AS estimated_end
FROM public.jobs AS job LEFT JOIN line USING (id);

COMMENT ON VIEW public.job_status IS
'Jobs for people: how far, when the unfinished ones will start and end as far as that is known, and for those that wait their position among the first 500 of their pool.';

CREATE OR REPLACE VIEW public.queue_health WITH (security_invoker = true) AS
WITH taken AS MATERIALIZED (
    SELECT pool, engine FROM worker.served_lines()
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
    ) AS unserved,
    count(*) FILTER (WHERE to_review) AS to_review
FROM (
    -- Four indexes, so that it costs what is going on and not what has been.
    SELECT shop, status, pool, engine, queued_at, run_after, lease_expires_at, false AS to_review FROM public.jobs
    WHERE status = 'pending'
    UNION ALL
    SELECT shop, status, pool, engine, queued_at, run_after, lease_expires_at, false FROM public.jobs
    WHERE status = 'processing'
    UNION ALL
    SELECT shop, status, pool, engine, queued_at, run_after, lease_expires_at, false FROM public.jobs
    WHERE completed_at > now() - interval '1 h'
    UNION ALL  -- without a status, because it may be among the latest too
    SELECT shop, NULL, NULL, NULL, NULL, NULL, NULL, true FROM public.jobs WHERE review = 'wanted'
) AS lately
GROUP BY GROUPING SETS ((shop), ());

COMMENT ON VIEW public.queue_health IS
'The queue at a glance, by shop; the line without a shop is the sum. `unserved` are due jobs that no running host can take, `to_review` models that wait for a person.';

-- With its owner's rights, so that a role for an autoscaler needs to read nothing else: docs/kubernetes.md.
CREATE OR REPLACE VIEW worker.demand AS
SELECT pool, count(*) FILTER (WHERE status = 'pending') AS due, count(*) FILTER (WHERE status = 'processing') AS running
FROM (
    SELECT pool, status FROM public.jobs WHERE status = 'pending' AND run_after <= now()
    UNION ALL
    SELECT pool, status FROM public.jobs WHERE status = 'processing'
) AS wanted
GROUP BY pool;

COMMENT ON VIEW worker.demand IS 'The jobs that want a lane now, by pool: due and running. For an autoscaler.';
