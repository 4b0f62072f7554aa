-- The outbox: every statement that is run on it. Events are written by worker.write_event() in the transaction that changes
-- the job, and let go one after the other by worker.release_events() (both in migrations/sql/outbox.sql).
--
-- An event's bytes may be replaced by later progress until it is taken for the first time; from then on they stay, and
-- so does its id. What follows a take carries its token, and has no effect once another sender has taken the event.

-- name: take
-- Take the event that has waited longest, for sending_s seconds. It costs the same however many events wait behind others
-- or for their next attempt: only the first of each job is in the index, and those that are due come first.
UPDATE worker.outbox AS event
SET attempts = attempts + 1, sending_token = gen_random_uuid(), next_attempt_at = now() + make_interval(secs => :sending_s)
WHERE id = (
    SELECT id FROM worker.outbox
    WHERE next_attempt_at <= now() AND delivered_at IS NULL AND dead_at IS NULL
    ORDER BY next_attempt_at, seq
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING event.id, event.sending_token AS token, event.type, event.job_id, event.seq, event.terminal, event.body,
    event.attempts, event.refusals;

-- name: due_in
-- How many seconds until the next event may be taken. NULL: there is none.
SELECT extract(epoch FROM min(next_attempt_at) - now())::float FROM worker.outbox
WHERE next_attempt_at IS NOT NULL AND delivered_at IS NULL AND dead_at IS NULL;

-- name: delivered
-- The backend has it, or does not want events of its type.
SELECT worker.end_event(:id, :token, false, 0, NULL);

-- name: retry_later
-- Not this time.
UPDATE worker.outbox
SET next_attempt_at = now() + make_interval(secs => :wait_s), sending_token = NULL,
    refusals = :refusals, last_error = :reason
WHERE id = :id AND sending_token = :token;

-- name: dead_letter
-- Never: the backend will not take it. It is kept for people, and no longer holds up the events after it.
SELECT worker.end_event(:id, :token, true, :refusals, :reason);

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
-- Send dead events after all, those of a list or all.
SELECT id FROM worker.replay_events(CAST(:ids AS uuid[])) AS id;
