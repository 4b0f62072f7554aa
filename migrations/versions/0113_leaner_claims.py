"""What a claim and an end pay for and nobody needs: two CHECKs, and rows of many columns."""

from alembic import op

revision = "0113"
down_revision = "0112"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # They return a value of another type now: migrations/env.py.
    op.execute(
        "DROP FUNCTION IF EXISTS worker.complete_and_claim, worker.end_publication_and_claim, worker.claim_next"
    )
    # Postgres parses a CHECK for each statement anew. Each rule was about two columns that one function alone writes: end_event()
    # and write_event() in migrations/sql/outbox.sql.
    op.execute("ALTER TABLE worker.outbox DROP CONSTRAINT delivered_or_dead_not_both")
    op.execute("ALTER TABLE worker.attempts DROP CONSTRAINT ended_has_an_outcome_and_nothing_else_has")


def downgrade() -> None:
    op.execute("""
        ALTER TABLE worker.attempts ADD CONSTRAINT ended_has_an_outcome_and_nothing_else_has
        CHECK ((ended_at IS NULL) = (outcome IS NULL))
    """)
    op.execute("""
        ALTER TABLE worker.outbox ADD CONSTRAINT delivered_or_dead_not_both
        CHECK (delivered_at IS NULL OR dead_at IS NULL)
    """)
