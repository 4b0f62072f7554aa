-- Who may see and do what: the daemon's role, and Supabase's roles where they exist. Row-level security is on for all
-- tables. Every upgrade applies this file (migrations/env.py): what it grants and revokes holds again afterwards, and the
-- owner's grants to other roles stay.

REVOKE ALL ON FUNCTION public.cancel_job, public.retry_job, public.approve_job, public.reject_job, public.publish_version,
    public.pause_host, public.resume_host FROM PUBLIC;
REVOKE ALL ON FUNCTION public.forget_shop, public.forget_product FROM PUBLIC;
REVOKE ALL ON FUNCTION public.cancel_batch, public.retry_batch, public.set_batch_priority FROM PUBLIC;

-- Every role may call only what runs with the rights of whoever writes a row or reads job_status.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA worker FROM PUBLIC;
GRANT EXECUTE ON FUNCTION worker.check_job_rules, worker.storage_path, worker.first_in_line, worker.is_published,
    worker.estimated_start, worker.estimated_seconds, worker.estimated_end, worker.estimated_batch_end TO PUBLIC;

DO $$
DECLARE
    found text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'worker') THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA worker TO worker;
    GRANT SELECT, INSERT, UPDATE, DELETE ON public.jobs, worker.outbox, worker.attempts, worker.hosts, worker.superseded,
        worker.versions, worker.published, worker.erasures, worker.batches, worker.batch_changes, worker.shop_limits,
        worker.shop_days, worker.shop_changes, worker.search, worker.history, worker.measured_seconds, worker.forecasts,
        worker.batch_forecasts TO worker;
    GRANT SELECT ON worker.alembic_version, public.job_status, public.queue_health, public.batch_status, public.shop_usage TO worker;
    GRANT EXECUTE ON FUNCTION public.cancel_job, public.retry_job, public.approve_job, public.reject_job, public.publish_version,
        public.pause_host, public.resume_host TO worker;
    GRANT EXECUTE ON FUNCTION public.forget_shop, public.forget_product TO worker;
    GRANT EXECUTE ON FUNCTION public.cancel_batch, public.retry_batch, public.set_batch_priority TO worker;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA worker TO worker;
    -- Made only where they are missing: to make a policy anew would lock its table against readers too.
    FOR found IN
        SELECT wanted FROM unnest(ARRAY['public.jobs', 'worker.outbox', 'worker.attempts', 'worker.hosts', 'worker.superseded',
            'worker.versions', 'worker.published', 'worker.erasures', 'worker.batches', 'worker.batch_changes',
            'worker.shop_limits', 'worker.shop_days', 'worker.shop_changes', 'worker.measured_seconds', 'worker.forecasts',
            'worker.batch_forecasts', 'worker.search', 'worker.history']) AS wanted
        WHERE NOT EXISTS (
            SELECT FROM pg_policy WHERE polrelid = wanted::regclass AND polname = 'worker_sees_all')
    LOOP
        EXECUTE format('CREATE POLICY worker_sees_all ON %s TO worker USING (true) WITH CHECK (true)', found);
    END LOOP;
    IF NOT EXISTS (
        SELECT FROM pg_policy WHERE polrelid = 'worker.alembic_version'::regclass AND polname = 'worker_sees_all') THEN
        CREATE POLICY worker_sees_all ON worker.alembic_version FOR SELECT TO worker USING (true);
    END IF;
END $$;

DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'service_role') THEN
        RETURN;
    END IF;
    REVOKE ALL ON public.job_status, public.queue_health, public.batch_status, public.shop_usage FROM service_role;
    GRANT SELECT ON public.job_status, public.queue_health, public.batch_status, public.shop_usage TO service_role;
    GRANT SELECT ON worker.batches, worker.batch_changes TO service_role;  -- for batch_status
    GRANT SELECT ON worker.shop_days, worker.shop_changes TO service_role;  -- for shop_usage
    GRANT SELECT, INSERT, UPDATE, DELETE ON public.jobs TO service_role;
    GRANT EXECUTE ON FUNCTION public.cancel_job, public.retry_job, public.approve_job, public.reject_job, public.publish_version,
        public.pause_host, public.resume_host TO service_role;
    GRANT EXECUTE ON FUNCTION public.forget_shop, public.forget_product TO service_role;
    GRANT EXECUTE ON FUNCTION public.cancel_batch, public.retry_batch, public.set_batch_priority TO service_role;
    GRANT EXECUTE ON FUNCTION worker.served_lines TO service_role;  -- for queue_health
END $$;

-- The type of `status` lies in the schema `worker`. PostgREST names it in what it writes, Realtime in its filters, each as the
-- role that asks, which must be able to see it there. It may read none of the tables.
DO $$
DECLARE
    found name;
BEGIN
    FOR found IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated', 'service_role') LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA worker TO %I', found);
    END LOOP;
END $$;

-- Supabase grants all on new tables, views and functions to these two. They may read in the table what a policy of the app
-- shows them, and write nothing.
DO $$
DECLARE
    found name;
BEGIN
    FOR found IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON public.jobs, public.job_status, public.queue_health, public.batch_status, '
            'public.shop_usage FROM %I', found);
        EXECUTE format('GRANT SELECT ON public.jobs TO %I', found);
        EXECUTE format('REVOKE ALL ON FUNCTION public.cancel_job, public.retry_job, public.approve_job, public.reject_job, '
            'public.publish_version, public.pause_host, public.resume_host FROM %I', found);
        EXECUTE format('REVOKE ALL ON FUNCTION public.forget_shop, public.forget_product FROM %I', found);
        EXECUTE format('REVOKE ALL ON FUNCTION public.cancel_batch, public.retry_batch, public.set_batch_priority FROM %I', found);
    END LOOP;
END $$;
