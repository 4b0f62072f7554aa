-- Every statement that the worker runs on the outbox. worker.write_event() writes an event in the transaction that changes
-- the job, and worker.release_events() makes one after the other due (both in migrations/sql/outbox.sql).
--
-- Later progress may replace an event's body until the event is taken for the first time; after that, body and id never
-- change. The statements after a take carry its token and have no effect once another sender has taken the event.

-- name: take
-- Take the event that has been due longest, for sending_s seconds. The cost does not depend on how many events wait: only
-- the first of each job is in the index, and due events come first.
UPDATE worker.outbox AS event
SET attempts = attempts + 1, sending_token = gen_random_uuid(), next_attempt_at = now() + make_interval(secs => :sending_s)
WHERE seq = (
    SELECT seq FROM worker.outbox
    WHERE next_attempt_at <= now() AND delivered_at IS NULL AND dead_at IS NULL
    ORDER BY next_attempt_at, seq
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING event.id, event.sending_token AS token, event.type, event.job_id, event.seq, event.terminal, event.body,
    event.attempts, event.refusals;

-- name: due_in
-- Return the seconds until the next event is due. NULL if there is none.
SELECT extract(epoch FROM next_attempt_at - now())::float FROM worker.outbox
WHERE next_attempt_at IS NOT NULL AND delivered_at IS NULL AND dead_at IS NULL
ORDER BY next_attempt_at LIMIT 1;

-- name: delivered
-- End an event that the backend has, or whose type the backend does not want.
SELECT worker.end_event(:seq, :token, false, 0, NULL);

-- name: retry_later
-- Schedule the next attempt.
UPDATE worker.outbox
SET next_attempt_at = now() + make_interval(secs => :wait_s), sending_token = NULL,
    refusals = :refusals, last_error = :reason
WHERE seq = :seq AND sending_token = :token;

-- name: dead_letter
-- Give an event up. It is kept for people, and the events after it are no longer blocked.
SELECT worker.end_event(:seq, :token, true, :refusals, :reason);

-- name: counts
-- Count the events that wait and those that are dead; return when the oldest waiting one was written.
SELECT count(*) AS waiting, min(created_at) AS oldest,
    (SELECT count(*) FROM worker.outbox WHERE dead_at IS NOT NULL) AS dead
FROM worker.outbox
WHERE delivered_at IS NULL AND dead_at IS NULL;

-- name: dead
-- List dead events, all or those of a shop, the latest first, from a place in the list. `overtaken`: a later event of the same
-- job was delivered.
SELECT id, shop, type, job_id, seq, body::jsonb ->> 'status' AS status, attempts, last_error AS reason, created_at, dead_at,
    EXISTS (
        SELECT FROM worker.outbox AS later
        WHERE later.job_id = event.job_id AND later.seq > event.seq AND later.delivered_at IS NOT NULL) AS overtaken
FROM worker.outbox AS event
WHERE dead_at IS NOT NULL AND (CAST(:shop AS text) IS NULL OR shop = :shop)
    AND (CAST(:before AS timestamptz) IS NULL OR dead_at <= :before AND (dead_at, seq) < (:before, CAST(:seq AS bigint)))
ORDER BY dead_at DESC, seq DESC
LIMIT :limit;

-- name: dead_shops
-- Count the latest dead events by shop.
SELECT shop, count(*) AS events, max(dead_at) AS latest
FROM (SELECT shop, dead_at FROM worker.outbox WHERE dead_at IS NOT NULL ORDER BY dead_at DESC LIMIT 10000) AS dead
GROUP BY shop ORDER BY events DESC, shop LIMIT 50;

-- name: find_dead
-- List up to :most dead events whose ids begin alike, given as the first and the last id that do.
SELECT id FROM worker.outbox WHERE dead_at IS NOT NULL AND id BETWEEN :first AND :last ORDER BY id LIMIT :most;

-- name: replay
-- Send dead events again: those with these ids, or all.
SELECT id FROM worker.replay_events(CAST(:ids AS uuid[])) AS id;
