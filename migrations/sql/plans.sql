-- Plans: what a shop may have at most, by its row in worker.shop_limits. Every upgrade applies this file: migrations/env.py.
-- The claim decides how many of its jobs run at once: worker.shop_has_room() in claim.sql.

-- Refuse new jobs that the plan of their shop does not allow, with the error of a CHECK of the rule's name.
--
-- The row of the day with the quality '' counts the jobs of a shop that has a limit. Inserts of one shop wait for each other
-- there until one commits, so the limit is exact; one that is refused or rolled back has not counted. Once for each statement
-- and not for each row: 5,000 rows would be 5,000 versions of one row. In the order of their names, so that two inserts for
-- the same shops do not wait for each other in a circle. SECURITY DEFINER: who may insert a job needs no right on the tables.
CREATE OR REPLACE FUNCTION worker.keep_plans() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    today CONSTANT date := clock_timestamp() AT TIME ZONE 'UTC';
    inserted record;
    counted int;
BEGIN
    IF NOT EXISTS (SELECT FROM worker.shop_limits) THEN
        RETURN NULL;
    END IF;
    FOR inserted IN
        SELECT plan.shop, plan.jobs_a_day, plan.presets, one.jobs, one.presets AS wanted
        FROM (SELECT shop, count(*)::int AS jobs, array_agg(DISTINCT quality) AS presets FROM fresh GROUP BY shop) AS one
        JOIN worker.shop_limits AS plan USING (shop)
        ORDER BY plan.shop
    LOOP
        IF NOT inserted.wanted <@ inserted.presets THEN
            PERFORM worker.refuse_job('quality_is_in_the_plan_of_the_shop');
        END IF;
        CONTINUE WHEN inserted.jobs_a_day IS NULL;
        UPDATE worker.shop_days AS one SET inserted = one.inserted + inserted.jobs
        WHERE one.shop = inserted.shop AND one.day = today AND one.quality = ''
        RETURNING one.inserted INTO counted;
        IF NOT FOUND THEN
            -- The day's first with a limit: it counts those from before it had one, and its own, which are in the table already.
            INSERT INTO worker.shop_days AS one (shop, day, quality, inserted)
            SELECT inserted.shop, today, '', greatest(inserted.jobs, count(*)) FROM public.jobs AS job
                WHERE job.shop = inserted.shop AND job.created_at >= today::timestamp AT TIME ZONE 'UTC'
            ON CONFLICT (shop, day, quality) DO UPDATE SET inserted = one.inserted + inserted.jobs
            RETURNING one.inserted INTO counted;
        END IF;
        IF counted > inserted.jobs_a_day THEN
            PERFORM worker.refuse_job('jobs_of_the_day_are_in_the_plan_of_the_shop');
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER keep_plans AFTER INSERT ON public.jobs REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION worker.keep_plans();

-- Refuse a preset that the plan does not allow, if a waiting job gets it later.
CREATE OR REPLACE FUNCTION worker.keep_preset() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT FROM worker.shop_limits AS plan WHERE plan.shop = NEW.shop AND NEW.quality <> ALL (plan.presets)) THEN
        PERFORM worker.refuse_job('quality_is_in_the_plan_of_the_shop');
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER keep_preset AFTER UPDATE OF quality, shop ON public.jobs
FOR EACH ROW WHEN ((OLD.quality, OLD.shop) IS DISTINCT FROM (NEW.quality, NEW.shop))
EXECUTE FUNCTION worker.keep_preset();

-- Refuse a plan with presets that there are not, and count what a shop inserted today while it had no limit: keep_plans() counts
-- the table only at the day's first insert with a limit. SECURITY DEFINER: who may write a plan needs no right on the days.
CREATE OR REPLACE FUNCTION worker.keep_limits() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET enable_seqscan = off AS $$
DECLARE
    today CONSTANT date := clock_timestamp() AT TIME ZONE 'UTC';
BEGIN
    -- A null among them is no preset either.
    IF NOT NEW.presets <@ ARRAY['fast', 'balanced', 'quality', 'auto'] THEN
        RAISE check_violation USING SCHEMA = 'worker', TABLE = 'shop_limits',
            CONSTRAINT = 'presets_are_fast_balanced_quality_or_auto',
            MESSAGE = 'new row for relation "shop_limits" violates check constraint "presets_are_fast_balanced_quality_or_auto"';
    END IF;
    IF NEW.jobs_a_day IS NOT NULL THEN
        UPDATE worker.shop_days AS one SET inserted = greatest(one.inserted, (
            SELECT count(*) FROM public.jobs AS job
            WHERE job.shop = NEW.shop AND job.created_at >= today::timestamp AT TIME ZONE 'UTC'))
        WHERE one.shop = NEW.shop AND one.day = today AND one.quality = '';
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER keep_limits AFTER INSERT OR UPDATE ON worker.shop_limits
FOR EACH ROW EXECUTE FUNCTION worker.keep_limits();

-- Raise the error of a CHECK of this name.
CREATE OR REPLACE FUNCTION worker.refuse_job(broken text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
    RAISE check_violation USING SCHEMA = 'public', TABLE = 'jobs', CONSTRAINT = broken,
        MESSAGE = format('new row for relation "jobs" violates check constraint "%s"', broken);
END $$;

-- Write down what the end of an attempt or of a job adds to the usage of its shop. It locks nothing that another job's end
-- needs: worker.fold_usage() adds these rows to the days. worker.write_event() calls it, with the owner's rights: who may cancel
-- a job needs no right on the table. True: see worker.count_in_batch().
CREATE OR REPLACE FUNCTION worker.count_usage(before public.jobs, after public.jobs) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    report jsonb;
BEGIN
    -- An attempt that was released or lost leaves the report of the one before.
    IF before.status = 'processing' AND after.metadata -> 'worker' IS DISTINCT FROM before.metadata -> 'worker' THEN
        report := after.metadata -> 'worker';
    END IF;
    INSERT INTO worker.shop_changes (shop, day, quality, completed, failed, cancelled, cached, device_seconds, cpu_seconds, bytes)
    VALUES (after.shop, now() AT TIME ZONE 'UTC', after.quality, (after.status = 'completed')::int,
        (after.status = 'failed')::int, (after.status = 'cancelled')::int,
        worker.is_cached(after.status, after.metadata)::int,
        CASE WHEN jsonb_typeof(report #> '{seconds,generate}') = 'number'
            THEN least((report #>> '{seconds,generate}')::numeric, 1e12)::float8 ELSE 0 END,
        CASE WHEN report ? 'cpu_seconds' THEN worker.sum_numbers(report -> 'cpu_seconds') ELSE 0 END,
        CASE WHEN after.status = 'completed' AND report ? 'bytes' THEN worker.sum_numbers(report -> 'bytes') ELSE 0 END);
    RETURN true;
END $$;

-- Sum the numbers among an object's values; 0 if there are none. No report may keep a job from its end.
CREATE OR REPLACE FUNCTION worker.sum_numbers(of_object jsonb) RETURNS double precision
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(sum(CASE WHEN jsonb_typeof(value) = 'number' THEN least(value::numeric, 1e12) END), 0)::float8
    FROM jsonb_each(CASE WHEN jsonb_typeof(of_object) = 'object' THEN of_object ELSE '{}' END)
$$;

-- Add up to `most` changes to the days of their shops, and delete them. Returns their number; 0 while another daemon does it.
-- An erasure deletes from both tables in the same order, so that neither waits for the other in a circle.
CREATE OR REPLACE FUNCTION worker.fold_usage(most int) RETURNS int
LANGUAGE plpgsql VOLATILE SET search_path = '' AS $$
DECLARE
    folded int;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('worker fold usage')) THEN
        RETURN 0;
    END IF;
    WITH taken AS (
        DELETE FROM worker.shop_changes WHERE ctid = ANY (ARRAY(SELECT ctid FROM worker.shop_changes LIMIT most)) RETURNING *
    ), added AS (
        INSERT INTO worker.shop_days AS one
            (shop, day, quality, completed, failed, cancelled, cached, device_seconds, cpu_seconds, bytes)
        SELECT shop, day, quality, sum(completed), sum(failed), sum(cancelled), sum(cached), sum(device_seconds),
            sum(cpu_seconds), sum(bytes)
        FROM taken GROUP BY shop, day, quality
        ON CONFLICT (shop, day, quality) DO UPDATE
        SET completed = one.completed + excluded.completed, failed = one.failed + excluded.failed,
            cancelled = one.cancelled + excluded.cancelled, cached = one.cached + excluded.cached,
            device_seconds = one.device_seconds + excluded.device_seconds,
            cpu_seconds = one.cpu_seconds + excluded.cpu_seconds, bytes = one.bytes + excluded.bytes
    )
    SELECT count(*) INTO folded FROM taken;
    RETURN folded;
END $$;

-- Forget what a shop has used, but for the sums: they are added to rows that name no shop, so that the sums of a day over all
-- shops stay what they were. No row that another erasure or a fold needs is locked: what is added goes to the changes. In the
-- order of worker.fold_usage(), so that neither waits for the other in a circle.
CREATE OR REPLACE FUNCTION worker.forget_usage(its_shop text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = '' AS $$
    WITH gone AS (DELETE FROM worker.shop_changes WHERE shop = its_shop RETURNING *)
    INSERT INTO worker.shop_changes (shop, day, quality, completed, failed, cancelled, cached, device_seconds, cpu_seconds, bytes)
    SELECT '', day, quality, sum(completed), sum(failed), sum(cancelled), sum(cached), sum(device_seconds), sum(cpu_seconds),
        sum(bytes)
    FROM gone GROUP BY day, quality;
    WITH gone AS (DELETE FROM worker.shop_days WHERE shop = its_shop RETURNING *)
    INSERT INTO worker.shop_changes (shop, day, quality, completed, failed, cancelled, cached, device_seconds, cpu_seconds, bytes)
    SELECT '', day, quality, completed, failed, cancelled, cached, device_seconds, cpu_seconds, bytes
    FROM gone WHERE quality <> ''
$$;

-- What each shop has used on each day: the sums, and the changes that are not in them yet.
CREATE OR REPLACE VIEW public.shop_usage WITH (security_invoker = true) AS
SELECT shop, day, quality, sum(completed)::int AS completed, sum(failed)::int AS failed, sum(cancelled)::int AS cancelled,
    sum(cached)::int AS cached, (100 * sum(cached) / greatest(1, sum(completed)))::int AS cached_percent,
    sum(device_seconds) AS device_seconds, sum(cpu_seconds) AS cpu_seconds, sum(bytes)::bigint AS bytes
FROM (
    SELECT shop, day, quality, completed, failed, cancelled, cached, device_seconds, cpu_seconds, bytes
    FROM worker.shop_days WHERE quality <> ''
    UNION ALL
    SELECT shop, day, quality, completed, failed, cancelled, cached, device_seconds, cpu_seconds, bytes
    FROM worker.shop_changes
) AS parts
GROUP BY shop, day, quality;

COMMENT ON VIEW public.shop_usage IS
'What each shop has used on each day in UTC, by the quality that its jobs asked for. `cached` are those completed jobs whose result was known before. The shop is empty in the sums of shops that were forgotten.';
