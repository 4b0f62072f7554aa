-- The webhook outbox: what is written to it, and what of it comes back. How events are sent is in
-- worker/webhooks/queries.sql. Every upgrade applies this file: migrations/env.py.

-- Write an event for each change of a job, in the transaction that makes the change. Progress that nobody has begun to
-- send is replaced. SECURITY DEFINER: whoever may change a job, its event is written, without a right on the outbox itself.
CREATE OR REPLACE FUNCTION worker.write_event() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    next_seq bigint := nextval('worker.outbox_seq_seq');
BEGIN
    INSERT INTO worker.outbox (seq, job_id, terminal, body)
    VALUES (next_seq, NEW.id, NEW.completed_at IS NOT NULL, (
        jsonb_strip_nulls(jsonb_build_object(
            'jobId', NEW.id,
            'status', NEW.status,
            'seq', next_seq,
            'progress', NEW.progress,
            'stage', NEW.stage,
            'modelUrl', NEW.model_url,
            'errorCode', NEW.error_code,
            'errorMessage', NEW.error_message))
        || jsonb_build_object('metadata', NEW.metadata))::text)
    ON CONFLICT (job_id) WHERE NOT terminal AND attempts = 0 AND delivered_at IS NULL AND dead_at IS NULL
    DO UPDATE SET seq = excluded.seq, body = excluded.body, created_at = excluded.created_at;
    -- A daemon wakes its own sender. What others write, say a backend that cancels a waiting job, wakes all of them.
    IF coalesce(current_setting('worker.lease', true), '') = '' THEN
        PERFORM pg_notify('worker_webhooks', '');
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER write_event AFTER UPDATE ON public.jobs
FOR EACH ROW WHEN ((OLD.status, OLD.progress) IS DISTINCT FROM (NEW.status, NEW.progress))
EXECUTE FUNCTION worker.write_event();

-- Take out of an update's metadata what an event of this job told.
--
-- A backend's handler may write into the row what a webhook told it: status, URL and the whole metadata, seconds late or
-- twice. Such an update names the status, which is not the backend's to set, and the guard keeps that. Of its metadata,
-- what an event of this job told is no news: were it merged, it would undo what the backend itself has changed since. What
-- the handler added or changed is news, and so is every update that does not name the status.
--
-- Triggers fire in the order of their names, so this comes before guard_job. SECURITY DEFINER: it reads the outbox.
CREATE OR REPLACE FUNCTION worker.drop_echo() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF coalesce(current_setting('worker.lease', true), '') <> '' OR jsonb_typeof(NEW.metadata) <> 'object' THEN
        RETURN NEW;
    END IF;
    NEW.metadata := (
        SELECT coalesce(jsonb_object_agg(written.key, written.value), '{}')
        FROM jsonb_each(NEW.metadata) AS written
        WHERE NOT EXISTS (
            SELECT FROM worker.outbox AS event
            WHERE event.job_id = OLD.id
              AND event.body::jsonb -> 'metadata' -> written.key = written.value));
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER drop_echo BEFORE UPDATE OF status ON public.jobs
FOR EACH ROW WHEN (NEW.metadata <> OLD.metadata)
EXECUTE FUNCTION worker.drop_echo();
