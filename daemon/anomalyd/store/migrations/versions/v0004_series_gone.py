"""When a series has gone for good: its row is forgotten when its last score is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column and the indexes of those that have gone."""
    op.add_column("series", sa.Column("gone_at", sa.BigInteger(), nullable=True))
    gone = sa.text("gone_at IS NOT NULL")
    for name, columns in (("series_gone", ["rule_id", "fingerprint"]), ("series_gone_at", ["gone_at"])):
        op.create_index(name, "series", columns, sqlite_where=gone, postgresql_where=gone)
