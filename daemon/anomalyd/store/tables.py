"""The tables, once for both engines. ``migrations/`` builds them; a test holds the two to each other.

Rules are named by a small number where there is a row per slot or per series, by their id elsewhere.
"""

from __future__ import annotations

import sqlalchemy as sa

from anomalyd.store.columns import Json, LabelSet, Ms, Real, Serial, Text

metadata = sa.MetaData()

rule_names = sa.Table(
    "rule_names", metadata,
    sa.Column("id", Serial, primary_key=True),
    sa.Column("name", Text, nullable=False, unique=True),
    sqlite_autoincrement=True,
)  # fmt: skip

slots = sa.Table(
    "slots", metadata,
    sa.Column("grp", Text, primary_key=True),
    sa.Column("at", Ms, primary_key=True, autoincrement=False),
    sa.Column("missed", Ms, nullable=False),
    sa.Column("nonce", Text, nullable=False),  # tells a repeated commit of ours from one by somebody else
)  # fmt: skip

series_sets = sa.Table(
    "series_sets", metadata,
    sa.Column("id", Serial, primary_key=True),
    sa.Column("rule_id", Serial, sa.ForeignKey("rule_names.id"), nullable=False),
    sa.Column("digest", Text, nullable=False),
    sa.Column("rows", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("rule_id", "digest", name="series_sets_digest"),
    sqlite_autoincrement=True,
)  # fmt: skip

rule_slots = sa.Table(
    "rule_slots", metadata,
    sa.Column("rule_id", Serial, sa.ForeignKey("rule_names.id"), primary_key=True, autoincrement=False),
    sa.Column("at", Ms, primary_key=True, autoincrement=False),
    sa.Column("outcome", Text, nullable=False),
    sa.Column("reason", Text, nullable=False),
    sa.Column("detail", Text, nullable=False),
    sa.Column("duration_s", Real),
    sa.Column("cut", Real),
    sa.Column("model", Text, nullable=False),
    sa.Column("counts", Json, nullable=False),
    sa.Column("series", sa.Integer, nullable=False),
    sa.Column("series_set", Serial, sa.ForeignKey("series_sets.id")),
    sa.Column("scores", sa.LargeBinary),  # last, so that reading the row's head does not touch it
    sa.Index("rule_slots_at", "at"),
    sa.Index("rule_slots_set", "series_set"),
)  # fmt: skip

series = sa.Table(
    "series", metadata,
    sa.Column("rule_id", Serial, sa.ForeignKey("rule_names.id"), primary_key=True, autoincrement=False),
    sa.Column("row", Ms, primary_key=True, autoincrement=False),
    sa.Column("fingerprint", Text, nullable=False),
    sa.Column("labels", LabelSet, nullable=False),
    sa.Column("first_seen", Ms, nullable=False),
    sa.Column("gone_at", Ms),  # none while the rule has it
    sa.Index(
        "series_gone", "rule_id", "fingerprint",
        sqlite_where=sa.text("gone_at IS NOT NULL"), postgresql_where=sa.text("gone_at IS NOT NULL"),
    ),
    sa.Index(
        "series_gone_at", "gone_at",
        sqlite_where=sa.text("gone_at IS NOT NULL"), postgresql_where=sa.text("gone_at IS NOT NULL"),
    ),
)  # fmt: skip

episodes = sa.Table(
    "episodes", metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("rule", Text, nullable=False),
    sa.Column("fingerprint", Text, nullable=False),
    sa.Column("labels", LabelSet, nullable=False),
    sa.Column("phase", Text, nullable=False),
    sa.Column("tier", sa.Integer, nullable=False),
    sa.Column("started_at", Ms, nullable=False),
    sa.Column("seen_at", Ms, nullable=False),
    sa.Column("reached_warning", Ms, nullable=False),
    sa.Column("reached_critical", Ms, nullable=False),
    sa.Column("reached_emergency", Ms, nullable=False),
    sa.Column("opened_at", Ms, nullable=False),
    sa.Column("calm_since", Ms, nullable=False),
    sa.Column("closed_at", Ms, nullable=False),
    sa.Column("close", Text, nullable=False),
    sa.Column("why", sa.Integer, nullable=False),
    sa.Column("value", Real),
    sa.Column("expected", Real),
    sa.Column("lower", Real),
    sa.Column("upper", Real),
    sa.Column("surprise", Real),
    sa.Column("peak_at", Ms, nullable=False),
    sa.Column("peak_value", Real),
    sa.Column("peak_expected", Real),
    sa.Column("peak_surprise", Real),
    sa.Column("incident", Text, nullable=False),
    sa.Column("model", Text, nullable=False),
    sa.Column("learned_ms", Ms),
    sa.Index("episodes_rule", "rule", "started_at"),
    sa.Index("episodes_series", "rule", "fingerprint", "started_at"),
    sa.Index("episodes_started", "started_at"),
    sa.Index("episodes_incident", "incident"),
    sa.Index("episodes_ended", "rule", "closed_at"),
    sa.Index(
        "episodes_live", "rule",
        sqlite_where=sa.text("phase <> 'closed'"), postgresql_where=sa.text("phase <> 'closed'"),
    ),
)  # fmt: skip

incidents = sa.Table(
    "incidents", metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("key", Text, nullable=False),
    sa.Column("rule", Text, nullable=False),
    sa.Column("group_labels", LabelSet, nullable=False),
    sa.Column("tier", sa.Integer, nullable=False),
    sa.Column("opened_at", Ms, nullable=False),
    sa.Column("closed_at", Ms, nullable=False),
    sa.Column("episodes", sa.Integer, nullable=False),
    sa.Index("incidents_rule", "rule", "closed_at"),
)  # fmt: skip

notices = sa.Table(
    "notices", metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("kind", Text, nullable=False),
    sa.Column("rule", Text, nullable=False),
    sa.Column("at", Ms, nullable=False),
    sa.Column("since", Ms, nullable=False),
    sa.Column("fingerprint", Text, nullable=False),
    sa.Column("labels", LabelSet, nullable=False),
    sa.Column("text", Text, nullable=False),
    sa.Index("notices_at", "at"),
    sa.Index("notices_rule", "rule", "at"),
)  # fmt: skip

outbox = sa.Table(
    "outbox", metadata,
    sa.Column("seq", Serial, primary_key=True),
    sa.Column("id", Text, nullable=False, unique=True),
    sa.Column("receiver", Text, nullable=False),
    sa.Column("incident", Text, nullable=False),
    sa.Column("rule", Text, nullable=False),
    sa.Column("kind", Text, nullable=False),  # the statement's reason: new, worse, more, repeat, resolved, test
    sa.Column("tier", sa.Integer, nullable=False),
    sa.Column("created_at", Ms, nullable=False),
    sa.Column("statement", Text, nullable=False),
    sa.Column("state", Text, nullable=False),
    sa.Column("reason", Text, nullable=False),
    sa.Column("message", Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", Ms, nullable=False),
    sa.Column("lease_until", Ms, nullable=False),
    sa.Column("lease_token", Text, nullable=False),
    sa.Column("in_doubt", sa.Integer, nullable=False),
    sa.Column("settled_at", Ms, nullable=False),
    sa.Index("outbox_incident", "incident", "receiver"),
    sa.Index(
        "outbox_pending", "receiver", "incident", "seq",
        sqlite_where=sa.text("state = 'pending'"), postgresql_where=sa.text("state = 'pending'"),
    ),
    sa.Index("outbox_created", "created_at"),
    sqlite_autoincrement=True,
)  # fmt: skip

receivers = sa.Table("receivers", metadata, sa.Column("name", Text, primary_key=True))
"""One row a receiver, locked while its outbox is claimed: two claimers never split an incident."""

memories = sa.Table(
    "memories", metadata,
    sa.Column("incident", Text, primary_key=True),
    sa.Column("receiver", Text, primary_key=True),
    sa.Column("memory", Json, nullable=False),
)  # fmt: skip

series_told = sa.Table(
    "series_told", metadata,
    sa.Column("receiver", Text, primary_key=True),
    sa.Column("rule", Text, primary_key=True),
    sa.Column("fingerprint", Text, primary_key=True),
    sa.Column("at", Ms, nullable=False),
    sa.Column("tier", sa.Integer, nullable=False),
)  # fmt: skip

thresholds = sa.Table(
    "thresholds", metadata,
    sa.Column("id", Serial, primary_key=True),
    sa.Column("rule", Text, nullable=False),
    sa.Column("fingerprint", Text, nullable=False),
    sa.Column("at", Ms, nullable=False),
    sa.Column("warning", Real),
    sa.Column("critical", Real),
    sa.Column("emergency", Real),
    sa.Column("reason", Text, nullable=False),
    sa.Column("who", Text, nullable=False),
    sa.Column("detail", Text, nullable=False),
    sa.Column("feedback", Text, nullable=False),
    sa.Column("undone_at", Ms, nullable=False),
    sa.Column("nonce", Text, nullable=False, unique=True),  # makes a repeated insert of ours harmless
    sa.Index("thresholds_rule", "rule", "id"),
    sqlite_autoincrement=True,
)  # fmt: skip

feedback = sa.Table(
    "feedback", metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("label", Text, nullable=False),
    sa.Column("rule", Text, nullable=False),
    sa.Column("episode", Text, nullable=False),
    sa.Column("fingerprint", Text, nullable=False),
    sa.Column("start", Ms, nullable=False),
    sa.Column("end", Ms, nullable=False),
    sa.Column("cause", Text, nullable=False),
    sa.Column("text", Text, nullable=False),
    sa.Column("who", Text, nullable=False),
    sa.Column("at", Ms, nullable=False),
    sa.Column("via", Text, nullable=False),
    sa.Column("undone_at", Ms, nullable=False),
    sa.Index("feedback_rule", "rule", "at"),
    sa.Index("feedback_episode", "episode"),
)  # fmt: skip

silences = sa.Table(
    "silences", metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("matchers", Json, nullable=False),
    sa.Column("starts_at", Ms, nullable=False),
    sa.Column("ends_at", Ms, nullable=False),
    sa.Column("created_by", Text, nullable=False),
    sa.Column("comment", Text, nullable=False),
    sa.Column("created_at", Ms, nullable=False),
    sa.Index("silences_ends", "ends_at"),
)  # fmt: skip

models = sa.Table(
    "models", metadata,
    sa.Column("id", Serial, primary_key=True),
    sa.Column("rule", Text, nullable=False),
    sa.Column("version", Text, nullable=False),
    sa.Column("at", Ms, nullable=False),
    sa.Column("meta", Text, nullable=False),
    sa.Column("blob", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("rule", "version", name="models_version"),
    sqlite_autoincrement=True,
)  # fmt: skip

exports = sa.Table(
    "exports", metadata,
    sa.Column("target", Text, primary_key=True),
    sa.Column("rule", Text, primary_key=True),
    sa.Column("at", Ms, nullable=False),
)  # fmt: skip
"""The newest slot of each rule that a target of remote write is done with."""

leases = sa.Table(
    "leases", metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("owner", Text, nullable=False),
    sa.Column("fence", Ms, nullable=False),
    sa.Column("expires_at", Ms, nullable=False),
)  # fmt: skip
