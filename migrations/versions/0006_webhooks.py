"""Webhooks: a sender's own token on what it has in hand, refusals counted apart, and echoes known for what they are."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# What is new in worker.tell_backend() of 0002, in place of its last line.
_WAKE = """IF coalesce(current_setting('worker.lease', true), '') = '' THEN
                PERFORM pg_notify('worker_webhooks', '');
            END IF;
            RETURN NULL;"""


def upgrade() -> None:
    op.execute("""
        ALTER TABLE worker.outbox
            ADD COLUMN refusals smallint NOT NULL DEFAULT 0,  -- answers of 4xx, of which a few are enough
            ADD COLUMN sending_token uuid  -- of the sender that has it in hand; who took it over has another
    """)
    # The take's order, and what `worker webhooks list` shows.
    op.execute("""
        CREATE INDEX outbox_due ON worker.outbox (next_attempt_at, seq)
        WHERE delivered_at IS NULL AND dead_at IS NULL
    """)
    op.execute("CREATE INDEX outbox_dead ON worker.outbox (dead_at) WHERE dead_at IS NOT NULL")

    # A daemon nudges its own sender. What others write, say a backend that cancels a waiting job, wakes all of them.
    _change_tell_backend("RETURN NULL;", _WAKE)

    # A backend's handler may write into the row what a webhook told it: status, address and the whole metadata, seconds
    # late or twice. Such an update names the status, which is not the backend's to set, and the guard keeps that. Of its
    # metadata, what an event of this job told is no news: were it merged, it would undo what the backend itself has
    # changed since. What the handler added or changed is news, and so is every update that does not name the status.
    # Triggers fire in the order of their names, so this comes before guard_job. SECURITY DEFINER: it reads the outbox.
    op.execute("""
        CREATE FUNCTION worker.drop_echo() RETURNS trigger
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
        END $$
    """)
    op.execute("""
        CREATE TRIGGER drop_echo BEFORE UPDATE OF status ON public.jobs
        FOR EACH ROW WHEN (NEW.metadata <> OLD.metadata)
        EXECUTE FUNCTION worker.drop_echo()
    """)


def downgrade() -> None:
    op.execute("DROP TRIGGER drop_echo ON public.jobs")
    op.execute("DROP FUNCTION worker.drop_echo")
    _change_tell_backend(_WAKE, "RETURN NULL;")
    op.execute("DROP INDEX worker.outbox_due, worker.outbox_dead")
    op.execute("ALTER TABLE worker.outbox DROP COLUMN refusals, DROP COLUMN sending_token")


def _change_tell_backend(before: str, after: str) -> None:
    op.execute(f"""
        DO $do$ BEGIN
            EXECUTE replace(pg_get_functiondef('worker.tell_backend'::regproc), $old${before}$old$, $new${after}$new$);
        END $do$
    """)
