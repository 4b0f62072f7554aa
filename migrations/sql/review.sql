-- The functions with which people decide what is published. Every upgrade applies this file: migrations/env.py.
--
-- SECURITY DEFINER: a backend that may decide needs no right on the tables of versions. search_path is fixed, and has `public`
-- for the app's own triggers on the jobs, which may name their tables without a schema. Each function restores the key of
-- the guard (jobs.sql) for the rest of the caller's transaction.

-- Return a job's metadata with what was decided, and why.
CREATE OR REPLACE FUNCTION worker.with_review(metadata jsonb, review text, reason text) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT with_review.metadata || jsonb_build_object('worker',
        CASE WHEN jsonb_typeof(with_review.metadata -> 'worker') = 'object'
            THEN (with_review.metadata -> 'worker') - '{review,review_reason}'::text[] ELSE '{}' END
        || jsonb_strip_nulls(jsonb_build_object('review', with_review.review, 'review_reason', left(with_review.reason, 2000))))
$$;

CREATE OR REPLACE FUNCTION public.approve_job(job_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    key CONSTANT text := coalesce(current_setting('worker.lease', true), '');
    job public.jobs;
    its_path text;
BEGIN
    SELECT * INTO job FROM public.jobs WHERE id = job_id AND review IN ('wanted', 'rejected') FOR NO KEY UPDATE;
    its_path := worker.storage_path(job.shop, job.product_id, job.variant_id);
    IF NOT FOUND OR worker.publish(job.id, its_path, job.version, job.queued_at, false, NULL, 0) IS NULL THEN
        RETURN false;
    END IF;
    UPDATE worker.versions SET rejected_at = NULL WHERE path = its_path AND digest = job.version AND rejected_at IS NOT NULL;
    PERFORM set_config('worker.lease', 'queue', true);
    UPDATE public.jobs SET review = 'approved', metadata = worker.with_review(metadata, 'approved', NULL) WHERE id = job_id;
    PERFORM worker.supersede_older(its_path, job.queued_at);
    PERFORM set_config('worker.lease', key, true);
    PERFORM pg_notify('worker_webhooks', '') WHERE pg_notification_queue_usage() < 0.9;
    RETURN true;
END $$;

COMMENT ON FUNCTION public.approve_job IS
'Approve the model of a job that waits for it, and publish it unless a newer one is. False if it does not wait, or its files are gone.';

CREATE OR REPLACE FUNCTION public.reject_job(job_id uuid, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    key CONSTANT text := coalesce(current_setting('worker.lease', true), '');
    job public.jobs;
BEGIN
    PERFORM set_config('worker.lease', 'queue', true);
    UPDATE public.jobs SET review = 'rejected', metadata = worker.with_review(metadata, 'rejected', reason)
        WHERE id = job_id AND review = 'wanted' RETURNING * INTO job;
    PERFORM set_config('worker.lease', key, true);
    IF job.id IS NULL THEN
        RETURN false;
    END IF;
    UPDATE worker.versions SET rejected_at = now()
        WHERE path = worker.storage_path(job.shop, job.product_id, job.variant_id) AND digest = job.version;
    PERFORM pg_notify('worker_webhooks', '') WHERE pg_notification_queue_usage() < 0.9;
    RETURN true;
END $$;

COMMENT ON FUNCTION public.reject_job IS
'Reject the model of a job that waits for approval. It is not published, nor used again. False if the job does not wait.';

CREATE OR REPLACE FUNCTION public.publish_version(job_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off SET enable_sort = off AS $$
#variable_conflict use_variable
DECLARE
    key CONSTANT text := coalesce(current_setting('worker.lease', true), '');
    job public.jobs;
    its_path text;
BEGIN
    SELECT * INTO job FROM public.jobs
        WHERE id = job_id AND status = 'completed' AND review IN ('none', 'approved') FOR NO KEY UPDATE;
    its_path := worker.storage_path(job.shop, job.product_id, job.variant_id);
    IF NOT FOUND OR worker.publish(job.id, its_path, job.version, job.queued_at, true, NULL, 0) IS NULL THEN
        RETURN false;
    END IF;
    PERFORM worker.add_event(job, false);  -- the row does not change
    PERFORM set_config('worker.lease', 'queue', true), worker.supersede_older(its_path, job.queued_at);
    PERFORM set_config('worker.lease', key, true);
    PERFORM pg_notify('worker_webhooks', '') WHERE pg_notification_queue_usage() < 0.9;
    RETURN true;
END $$;

COMMENT ON FUNCTION public.publish_version IS
'Publish the model of a completed job, even in place of a newer one. False if it waits for approval, was rejected, or its files are gone.';
