"""The lane of an attempt, for the page that tells a job's story."""

from alembic import op

revision = "0110"
down_revision = "0109"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Null while an attempt runs, and of one that was lost or given back.
    op.execute("ALTER TABLE worker.attempts ADD COLUMN lane text")


def downgrade() -> None:
    op.execute("ALTER TABLE worker.attempts DROP COLUMN lane")
