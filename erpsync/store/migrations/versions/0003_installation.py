"""A state belongs to a place."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the one row that says where the state is, and whether it is held."""
    op.create_table(
        "installation",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("held_since", sa.BigInteger),
        sa.Column("held_reason", sa.Text),
    )
