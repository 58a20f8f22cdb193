"""How far each target of remote write has got, and a rule's episodes by when they ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table and the index."""
    op.create_table(
        "exports",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("target", "rule")),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("target", "rule"),
    )
    op.create_index("episodes_ended", "episodes", ["rule", "closed_at"])
