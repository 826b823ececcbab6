"""Runs have parents; jobs can be paused; a parent's run waits for the child that consumes it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what schedules of the kind `after` and pauses need."""
    op.add_column("run", sa.Column("parents", sa.Text))
    op.create_table(
        "pause",
        sa.Column("job", sa.Text, primary_key=True),
        sa.Column("until", sa.BigInteger),
        sa.Column("reason", sa.Text),
        sa.Column("requested_by", sa.Text),
        sa.Column("since", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "handover",
        sa.Column("child", sa.Text, primary_key=True),
        sa.Column("parent", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
    )
