"""Indexes for lists of people: what all shops have used on one day, and dead events by their ids."""

from alembic import op

revision = "0108"
down_revision = "0107"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX shop_days_day ON worker.shop_days (day)")
    # Written when an event dies and when it is sent again, so no ordinary event pays for it.
    op.execute("CREATE INDEX outbox_dead_id ON worker.outbox (id) WHERE dead_at IS NOT NULL")


def downgrade() -> None:
    op.execute("DROP INDEX worker.shop_days_day, worker.outbox_dead_id")
