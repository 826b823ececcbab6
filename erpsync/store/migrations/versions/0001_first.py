"""The first schema: runs, attempts, marks, cursors."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "run",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("claim", sa.Text, nullable=False),
        sa.Column("plugin", sa.Text, nullable=False),
        sa.Column("trigger", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("instance", sa.Text),
        sa.Column("identity", sa.Text),
        sa.Column("fire_at", sa.BigInteger),
        sa.Column("fire_until", sa.BigInteger),
        sa.Column("fire_count", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("waiting_for", sa.Text),
        sa.Column("outcome", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("uncharged", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("next_attempt_at", sa.BigInteger),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("read", "written", "unchanged", "deleted", "failed", "skipped")
        ),
        sa.Column("cursor_before", sa.Text),
        sa.Column("cursor_after", sa.Text),
        sa.Column("error_type", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("error_hint", sa.Text),
        sa.Column("requested_by", sa.Text),
        sa.Column("retry_of", sa.Text),
        sa.Column("params", sa.Text),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.UniqueConstraint("job", "claim", name="run_claim"),
    )
    op.create_index("run_job_seq", "run", ["job", "seq"])
    op.create_index(
        "run_unfinished",
        "run",
        ["job"],
        sqlite_where=sa.text("state <> 'finished'"),
        postgresql_where=sa.text("state <> 'finished'"),
    )
    op.create_table(
        "attempt",
        sa.Column("run_id", sa.Text, sa.ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("outcome", sa.Text),
        sa.Column("error_type", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("error_hint", sa.Text),
    )
    op.create_table(
        "mark",
        sa.Column("job", sa.Text, primary_key=True),
        sa.Column("schedule", sa.Text, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "cursor",
        sa.Column("job", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
