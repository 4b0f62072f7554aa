-- Drop all that the other files make, with the triggers and the constraint that call it, so that the tables can go back to
-- an earlier revision: migrations/env.py. The schema `worker` is ours alone; what is in `public` is named here.

DROP VIEW IF EXISTS public.job_status, public.queue_health, public.batch_status, public.shop_usage, worker.demand;
DROP FUNCTION IF EXISTS public.cancel_job, public.retry_job, public.approve_job, public.reject_job, public.publish_version,
    public.pause_host, public.resume_host;
DROP FUNCTION IF EXISTS public.forget_shop, public.forget_product;
DROP FUNCTION IF EXISTS public.cancel_batch, public.retry_batch, public.set_batch_priority;

-- storage_path() belongs to the tables, because indexes hold its results: migrations/versions/0102_queue.py.
DO $$
DECLARE
    found regprocedure;
BEGIN
    FOR found IN
        SELECT oid FROM pg_proc WHERE pronamespace = 'worker'::regnamespace AND proname <> 'storage_path'
    LOOP
        EXECUTE format('DROP FUNCTION %s CASCADE', found);
    END LOOP;
END $$;
