"""A state has a generation, so that an older copy that takes its place is noticed."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the generation of now, and the one that the place has where the last change of it was cut short."""
    op.add_column("installation", sa.Column("generation", sa.Text))
    op.add_column("installation", sa.Column("generation_before", sa.Text))
