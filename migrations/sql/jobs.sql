-- A row of public.jobs: its rules, who may change what, and who is notified. The functions of a worker that has a job are
-- in claim.sql. Every upgrade applies this file: migrations/env.py.
--
-- While its queue of notifications is full, for example because a listening session has a transaction open, Postgres refuses
-- every transaction that notifies. A row is worth more than a notification: nobody is notified then, and polling finds the
-- work.

-- The rules of a row. A broken one raises the same error as a CHECK of its name.
--
-- One function and not one CHECK for each rule, because Postgres parses every CHECK again for each statement: seventeen CHECKs
-- were a sixth of the cost of a claim and a settlement; this function is a tenth of that. For the same reason neither it nor the
-- guard sets a search_path: all names in them have their schema, or are the server's own.
CREATE OR REPLACE FUNCTION worker.check_job_rules(job public.jobs) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
DECLARE
    broken text;
BEGIN
    -- Columns that only the backend writes. The queue's own statements, which set the key, do not change them.
    IF coalesce(current_setting('worker.lease', true), '') = '' THEN
        broken := CASE
            WHEN btrim(job.shop) = '' OR length(job.shop) > 255 THEN 'shop_is_1_to_255_characters'
            WHEN btrim(job.product_id) = '' OR length(job.product_id) > 255 THEN 'product_id_is_1_to_255_characters'
            WHEN btrim(job.variant_id) = '' OR length(job.variant_id) > 255 THEN 'variant_id_is_1_to_255_characters'
            WHEN btrim(job.dedupe_key) = '' OR length(job.dedupe_key) > 255 THEN 'dedupe_key_is_1_to_255_characters'
            WHEN btrim(job.batch) = '' OR length(job.batch) > 255 THEN 'batch_is_1_to_255_characters'
            WHEN length(job.product_handle) > 255 THEN 'product_handle_is_at_most_255_characters'
            WHEN array_ndims(job.image_urls) > 1 THEN 'image_urls_are_one_list'
            WHEN cardinality(job.image_urls) NOT BETWEEN 1 AND 16 THEN 'image_urls_are_1_to_16'
            WHEN octet_length(array_to_string(job.image_urls, '')) > 65536 THEN 'image_urls_are_at_most_64_kB'
            WHEN array_to_string(job.image_urls, E'\n', '')
                 !~* '^https?://[^[:space:]]+(\nhttps?://[^[:space:]]+)*$' THEN 'image_urls_are_http_or_https'
            -- What WORKER_POOLS and WORKER_ENGINE can name: no comma, no control character, no space around it.
            WHEN length(job.pool) NOT BETWEEN 1 AND 100 OR job.pool ~ '^\s|\s$|[,\u0001-\u001f\u007f-\u009f]'
                THEN 'pool_is_a_name_of_1_to_100_characters'
            WHEN length(job.engine) NOT BETWEEN 1 AND 100 OR job.engine ~ '^\s|\s$|[,\u0001-\u001f\u007f-\u009f]'
                THEN 'engine_is_a_name_of_1_to_100_characters'
            WHEN job.quality NOT IN ('fast', 'balanced', 'quality', 'auto') THEN 'quality_is_fast_balanced_quality_or_auto'
            WHEN job.start_by NOT BETWEEN '1970-01-01 00:00+00' AND '9999-01-01 00:00+00'
                THEN 'start_by_is_before_the_year_9999'
            WHEN job.max_attempts NOT BETWEEN 1 AND 25 THEN 'max_attempts_is_1_to_25'
            -- As text: a number such as 1e100000 takes a few bytes in jsonb and 100,000 where it is printed. The worker's
            -- report is counted separately, so that it never makes a row that the backend may not change.
            WHEN octet_length((job.metadata - 'worker')::text) > 1048576
                OR octet_length((job.metadata -> 'worker')::text) > 1048576 THEN 'metadata_is_at_most_1_MB'
            -- The server reads and writes JSON by recursion. What it just takes at the insert, 14,000 levels and more, it could not
            -- write into an event any more: every claim would fail.
            WHEN jsonb_path_exists(job.metadata, 'strict $.**{5000}') THEN 'metadata_is_nested_at_most_5000_deep'
            -- Python's dates have no infinity, and no difference of two times may be more than an interval holds.
            WHEN least(job.created_at, job.queued_at, job.updated_at, job.started_at, job.completed_at,
                       job.lease_expires_at, job.cancel_requested_at) < '1970-01-01 00:00+00'
                OR greatest(job.created_at, job.queued_at, job.updated_at, job.started_at, job.completed_at,
                            job.lease_expires_at, job.cancel_requested_at) > '9999-01-01 00:00+00'
                THEN 'times_are_between_1970_and_9999'
        END;
    END IF;
    broken := coalesce(broken, CASE
        WHEN job.run_after NOT BETWEEN '1970-01-01 00:00+00' AND '9999-01-01 00:00+00'
            THEN 'run_after_is_before_the_year_9999'
        WHEN jsonb_typeof(job.metadata) <> 'object' THEN 'metadata_is_an_object'
        WHEN job.progress NOT BETWEEN 0 AND 100 THEN 'progress_is_0_to_100'
        WHEN job.attempts NOT BETWEEN 0 AND job.max_attempts THEN 'attempts_are_0_to_max_attempts'
        WHEN job.status = 'pending' AND (job.progress <> 0 OR job.stage IS NOT NULL) THEN 'pending_has_no_progress'
        WHEN num_nonnulls(job.lease_token, job.lease_expires_at, job.claimed_by)
             <> CASE job.status WHEN 'processing' THEN 3 ELSE 0 END
             OR job.status = 'processing' AND job.started_at IS NULL
            THEN 'processing_has_a_lease_and_nothing_else_has'
        WHEN (job.status IN ('completed', 'failed', 'cancelled')) <> (job.completed_at IS NOT NULL)
            THEN 'ended_has_completed_at_and_nothing_else_has'
        WHEN (job.status = 'completed') <> (job.progress = 100)
             OR job.status = 'completed' AND job.model_url IS NULL THEN 'completed_has_model_url_and_100'
        WHEN job.status = 'failed' AND num_nulls(job.error_code, job.error_message) > 0
            THEN 'failed_has_error_code_and_message'
        WHEN job.review <> 'none' AND job.status <> 'completed' THEN 'reviewed_is_completed'
    END);
    IF broken IS NOT NULL THEN
        RAISE check_violation USING SCHEMA = 'public', TABLE = 'jobs', CONSTRAINT = broken,
            MESSAGE = format('new row for relation "jobs" violates check constraint "%s"', broken);
    END IF;
    RETURN true;
END $$;

-- The constraint calls the function, so it comes after it. It is added only once: adding it reads the whole table, and
-- older rows need not keep a new rule.
DO $$ BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_constraint WHERE conrelid = 'public.jobs'::regclass AND conname = 'jobs_keep_the_rules') THEN
        ALTER TABLE public.jobs ADD CONSTRAINT jobs_keep_the_rules CHECK (worker.check_job_rules(jobs));
        COMMENT ON CONSTRAINT jobs_keep_the_rules ON public.jobs IS
            'All rules of a row, each by the name that an error gives: \sf worker.check_job_rules';
    END IF;
END $$;

-- Complete a new row.
CREATE OR REPLACE FUNCTION worker.receive_job() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    IF NEW.image_urls IS NULL AND jsonb_typeof(NEW.metadata -> 'image_urls') = 'array' THEN
        NEW.image_urls := ARRAY(SELECT jsonb_array_elements_text(NEW.metadata -> 'image_urls'));
    END IF;
    -- clock_timestamp, not now: rows of one transaction keep the order in which they came.
    NEW.created_at := clock_timestamp();
    NEW.queued_at := NEW.created_at;
    IF NEW.review <> 'none' OR NEW.version IS NOT NULL OR NEW.excluded_photos <> '{}' THEN
        RAISE check_violation USING SCHEMA = 'public', TABLE = 'jobs',
            CONSTRAINT = 'review_version_and_excluded_photos_are_empty_in_a_new_row',
            MESSAGE = 'review, version and excluded_photos of a new row must have their defaults';
    END IF;
    NEW.updated_at := NEW.created_at;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER receive_job BEFORE INSERT ON public.jobs
FOR EACH ROW EXECUTE FUNCTION worker.receive_job();

-- Let only the worker that holds the lease, and the queue's own functions, move a row forward.
--
-- They set a key, which is valid for one transaction: the setting `worker.lease` holds the row's lease token, or the word
-- 'queue' where a function needs no lease (claim, rescue, retry). Each function sets it in its first line. From any other
-- update only the changes to the backend's columns are kept, with a warning: an error would make a backend's webhook handler
-- fail, and the webhook would be sent again. This stops mistakes, such as a late handler that writes an old status back. It
-- does not protect against an attacker whose role may update the table.
CREATE OR REPLACE FUNCTION worker.guard_job() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    refused text;
    merged jsonb;
BEGIN
    IF current_setting('worker.lease', true) IN ('queue', OLD.lease_token::text) THEN
        NEW.updated_at := clock_timestamp();
        RETURN NEW;
    END IF;

    -- Column by column: the app may have added columns of types without equality (json, point, xml), or generated ones.
    refused := concat_ws(', ',
        CASE WHEN NEW.attempts IS DISTINCT FROM OLD.attempts THEN 'attempts' END,
        CASE WHEN NEW.batch IS DISTINCT FROM OLD.batch THEN 'batch' END,
        CASE WHEN NEW.claimed_by IS DISTINCT FROM OLD.claimed_by THEN 'claimed_by' END,
        CASE WHEN NEW.completed_at IS DISTINCT FROM OLD.completed_at THEN 'completed_at' END,
        CASE WHEN NEW.created_at IS DISTINCT FROM OLD.created_at THEN 'created_at' END,
        CASE WHEN NEW.error_code IS DISTINCT FROM OLD.error_code THEN 'error_code' END,
        CASE WHEN NEW.error_message IS DISTINCT FROM OLD.error_message THEN 'error_message' END,
        CASE WHEN NEW.excluded_photos IS DISTINCT FROM OLD.excluded_photos THEN 'excluded_photos' END,
        CASE WHEN NEW.id IS DISTINCT FROM OLD.id THEN 'id' END,
        CASE WHEN NEW.lease_expires_at IS DISTINCT FROM OLD.lease_expires_at THEN 'lease_expires_at' END,
        CASE WHEN NEW.lease_token IS DISTINCT FROM OLD.lease_token THEN 'lease_token' END,
        CASE WHEN NEW.model_url IS DISTINCT FROM OLD.model_url THEN 'model_url' END,
        CASE WHEN NEW.progress IS DISTINCT FROM OLD.progress THEN 'progress' END,
        CASE WHEN NEW.queued_at IS DISTINCT FROM OLD.queued_at THEN 'queued_at' END,
        CASE WHEN NEW.review IS DISTINCT FROM OLD.review THEN 'review' END,
        CASE WHEN NEW.stage IS DISTINCT FROM OLD.stage THEN 'stage' END,
        CASE WHEN NEW.started_at IS DISTINCT FROM OLD.started_at THEN 'started_at' END,
        -- Until the job has begun, since it was queued.
        CASE WHEN (OLD.status <> 'pending' OR OLD.started_at >= OLD.queued_at)
            AND NEW.start_by IS DISTINCT FROM OLD.start_by THEN 'start_by' END,
        CASE WHEN NEW.status IS DISTINCT FROM OLD.status THEN 'status' END,
        CASE WHEN NEW.version IS DISTINCT FROM OLD.version THEN 'version' END,
        -- These decide where a job's files are stored, because no other job may run on the same path, and how it is made.
        CASE WHEN OLD.status = 'processing' AND NEW.engine IS DISTINCT FROM OLD.engine THEN 'engine' END,
        CASE WHEN OLD.status = 'processing' AND NEW.pool IS DISTINCT FROM OLD.pool THEN 'pool' END,
        CASE WHEN OLD.status = 'processing' AND NEW.product_id IS DISTINCT FROM OLD.product_id THEN 'product_id' END,
        CASE WHEN OLD.status = 'processing' AND NEW.quality IS DISTINCT FROM OLD.quality THEN 'quality' END,
        CASE WHEN OLD.status = 'processing' AND NEW.refresh IS DISTINCT FROM OLD.refresh THEN 'refresh' END,
        CASE WHEN (OLD.status = 'processing' OR OLD.batch IS NOT NULL) AND NEW.shop IS DISTINCT FROM OLD.shop THEN 'shop' END,
        CASE WHEN OLD.status = 'processing' AND NEW.variant_id IS DISTINCT FROM OLD.variant_id THEN 'variant_id' END);
    IF refused <> '' THEN
        RAISE WARNING 'job %: % not changed, because only the worker that holds the lease may do so', OLD.id, refused
            USING HINT = 'To run a finished job again: SELECT retry_job(id). To stop one: SELECT cancel_job(id).';
        NEW.attempts := OLD.attempts;
        NEW.batch := OLD.batch;
        NEW.claimed_by := OLD.claimed_by;
        NEW.completed_at := OLD.completed_at;
        NEW.created_at := OLD.created_at;
        NEW.error_code := OLD.error_code;
        NEW.error_message := OLD.error_message;
        NEW.excluded_photos := OLD.excluded_photos;
        NEW.id := OLD.id;
        NEW.lease_expires_at := OLD.lease_expires_at;
        NEW.lease_token := OLD.lease_token;
        NEW.model_url := OLD.model_url;
        NEW.progress := OLD.progress;
        NEW.queued_at := OLD.queued_at;
        NEW.review := OLD.review;
        NEW.stage := OLD.stage;
        NEW.started_at := OLD.started_at;
        NEW.status := OLD.status;
        NEW.version := OLD.version;
        IF OLD.status <> 'pending' OR OLD.started_at >= OLD.queued_at THEN
            NEW.start_by := OLD.start_by;
        END IF;
        IF OLD.batch IS NOT NULL THEN  -- the sums of a batch are those of one shop
            NEW.shop := OLD.shop;
        END IF;
        IF OLD.status = 'processing' THEN
            NEW.engine := OLD.engine;
            NEW.pool := OLD.pool;
            NEW.quality := OLD.quality;
            NEW.refresh := OLD.refresh;
            NEW.shop := OLD.shop;
            NEW.product_id := OLD.product_id;
            NEW.variant_id := OLD.variant_id;
        END IF;
    END IF;

    -- A photo that was left out is another one now, if its URL is.
    IF NEW.image_urls IS DISTINCT FROM OLD.image_urls THEN
        NEW.excluded_photos := ARRAY(
            SELECT n FROM unnest(OLD.excluded_photos) AS n
            WHERE (ARRAY(SELECT unnest(NEW.image_urls)))[n + 1] = (ARRAY(SELECT unnest(OLD.image_urls)))[n + 1]);
    END IF;

    -- Merge the backend's keys and keep ours.
    IF NEW.metadata IS DISTINCT FROM OLD.metadata THEN
        merged := CASE WHEN jsonb_typeof(NEW.metadata) = 'object'
            THEN OLD.metadata || (NEW.metadata - 'worker') ELSE OLD.metadata END;
        IF octet_length((merged - 'worker')::text) > 1048576 OR jsonb_path_exists(merged, 'strict $.**{5000}') THEN
            RAISE WARNING 'job %: metadata not changed, because it would be too large: at most 1 MB, 5,000 levels', OLD.id;
            merged := OLD.metadata;
        END IF;
        NEW.metadata := merged;
    END IF;

    IF NEW.cancel_requested_at IS DISTINCT FROM OLD.cancel_requested_at THEN
        NEW.cancel_requested_at := CASE
            WHEN OLD.completed_at IS NOT NULL THEN OLD.cancel_requested_at
            WHEN NEW.cancel_requested_at IS NOT NULL THEN clock_timestamp() END;
        IF OLD.status = 'pending' AND NEW.cancel_requested_at IS NOT NULL THEN
            NEW.status := 'cancelled';
            NEW.completed_at := NEW.cancel_requested_at;
        END IF;
    END IF;

    NEW.updated_at := OLD.updated_at;
    IF NEW *<> OLD THEN  -- byte by byte, which works for every type
        NEW.updated_at := clock_timestamp();
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER guard_job BEFORE UPDATE ON public.jobs
FOR EACH ROW EXECUTE FUNCTION worker.guard_job();

-- Wake waiting lanes, once for each statement, whatever the number of rows.
CREATE OR REPLACE FUNCTION worker.wake() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    PERFORM pg_notify('worker_jobs', '') WHERE pg_notification_queue_usage() < 0.9;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER wake_on_insert AFTER INSERT ON public.jobs
FOR EACH STATEMENT EXECUTE FUNCTION worker.wake();

-- Tell the daemons that a running job's cancel was requested.
CREATE OR REPLACE FUNCTION worker.notify_cancel() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    PERFORM pg_notify('worker_cancel', NEW.id::text) WHERE pg_notification_queue_usage() < 0.9;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER notify_cancel AFTER UPDATE OF cancel_requested_at ON public.jobs
FOR EACH ROW WHEN (OLD.cancel_requested_at IS NULL AND NEW.cancel_requested_at IS NOT NULL AND NEW.status = 'processing')
EXECUTE FUNCTION worker.notify_cancel();

-- Delete the events and attempts of deleted jobs, once for each statement; foreign keys would do it for each row. SECURITY
-- DEFINER: who may delete a job needs no right on these tables.
CREATE OR REPLACE FUNCTION worker.forget_jobs() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        TRUNCATE worker.outbox, worker.attempts, worker.batches, worker.batch_changes, worker.search;
    ELSE
        DELETE FROM worker.outbox WHERE job_id = ANY (ARRAY(SELECT id FROM gone));
        DELETE FROM worker.attempts WHERE job_id = ANY (ARRAY(SELECT id FROM gone));
        DELETE FROM worker.search AS one USING gone WHERE one.created_at = gone.created_at AND one.job_id = gone.id;
        PERFORM worker.release_events(shop, NULL) FROM (SELECT DISTINCT shop FROM gone) AS shops;
        -- Jobs that had ended keep their place in the sums of their batch.
        INSERT INTO worker.batch_changes (shop, batch, waiting, running, gone, for_review)
        SELECT shop, batch, -count(*) FILTER (WHERE status = 'pending'), -count(*) FILTER (WHERE status = 'processing'),
            count(*) FILTER (WHERE completed_at IS NULL), -count(*) FILTER (WHERE review = 'wanted')
        FROM gone WHERE batch IS NOT NULL AND (completed_at IS NULL OR review = 'wanted') GROUP BY shop, batch;
        IF FOUND THEN
            PERFORM pg_notify('worker_batches', '') WHERE pg_notification_queue_usage() < 0.9;
        END IF;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER forget_jobs AFTER DELETE ON public.jobs REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT EXECUTE FUNCTION worker.forget_jobs();

CREATE OR REPLACE TRIGGER forget_all_jobs AFTER TRUNCATE ON public.jobs
FOR EACH STATEMENT EXECUTE FUNCTION worker.forget_jobs();

-- The functions for backends set no search_path: it would hold for the app's own triggers on the table too, which may name
-- their tables without a schema. All names in them have theirs. The app may add a column of any name to the table, also
-- that of a parameter or variable: SQL functions write parameters with the function's name before them, and PL/pgSQL
-- functions say #variable_conflict use_variable.

CREATE OR REPLACE FUNCTION public.cancel_job(job_id uuid) RETURNS boolean
LANGUAGE sql AS $$
    WITH updated AS (
        UPDATE public.jobs SET cancel_requested_at = now()
        WHERE id = cancel_job.job_id AND status IN ('pending', 'processing') RETURNING 1)
    SELECT EXISTS (SELECT FROM updated)
$$;

COMMENT ON FUNCTION public.cancel_job IS 'Cancel a waiting job, or ask a running one to stop. False if there is nothing to cancel.';

-- The key is set by set_config and not by a SET clause of the function: that would need a superuser, which Supabase's
-- `postgres` is not. The caller's transaction continues, so the old key is restored.
CREATE OR REPLACE FUNCTION public.retry_job(job_id uuid, without_photo int DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    key text := coalesce(current_setting('worker.lease', true), '');
    urls text[];
    excluded smallint[];
    again boolean;
BEGIN
    IF without_photo IS NOT NULL THEN
        SELECT image_urls, excluded_photos INTO urls, excluded
            FROM public.jobs WHERE id = job_id AND completed_at IS NOT NULL FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            RETURN false;
        ELSIF without_photo NOT BETWEEN 0 AND cardinality(urls) - 1 THEN
            RAISE invalid_parameter_value USING MESSAGE = format(
                'without_photo is %s: the job has %s photos, counted from 0', without_photo, cardinality(urls));
        END IF;
        excluded := ARRAY(SELECT DISTINCT unnest(excluded || without_photo::smallint) ORDER BY 1);
        IF NOT EXISTS (SELECT FROM generate_series(0, cardinality(urls) - 1) AS n WHERE n <> ALL (excluded)) THEN
            RAISE invalid_parameter_value USING MESSAGE = format(
                'without_photo is %s: that is the last photo that is left', without_photo);
        END IF;
    END IF;
    PERFORM set_config('worker.lease', 'queue', true);
    UPDATE public.jobs
    SET status = 'pending', progress = 0, stage = NULL, attempts = 0, run_after = now(), model_url = NULL,
        error_code = NULL, error_message = NULL, cancel_requested_at = NULL, completed_at = NULL,
        queued_at = clock_timestamp(), start_by = CASE WHEN start_by > clock_timestamp() THEN start_by END, refresh = true, review = 'none', version = NULL,
        excluded_photos = coalesce(excluded, excluded_photos),
        metadata = CASE WHEN review = 'none' THEN metadata
            ELSE jsonb_set(metadata, '{worker}', (metadata -> 'worker') - '{review,review_reason}'::text[]) END
    WHERE id = job_id AND completed_at IS NOT NULL;
    again := FOUND;
    PERFORM set_config('worker.lease', key, true);
    IF again THEN
        PERFORM pg_notify('worker_jobs', '') WHERE pg_notification_queue_usage() < 0.9;
    END IF;
    RETURN again;
END $$;

COMMENT ON FUNCTION public.retry_job IS
'Make the model of a job that has ended anew, without_photo a photo, counted from 0. False if it has not ended or does not exist.';
