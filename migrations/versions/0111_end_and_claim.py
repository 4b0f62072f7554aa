"""Nothing in the tables: the worker now calls worker.complete_and_claim() and worker.end_publication_and_claim()."""

revision = "0111"
down_revision = "0110"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
