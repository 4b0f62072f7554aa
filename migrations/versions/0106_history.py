"""History: what ended, how long it took and what waited, in parts of five minutes and of an hour.

The function that writes it is in migrations/sql/history.sql.
"""

from alembic import op

revision = "0106"
down_revision = "0105"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # `key` and the two figures mean what the measure says: see worker.fold_history(). No shop, so an erasure needs nothing here.
    op.execute("""
        CREATE TABLE worker.history (
            part interval NOT NULL,  -- five minutes or an hour
            at timestamptz NOT NULL,  -- when the part begins
            measure text NOT NULL,
            pool text NOT NULL,
            host text NOT NULL,  -- empty where no host is known
            key text NOT NULL,
            count bigint NOT NULL,
            total double precision NOT NULL,

            PRIMARY KEY (part, at, measure, pool, host, key)
        )
        WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000)
    """)
    op.execute("""
        COMMENT ON TABLE worker.history IS
        'The queue over time: how jobs ended, why they failed, how long they waited and took. Written by the daemons.'
    """)
    op.execute("ALTER TABLE worker.history ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.execute("DROP TABLE worker.history")
