-- The webhook outbox: its events, their order, and how a backend's echo is recognized. The statements that send them are in
-- worker/webhooks/queries.sql. Every upgrade applies this file: migrations/env.py.

-- An event may be sent once `next_attempt_at` is set and past. A job's events are sent one at a time and in order, so only the
-- first of those that wait has it set. An event of a shop as a whole, such as the end of a batch, comes after all earlier
-- events of that shop. Whatever ends or deletes an event then makes the next ones due: worker.release_events().
--
-- A transaction that writes an event behind another one must not miss the transaction that ends that other one. So the writer
-- locks the event before it. Either the end waits for that lock and then sees the new event, or the writer waits for the
-- end and then finds no event before its own.

-- Write an event that says how a job is. A progress event that no sender has taken is replaced. `is_first`: the job has no
-- event yet. Its callers run with the owner's rights, and with sorting disabled: only the index outbox_job gives this order.
-- Returns its seq.
CREATE OR REPLACE FUNCTION worker.add_event(job public.jobs, is_first boolean) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    next_seq CONSTANT bigint := nextval('worker.outbox_seq_seq');
    last_seq bigint;
    last_is_terminal boolean;
    last_attempts smallint;
    content CONSTANT text := concat(  -- leaves out what is null
        '{"jobId": "', job.id, '", "status": "', job.status, '", "seq": ', next_seq, ', "progress": ', job.progress,
        ', "stage": ' || to_json(job.stage),
        ', "modelUrl": ' || to_json(CASE WHEN job.review NOT IN ('wanted', 'rejected') THEN job.model_url END),
        ', "review": ' || to_json(nullif(job.review, 'none')),
        ', "errorCode": ' || to_json(job.error_code),
        ', "errorMessage": ' || to_json(job.error_message),
        ', "metadata": ', job.metadata, '}');
BEGIN
    -- The last one that waits: if it ends meanwhile, no other is before ours.
    IF NOT is_first THEN
        SELECT seq, terminal, attempts INTO last_seq, last_is_terminal, last_attempts FROM worker.outbox
            WHERE job_id = job.id AND delivered_at IS NULL AND dead_at IS NULL ORDER BY job_id DESC, seq DESC LIMIT 1 FOR UPDATE;
    END IF;
    IF NOT last_is_terminal AND last_attempts = 0 AND job.completed_at IS NULL THEN
        UPDATE worker.outbox SET seq = next_seq, body = content, created_at = now() WHERE seq = last_seq;
    ELSE
        -- The id must be unique, not secret. A random one may cost a system call or three.
        INSERT INTO worker.outbox (seq, id, type, shop, job_id, terminal, next_attempt_at, body)
        VALUES (next_seq, md5(concat(job.id, next_seq, clock_timestamp()))::uuid, 'job.updated', job.shop, job.id,
            job.completed_at IS NOT NULL, CASE WHEN last_seq IS NULL THEN now() END, content);
    END IF;
    -- A daemon wakes its own sender. What others write, say a backend that cancels a waiting job, wakes all of them.
    IF coalesce(current_setting('worker.lease', true), '') = '' THEN
        PERFORM pg_notify('worker_webhooks', '') WHERE pg_notification_queue_usage() < 0.9;
    END IF;
    RETURN next_seq;
END $$;

-- Write an event for each change of a job, end its attempt, and count it in the usage of its shop and in its batch, in the
-- transaction that makes the change. The claim has inserted the attempt. SECURITY DEFINER: who may change a job needs no right
-- on these tables.
--
-- One trigger for all, because each trigger costs a claim and a settlement some 20 µs. It has no WHEN clause, because Postgres
-- parses such a clause anew for each statement, at five times the cost of the same condition in the function.
CREATE OR REPLACE FUNCTION worker.write_event() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET enable_seqscan = off SET enable_sort = off AS $$
DECLARE
    seq bigint;
    counted boolean;
BEGIN
    IF NEW.status = OLD.status AND NEW.progress = OLD.progress AND NEW.review = OLD.review THEN
        RETURN NULL;
    END IF;
    IF OLD.status = 'processing' AND NEW.status <> 'processing' THEN
        UPDATE worker.attempts
        SET ended_at = clock_timestamp(),
            outcome = CASE
                WHEN NEW.status = 'completed' THEN 'completed'
                WHEN current_setting('worker.lease', true) = 'queue' THEN 'lost'
                WHEN NEW.status = 'cancelled' THEN 'cancelled'
                WHEN NEW.error_code IS NULL THEN 'released'
                ELSE 'failed' END::worker.outcome,
            error_code = NEW.error_code,
            error_message = NEW.error_message,
            seconds = CASE WHEN NEW.metadata IS DISTINCT FROM OLD.metadata
                THEN NEW.metadata #> '{worker,seconds}' END,
            lane = CASE WHEN NEW.metadata IS DISTINCT FROM OLD.metadata
                THEN left(NEW.metadata #>> '{worker,lane}', 200) END
        WHERE job_id = OLD.id AND lease_token = OLD.lease_token;
        counted := worker.count_usage(OLD, NEW);
    ELSIF OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL THEN
        counted := worker.count_usage(OLD, NEW);
    END IF;
    IF NEW.batch IS NOT NULL AND (OLD.status <> NEW.status OR OLD.review <> NEW.review) THEN
        counted := worker.count_in_batch(OLD, NEW);
    END IF;
    -- A job that was never claimed nor queued again has no event yet.
    seq := worker.add_event(NEW, OLD.started_at IS NULL AND OLD.queued_at IS NOT DISTINCT FROM OLD.created_at);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER write_event AFTER UPDATE ON public.jobs
FOR EACH ROW EXECUTE FUNCTION worker.write_event();

-- Remove from an update's metadata what only repeats an event of this job.
--
-- A backend's handler may write a webhook's content into the row: status, URL and the whole metadata, seconds late or
-- twice. Such an update names the status, which the backend may not set, and the guard keeps the row's own. Metadata that
-- repeats an event must not be merged: it would undo what the backend itself has changed since. What the handler added or
-- changed is merged, and so is every update that does not name the status.
--
-- Triggers fire in the order of their names, so this comes before guard_job. SECURITY DEFINER: it reads the outbox. Without a
-- WHEN clause: see worker.write_event().
CREATE OR REPLACE FUNCTION worker.drop_echo() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF current_setting('worker.lease', true) <> '' OR NEW.metadata = OLD.metadata
        OR jsonb_typeof(NEW.metadata) IS DISTINCT FROM 'object' THEN
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
FOR EACH ROW EXECUTE FUNCTION worker.drop_echo();

-- Write an event of a shop as a whole. It is sent after all events of the shop that were written before it, and only to a
-- backend that asked for its type (WORKER_WEBHOOK_EVENTS). Returns its id.
CREATE OR REPLACE FUNCTION worker.write_shop_event(shop_name text, event_type text, details jsonb) RETURNS uuid
LANGUAGE plpgsql SET search_path = '' SET enable_seqscan = off AS $$
DECLARE
    event_id CONSTANT uuid := gen_random_uuid();
    next_seq CONSTANT bigint := nextval('worker.outbox_seq_seq');
    waits boolean;
BEGIN
    LOOP
        PERFORM FROM worker.outbox
            WHERE shop = shop_name AND delivered_at IS NULL AND dead_at IS NULL ORDER BY shop, seq LIMIT 1 FOR SHARE;
        waits := FOUND;
        EXIT WHEN waits OR NOT EXISTS (
            SELECT FROM worker.outbox WHERE shop = shop_name AND delivered_at IS NULL AND dead_at IS NULL);
    END LOOP;
    INSERT INTO worker.outbox (seq, id, type, shop, terminal, next_attempt_at, body)
    VALUES (next_seq, event_id, event_type, shop_name, true, CASE WHEN NOT waits THEN now() END,
        (jsonb_build_object('shop', shop_name, 'seq', next_seq) || details)::text);
    PERFORM pg_notify('worker_webhooks', '') WHERE pg_notification_queue_usage() < 0.9;
    RETURN event_id;
END $$;

-- Make due what waited behind an event that has ended or was deleted: the job's next event, and those of the shop as a whole.
CREATE OR REPLACE FUNCTION worker.release_events(shop_name text, job uuid) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET enable_seqscan = off AS $$
DECLARE
    next_seq bigint;
BEGIN
    -- Locked first: a progress event that is replaced meanwhile has another seq afterwards, and an UPDATE would miss it.
    SELECT seq INTO next_seq FROM worker.outbox
        WHERE job_id = job AND delivered_at IS NULL AND dead_at IS NULL ORDER BY job_id, seq LIMIT 1 FOR UPDATE;
    UPDATE worker.outbox SET next_attempt_at = now() WHERE seq = next_seq AND next_attempt_at IS NULL;
    UPDATE worker.outbox AS event SET next_attempt_at = now()
    WHERE next_attempt_at IS NULL AND seq = (
            SELECT seq FROM worker.outbox
            WHERE shop = shop_name AND job_id IS NULL AND delivered_at IS NULL AND dead_at IS NULL ORDER BY shop, seq LIMIT 1)
        AND NOT EXISTS (
            SELECT FROM worker.outbox AS earlier
            WHERE earlier.shop = shop_name AND earlier.delivered_at IS NULL AND earlier.dead_at IS NULL
              AND earlier.seq < event.seq
            ORDER BY earlier.shop, earlier.seq OFFSET 0);
END $$;

-- End an event that this sender has taken: delivered, or dead with a reason. False if another sender has it now.
CREATE OR REPLACE FUNCTION worker.end_event(event_seq bigint, token uuid, is_dead boolean, refused int, reason text)
RETURNS boolean
LANGUAGE plpgsql SET search_path = '' SET enable_seqscan = off AS $$
DECLARE
    ended worker.outbox;
BEGIN
    UPDATE worker.outbox
    SET delivered_at = CASE WHEN NOT is_dead THEN now() END, dead_at = CASE WHEN is_dead THEN now() END,
        next_attempt_at = NULL, sending_token = NULL, refusals = refused, last_error = reason
    WHERE seq = event_seq AND sending_token = token AND delivered_at IS NULL AND dead_at IS NULL
    RETURNING * INTO ended;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM worker.release_events(ended.shop, ended.job_id);
    RETURN true;
END $$;

-- Send dead events again: those with these ids, or all. Returns their ids. An event stays dead if a later event of its job
-- was delivered or is being sent: it would set the backend back. Attempts begin at 1 and not at 0, so that later progress
-- does not replace the body.
CREATE OR REPLACE FUNCTION worker.replay_events(wanted uuid[]) RETURNS SETOF uuid
LANGUAGE plpgsql SET search_path = '' SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    affected CONSTANT uuid[] := ARRAY(
        SELECT DISTINCT job_id FROM worker.outbox
        WHERE dead_at IS NOT NULL AND (wanted IS NULL OR id = ANY (wanted)));
BEGIN
    -- Every writer of a job's events has locked the job's row.
    PERFORM FROM public.jobs WHERE id = ANY (affected) ORDER BY id FOR NO KEY UPDATE;
    PERFORM FROM worker.outbox
        WHERE job_id = ANY (affected) AND delivered_at IS NULL AND dead_at IS NULL ORDER BY seq FOR UPDATE;
    RETURN QUERY
        UPDATE worker.outbox AS event
        SET dead_at = NULL, attempts = 1, refusals = 0, next_attempt_at = CASE WHEN event.job_id IS NULL THEN now() END
        WHERE event.dead_at IS NOT NULL AND (wanted IS NULL OR event.id = ANY (wanted))
          AND NOT EXISTS (
              SELECT FROM worker.outbox AS later
              WHERE later.job_id = event.job_id AND later.seq > event.seq
                AND (later.delivered_at IS NOT NULL OR later.sending_token IS NOT NULL))
        RETURNING event.id;
    -- The first event of each job is due; the others wait behind it.
    UPDATE worker.outbox AS event
    SET next_attempt_at = CASE WHEN event.seq = first.seq THEN coalesce(event.next_attempt_at, now()) END
    FROM (SELECT job_id, min(seq) AS seq FROM worker.outbox
          WHERE job_id = ANY (affected) AND delivered_at IS NULL AND dead_at IS NULL GROUP BY job_id) AS first
    WHERE event.job_id = first.job_id AND event.delivered_at IS NULL AND event.dead_at IS NULL;
    PERFORM pg_notify('worker_webhooks', '') WHERE pg_notification_queue_usage() < 0.9;
END $$;

-- Delete a batch of unsent events that are older than `days` days. Returns their ids.
CREATE OR REPLACE FUNCTION worker.prune_unsendable_events(days int, batch int) RETURNS SETOF uuid
LANGUAGE plpgsql SET search_path = '' SET enable_seqscan = off AS $$
DECLARE
    gone worker.outbox;
BEGIN
    FOR gone IN
        DELETE FROM worker.outbox WHERE seq IN (
            SELECT seq FROM worker.outbox
            WHERE delivered_at IS NULL AND dead_at IS NULL AND created_at < now() - make_interval(days => days)
            ORDER BY created_at LIMIT batch FOR UPDATE SKIP LOCKED)
        RETURNING *
    LOOP
        PERFORM worker.release_events(gone.shop, gone.job_id);
        RETURN NEXT gone.id;
    END LOOP;
END $$;
