"""One trigger for what follows a change of a job, in place of three: each of them cost a claim and a settlement some 20 µs.

Functions, triggers, views and grants are not here: migrations/sql has them, and every upgrade applies them (env.py).
"""

from alembic import op

revision = "0107"
down_revision = "0106"
branch_labels = None
depends_on = None

# Triggers that the files of this revision no longer make, with their functions: migrations/env.py.
GONE = {
    "count_usage": "worker.count_usage()",
    "count_in_batch": "worker.count_in_batch()",
    "count_changes_in_batch": "worker.count_in_batch()",
}


def upgrade() -> None:
    for trigger in GONE:
        op.execute(f"DROP TRIGGER IF EXISTS {trigger} ON public.jobs")
    for function in set(GONE.values()):
        op.execute(f"DROP FUNCTION IF EXISTS {function}")


def downgrade() -> None:
    """The worker of the earlier revision makes its triggers itself."""
