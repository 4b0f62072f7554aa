-- Plans: what a shop may have at most, by its row in worker.shop_limits. Every upgrade applies this file: migrations/env.py.
-- How many of its jobs run at once is a matter of the claim: worker.shop_has_room() in claim.sql.

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

-- Raise the error of a CHECK of this name.
CREATE OR REPLACE FUNCTION worker.refuse_job(broken text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
    RAISE check_violation USING SCHEMA = 'public', TABLE = 'jobs', CONSTRAINT = broken,
        MESSAGE = format('new row for relation "jobs" violates check constraint "%s"', broken);
END $$;
