-- The outbox: every statement that is run on it. Events are written by worker.write_event()
-- (migrations/sql/outbox.sql) in the transaction that changes the job.
--
-- An event's bytes may be replaced by later progress until it is taken for the first time; from then on they stay, and
-- so does its id. What follows a take carries its token, and has no effect once another sender has taken the event.
--
-- The planner may still know the outbox as it was when nothing waited. OFFSET 0 keeps it from joining, and the order leaves
-- it the one index: else it may read all events for each, which takes a minute for thousands.

-- name: take
-- Take the event that has waited longest, for sending_s seconds. A job's events go out one at a time and in order.
UPDATE worker.outbox AS event
SET attempts = attempts + 1,
    sending_token = gen_random_uuid(), sending_until = now() + make_interval(secs => :sending_s)
WHERE id = (
    SELECT waiting.id FROM worker.outbox AS waiting
    WHERE waiting.delivered_at IS NULL AND waiting.dead_at IS NULL
      AND waiting.next_attempt_at <= now()
      AND (waiting.sending_until IS NULL OR waiting.sending_until < now())
      AND NOT EXISTS (
          SELECT FROM worker.outbox AS other
          WHERE other.job_id = waiting.job_id AND other.delivered_at IS NULL AND other.dead_at IS NULL
            AND (other.seq < waiting.seq OR other.sending_until >= now())
          ORDER BY other.job_id, other.seq OFFSET 0)
    ORDER BY waiting.next_attempt_at, waiting.seq
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING event.id, event.sending_token AS token, event.job_id, event.seq, event.terminal, event.body, event.attempts,
    event.refusals;

-- name: due_in
-- How many seconds until the next event may be taken. NULL: there is none.
SELECT extract(epoch FROM min(greatest(next_attempt_at, sending_until)) - now())::float
FROM (
    SELECT DISTINCT ON (job_id) next_attempt_at, sending_until FROM worker.outbox
    WHERE delivered_at IS NULL AND dead_at IS NULL ORDER BY job_id, seq
) AS first;

-- name: delivered
-- The backend has it.
UPDATE worker.outbox
SET delivered_at = now(), sending_until = NULL, sending_token = NULL, last_error = NULL
WHERE id = :id AND sending_token = :token;

-- name: retry_later
-- Not this time.
UPDATE worker.outbox
SET next_attempt_at = now() + make_interval(secs => :wait_s), sending_until = NULL, sending_token = NULL,
    refusals = :refusals, last_error = :reason
WHERE id = :id AND sending_token = :token;

-- name: dead_letter
-- Never: the backend will not take it. It is kept for people, and no longer holds up the events after it.
UPDATE worker.outbox
SET dead_at = now(), sending_until = NULL, sending_token = NULL, refusals = :refusals, last_error = :reason
WHERE id = :id AND sending_token = :token;

-- name: counts
-- What is still to be sent, since when, and what is dead.
SELECT count(*) AS waiting, min(created_at) AS oldest,
    (SELECT count(*) FROM worker.outbox WHERE dead_at IS NOT NULL) AS dead
FROM worker.outbox
WHERE delivered_at IS NULL AND dead_at IS NULL;

-- name: dead
-- What the backend would not take, the latest first. Overtaken: it has had a later event of the job.
SELECT id, job_id, seq, body::jsonb ->> 'status' AS status, attempts, last_error AS reason, created_at, dead_at,
    EXISTS (
        SELECT FROM worker.outbox AS later
        WHERE later.job_id = event.job_id AND later.seq > event.seq AND later.delivered_at IS NOT NULL) AS overtaken
FROM worker.outbox AS event
WHERE dead_at IS NOT NULL
ORDER BY dead_at DESC, seq DESC
LIMIT :limit;

-- name: replay
-- Send dead events after all, those of a list or all; not one that a later event has overtaken, for it would take the
-- backend back. Attempts begin at 1 and not at 0, because its bytes stay what they were.
WITH again AS (
    UPDATE worker.outbox AS event
    SET dead_at = NULL, attempts = 1, refusals = 0, next_attempt_at = now()
    WHERE dead_at IS NOT NULL
      AND (CAST(:ids AS uuid[]) IS NULL OR id = ANY (CAST(:ids AS uuid[])))
      AND NOT EXISTS (
          SELECT FROM worker.outbox AS later
          WHERE later.job_id = event.job_id AND later.seq > event.seq AND later.delivered_at IS NOT NULL)
    RETURNING id
)
SELECT id, pg_notify('worker_webhooks', '') FROM again;
