-- The outbox: every statement that the sender runs. Events are written by worker.tell_backend()
-- (migrations/versions/0002_outbox.py) in the transaction that changes the job.

-- name: take
-- Take the event that has waited longest, for sending_s seconds. A job's events go out one at a time and in order.
UPDATE worker.outbox AS event
SET attempts = attempts + 1, sending_until = now() + make_interval(secs => :sending_s)
WHERE seq = (
    SELECT waiting.seq FROM worker.outbox AS waiting
    WHERE waiting.delivered_at IS NULL AND waiting.dead_at IS NULL
      AND waiting.next_attempt_at <= now()
      AND (waiting.sending_until IS NULL OR waiting.sending_until < now())
      AND NOT EXISTS (
          SELECT FROM worker.outbox AS earlier
          WHERE earlier.job_id = waiting.job_id AND earlier.seq < waiting.seq
            AND earlier.delivered_at IS NULL AND earlier.dead_at IS NULL)
    ORDER BY waiting.seq
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING event.seq, event.id, event.job_id, event.body, event.attempts;

-- name: delivered
-- The backend has it. Fenced by the attempt, as all that follows a take.
UPDATE worker.outbox SET delivered_at = now(), sending_until = NULL, last_error = NULL
WHERE seq = :seq AND attempts = :attempts;

-- name: postpone
-- Not this time.
UPDATE worker.outbox
SET next_attempt_at = now() + make_interval(secs => :wait_s), sending_until = NULL, last_error = :error
WHERE seq = :seq AND attempts = :attempts;

-- name: bury
-- Never: the backend will not take it. It is kept for people, and no longer holds up the events after it.
UPDATE worker.outbox SET dead_at = now(), sending_until = NULL, last_error = :error
WHERE seq = :seq AND attempts = :attempts;
