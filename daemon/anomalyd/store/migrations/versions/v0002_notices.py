"""Notices, how much past a young series' stand-in had learned from when its episode began, and the past of a series."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table, the index and the column."""
    op.create_table(
        "notices",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "kind", "rule")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("at", "since")),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("fingerprint", "labels", "text")),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("notices_at", "notices", ["at"])
    op.create_index("notices_rule", "notices", ["rule", "at"])
    op.create_index("episodes_series", "episodes", ["rule", "fingerprint", "started_at"])
    op.add_column("episodes", sa.Column("learned_ms", sa.BigInteger(), nullable=True))
