"""The first schema.

A migration never changes once it was released, so it names plain types and does not import the tables.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0001"
down_revision = None

_TEXT = sa.Text()
_INT64 = sa.BigInteger()
_INT32 = sa.Integer()
_REAL: sa.Double[float] = sa.Double()
_BLOB = sa.LargeBinary()
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create all tables."""
    _slots()
    _episodes()
    _outbox()
    _people()
    _models()
    if op.get_bind().dialect.name == "postgresql":
        # the bytes are compressed where it pays; Postgres trying again only costs time
        op.execute("ALTER TABLE rule_slots ALTER COLUMN scores SET STORAGE EXTERNAL")
        op.execute("ALTER TABLE models ALTER COLUMN blob SET STORAGE EXTERNAL")


def _columns(kind: TypeEngine[Any], *names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=nullable) for name in names]


def _slots() -> None:
    op.create_table(
        "rule_names",
        *_columns(_SERIAL, "id"),
        *_columns(_TEXT, "name"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "slots",
        *_columns(_TEXT, "grp"),
        *_columns(_INT64, "at", "missed"),
        *_columns(_TEXT, "nonce"),
        sa.PrimaryKeyConstraint("grp", "at"),
    )
    op.create_table(
        "series_sets",
        *_columns(_SERIAL, "id", "rule_id"),
        *_columns(_TEXT, "digest"),
        *_columns(_BLOB, "rows"),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["rule_id"], ["rule_names.id"]),
        sa.UniqueConstraint("rule_id", "digest", name="series_sets_digest"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rule_slots",
        *_columns(_SERIAL, "rule_id"),
        *_columns(_INT64, "at"),
        *_columns(_TEXT, "outcome", "reason", "detail"),
        *_columns(_REAL, "duration_s", "cut", nullable=True),
        *_columns(_TEXT, "model", "counts"),
        *_columns(_INT32, "series"),
        *_columns(_SERIAL, "series_set", nullable=True),
        *_columns(_BLOB, "scores", nullable=True),
        sa.PrimaryKeyConstraint("rule_id", "at"),
        sa.ForeignKeyConstraint(["rule_id"], ["rule_names.id"]),
        sa.ForeignKeyConstraint(["series_set"], ["series_sets.id"]),
    )
    op.create_index("rule_slots_at", "rule_slots", ["at"])
    op.create_index("rule_slots_set", "rule_slots", ["series_set"])
    op.create_table(
        "series",
        *_columns(_SERIAL, "rule_id"),
        *_columns(_INT64, "row"),
        *_columns(_TEXT, "fingerprint", "labels"),
        *_columns(_INT64, "first_seen"),
        sa.PrimaryKeyConstraint("rule_id", "row"),
        sa.ForeignKeyConstraint(["rule_id"], ["rule_names.id"]),
    )


def _episodes() -> None:
    op.create_table(
        "episodes",
        *_columns(_TEXT, "id", "rule", "fingerprint", "labels", "phase"),
        *_columns(_INT32, "tier"),
        *_columns(
            _INT64, "started_at", "seen_at", "reached_warning", "reached_critical",
            "reached_emergency", "opened_at", "calm_since", "closed_at",
        ),
        *_columns(_TEXT, "close"),
        *_columns(_INT32, "why"),
        *_columns(_REAL, "value", "expected", "lower", "upper", "surprise", nullable=True),
        *_columns(_INT64, "peak_at"),
        *_columns(_REAL, "peak_value", "peak_expected", "peak_surprise", nullable=True),
        *_columns(_TEXT, "incident", "model"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("episodes_incident", "episodes", ["incident"])
    op.create_index(
        "episodes_live", "episodes", ["rule"],
        sqlite_where=sa.text("phase <> 'closed'"), postgresql_where=sa.text("phase <> 'closed'"),
    )  # fmt: skip
    op.create_index("episodes_rule", "episodes", ["rule", "started_at"])
    op.create_index("episodes_started", "episodes", ["started_at"])
    op.create_table(
        "incidents",
        *_columns(_TEXT, "id", "key", "rule", "group_labels"),
        *_columns(_INT32, "tier"),
        *_columns(_INT64, "opened_at", "closed_at"),
        *_columns(_INT32, "episodes"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("incidents_rule", "incidents", ["rule", "closed_at"])


def _outbox() -> None:
    op.create_table(
        "outbox",
        *_columns(_SERIAL, "seq"),
        *_columns(_TEXT, "id", "receiver", "incident", "rule", "kind"),
        *_columns(_INT32, "tier"),
        *_columns(_INT64, "created_at"),
        *_columns(_TEXT, "statement", "state", "reason", "message"),
        *_columns(_INT32, "attempts"),
        *_columns(_INT64, "next_at", "lease_until"),
        *_columns(_TEXT, "lease_token"),
        *_columns(_INT32, "in_doubt"),
        *_columns(_INT64, "settled_at"),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_created", "outbox", ["created_at"])
    op.create_index("outbox_incident", "outbox", ["incident", "receiver"])
    op.create_index(
        "outbox_pending", "outbox", ["receiver", "incident", "seq"],
        sqlite_where=sa.text("state = 'pending'"), postgresql_where=sa.text("state = 'pending'"),
    )  # fmt: skip
    op.create_table(
        "receivers",
        *_columns(_TEXT, "name"),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "memories",
        *_columns(_TEXT, "incident", "receiver", "memory"),
        sa.PrimaryKeyConstraint("incident", "receiver"),
    )
    op.create_table(
        "series_told",
        *_columns(_TEXT, "receiver", "rule", "fingerprint"),
        *_columns(_INT64, "at"),
        *_columns(_INT32, "tier"),
        sa.PrimaryKeyConstraint("receiver", "rule", "fingerprint"),
    )


def _people() -> None:
    op.create_table(
        "thresholds",
        *_columns(_SERIAL, "id"),
        *_columns(_TEXT, "rule", "fingerprint"),
        *_columns(_INT64, "at"),
        *_columns(_REAL, "warning", "critical", "emergency", nullable=True),
        *_columns(_TEXT, "reason", "who", "detail", "feedback"),
        *_columns(_INT64, "undone_at"),
        *_columns(_TEXT, "nonce"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("nonce"),
        sqlite_autoincrement=True,
    )
    op.create_index("thresholds_rule", "thresholds", ["rule", "id"])
    op.create_table(
        "feedback",
        *_columns(_TEXT, "id", "label", "rule", "episode", "fingerprint"),
        *_columns(_INT64, "start", "end"),
        *_columns(_TEXT, "cause", "text", "who"),
        *_columns(_INT64, "at"),
        *_columns(_TEXT, "via"),
        *_columns(_INT64, "undone_at"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("feedback_episode", "feedback", ["episode"])
    op.create_index("feedback_rule", "feedback", ["rule", "at"])
    op.create_table(
        "silences",
        *_columns(_TEXT, "id", "matchers"),
        *_columns(_INT64, "starts_at", "ends_at"),
        *_columns(_TEXT, "created_by", "comment"),
        *_columns(_INT64, "created_at"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("silences_ends", "silences", ["ends_at"])


def _models() -> None:
    op.create_table(
        "models",
        *_columns(_SERIAL, "id"),
        *_columns(_TEXT, "rule", "version"),
        *_columns(_INT64, "at"),
        *_columns(_TEXT, "meta"),
        *_columns(_BLOB, "blob"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("rule", "version", name="models_version"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "leases",
        *_columns(_TEXT, "name", "owner"),
        *_columns(_INT64, "fence", "expires_at"),
        sa.PrimaryKeyConstraint("name"),
    )
