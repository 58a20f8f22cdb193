"""The Grafana dashboards as code: writes ``dashboards/*.json`` beside this file.

    python grafana/dashboards.py            write the files
    python grafana/dashboards.py --check    exit 1 if they are not what this file makes

Two dashboards. *Anomalies* is for who is on call: what is abnormal now, how far, since when; its ad hoc filter narrows
it to any label of the watched series. *Daemon* is for who runs anomalyd. They are apart because an ad hoc filter
reaches every query of a dashboard, and the daemon's own metrics do not have the watched series' labels.

The JSON is committed, so that nobody needs this SDK to use it; a test holds it equal to what this file makes, and every
metric and label in it to the daemon's own exposition.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common
from grafana_foundation_sdk.builders import dashboard as board
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue as Set
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

HERE = Path(__file__).parent / "dashboards"
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "anomalyd"
RULES = 'group=~"$group", rule=~"$rule"'
DAEMON = 'job=~"$job", instance=~"$instance"'


def query(expr: str, legend: str = "__auto", ref: str = "A", instant: bool = False) -> Dataquery:
    made = Dataquery().expr(expr).legend_format(legend).ref_id(ref).datasource(SOURCE)
    return made.instant().format(PromQueryFormat.TABLE) if instant else made.range()


def graph(title: str, text: str, unit: str, *queries: Dataquery, width: int = 12, height: int = 8) -> TimeSeries:
    panel = (
        TimeSeries()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .line_width(1)
        .fill_opacity(0)
        .span_nulls(False)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    for one in queries:
        panel = panel.with_target(one)
    return panel


def bars(panel: TimeSeries) -> TimeSeries:
    stacked = common.StackingConfig().mode(StackingMode.NORMAL).group("A")
    return panel.draw_style(GraphDrawStyle.BARS).fill_opacity(70).stacking(stacked)


def steps(*bounds: tuple[float | None, str]) -> board.ThresholdsConfig:
    made = [model.Threshold(value=value, color=color) for value, color in bounds]
    return board.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def number(title: str, text: str, unit: str, expr: str, thresholds: board.ThresholdsConfig, width: int = 4) -> Stat:
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
    return (
        Stat()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .thresholds(thresholds)
        .reduce_options(reduce)
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE)
        .with_target(query(expr))
    )


def datasource_variable() -> board.DatasourceVariable:
    return board.DatasourceVariable("datasource").label("Data source").type("prometheus")


def values_variable(name: str, label: str, expr: str) -> board.QueryVariable:
    return (
        board.QueryVariable(name)
        .label(label)
        .query(expr)
        .datasource(SOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def annotations() -> board.AnnotationQuery:
    """Spans that the daemon's Grafana receiver wrote: one region an incident, found by tag on any dashboard."""
    return (
        board.AnnotationQuery()
        .name("Anomalies")
        .datasource(model.DataSourceRef(type_val="grafana", uid="-- Grafana --"))
        .enable(True)
        .icon_color("red")
        .target(board.AnnotationTarget().limit(100).match_any(False).tags([TAG]).type("tags"))
    )


def blank(title: str, uid: str, text: str, span: str) -> board.Dashboard:
    link = (
        board.DashboardLink("anomalyd")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .keep_time(True)
    )
    return (
        board.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags([TAG])
        .timezone("browser")
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time(span, "now")
        .refresh("1m")
        .link(link)
        .annotation(annotations())
        .with_variable(datasource_variable())
    )


def anomalies() -> board.Dashboard:
    """What is abnormal now, how far from normal, and since when."""
    text = "What is abnormal now, how far from normal, and since when."
    made = blank("Anomalies", "anomalyd-anomalies", text, "now-24h")
    made = (
        made.with_variable(values_variable("group", "Group", "label_values(anomaly_score, group)"))
        .with_variable(values_variable("rule", "Rule", 'label_values(anomaly_score{group=~"$group"}, rule)'))
        .with_variable(board.AdHocVariable("filter").label("Series").datasource(SOURCE))
    )
    for panel in (*_now_row(), _worst_table(), _score_graph(), _open_graph()):
        made = made.with_panel(panel)
    made = made.with_row(board.Row("Episodes and thresholds, by series and over months"))
    for panel in _history():
        made = made.with_panel(panel)
    return made.with_row(board.Row("Value with band")).with_panel(_band_graph())


def _history() -> tuple[TimeSeries, ...]:
    """What is worth keeping for months: written by remote write, it outlives what a scrape keeps."""
    episodes = f"sum by (group, rule, tier) (anomaly_episode{{{RULES}}})"
    return (
        bars(graph("Series in an episode", "Series whose episode was told and had not ended, by tier; the filter above "
                   "narrows it to any label.", "short", query(episodes, "{{group}}/{{rule}} {{tier}}"))),
        graph("Thresholds", "Surprise (-log10 of a sample's probability) at which a rule's lowest tier begins; votes "
              "move it.", "short", query(f"anomaly_threshold{{{RULES}}}", "{{group}}/{{rule}}")),
    )  # fmt: skip


def _now_row() -> tuple[Stat, ...]:
    calm = steps((None, "green"), (1, "red"))
    plain = steps((None, "text"))
    score = f"anomaly_score{{{RULES}}}"
    return (
        number("Above the cut", "Series whose newest sample is anomalous (score above 1).", "short",
               f"count({score} > 1) or vector(0)", calm, 6),
        number("Highest score", "The most abnormal series now; above 1 is anomalous.", "short", f"max({score})",
               steps((None, "green"), (0.8, "orange"), (1, "red")), 6),
        number("Series watched", "Series with a score in their newest slot.", "short", f"count({score})", plain, 6),
        number("Rules with scores", "Rules of which at least one series has a score.", "short",
               f"count(count by (group, rule) ({score}))", plain, 6),
    )  # fmt: skip


def _worst_table() -> Table:
    hidden = {"Time": True, "__name__": True}
    options = {"excludeByName": hidden, "indexByName": {"rule": 0}, "renameByName": {"Value": "Score"}}
    organize = model.DataTransformerConfig(id_val="organize", options=options)
    return (
        Table()
        .title("Most abnormal series now")
        .description("The twenty series with the highest anomaly score; above 1 is anomalous.")
        .datasource(SOURCE)
        .unit("short")
        .decimals(2)
        .span(10)
        .height(10)
        .with_target(query(f"topk(20, anomaly_score{{{RULES}}})", instant=True))
        .with_transformation(organize)
        .sort_by([common.TableSortByFieldState().display_name("Score").desc(True)])
    )


def _score_graph() -> TimeSeries:
    worst = f"topk(20, max_over_time(anomaly_score{{{RULES}}}[$__range] @ end()))"
    cut = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
    return (
        graph("Anomaly score", "The twenty series that were most abnormal in this time; above the line is anomalous.",
              "short", query(f"anomaly_score{{{RULES}}} and {worst}"), width=14, height=10)
        .thresholds(steps((None, "green"), (1, "red")))
        .thresholds_style(cut)
        .min(0)
        .axis_soft_max(1.5)
    )  # fmt: skip


def _open_graph() -> TimeSeries:
    text = "Episodes that were told and have not ended, of all series: the daemon counts them by rule and tier only."
    expr = 'sum by (rule, tier) (anomalyd_episodes_open{rule=~"(.+/)?($rule)"})'
    return bars(graph("Open episodes", text, "short", query(expr, "{{rule}} {{tier}}"), width=24, height=6))


def _band_graph() -> TimeSeries:
    """One panel a rule with the series that was most abnormal in the shown time: a band needs a panel of its own."""
    series = 'rule=~"$rule", group=~"$group"'
    worst = f"topk(1, max_over_time(anomaly_score{{{series}}}[$__range] @ end()))"
    queries = [
        query(f"anomaly_{name}{{{series}}} and {worst}", name, ref)
        for name, ref in (("value", "A"), ("expected", "B"), ("upper", "C"), ("lower", "D"))
    ]
    text = (
        "The series of this rule that was most abnormal in the shown time: value, expected value, and the band outside "
        "which the lowest tier begins. Use the filter above to see another series."
    )
    grey = {"mode": "fixed", "fixedColor": "#888888"}
    return (
        graph("$rule", text, "short", *queries, width=12, height=9)
        .repeat("rule")
        .repeat_direction("h")
        .max_per_row(2)
        .override_by_name("value", [Set(id_val="custom.lineWidth", value=2),
                                    Set(id_val="color", value={"mode": "fixed", "fixedColor": "blue"})])
        .override_by_name("expected", [Set(id_val="custom.lineStyle", value={"fill": "dash", "dash": [6, 6]}),
                                       Set(id_val="color", value=grey)])
        .override_by_name("upper", [Set(id_val="custom.fillBelowTo", value="lower"),
                                    Set(id_val="custom.fillOpacity", value=15),
                                    Set(id_val="custom.lineWidth", value=0), Set(id_val="color", value=grey)])
        .override_by_name("lower", [Set(id_val="custom.lineWidth", value=0), Set(id_val="color", value=grey)])
    )  # fmt: skip


def daemon() -> board.Dashboard:
    """Whether anomalyd itself is well: evaluating in time, sources answering, deliveries arriving."""
    text = "Whether anomalyd itself is well: evaluating in time, sources answering, deliveries arriving."
    made = blank("anomalyd", "anomalyd-daemon", text, "now-6h")
    made = made.with_variable(values_variable("job", "Job", "label_values(anomalyd_build_info, job)")).with_variable(
        values_variable("instance", "Instance", 'label_values(anomalyd_build_info{job=~"$job"}, instance)')
    )
    for panel in _health_row():
        made = made.with_panel(panel)
    for title, panels in (
        ("Evaluation", _evaluation()), ("Episodes and verdicts", _verdicts()), ("Delivery", _delivery()),
        ("Remote write", _remote_write()),
    ):  # fmt: skip
        made = made.with_row(board.Row(title))
        for graph_panel in panels:
            made = made.with_panel(graph_panel)
    return made


def _health_row() -> tuple[Stat, ...]:
    bad_when_set = steps((None, "green"), (1, "red"))
    good_when_set = steps((None, "red"), (1, "green"))
    aged = steps((None, "green"), (300, "orange"), (1800, "red"))
    return (
        number("Daemons", "Daemons that report.", "short", f"count(anomalyd_build_info{{{DAEMON}}})", good_when_set),
        number("Sources down", "Sources that did not answer their newest query.", "short",
               f"count(anomalyd_source_up{{{DAEMON}}} == 0) or vector(0)", bad_when_set),
        number("Open episodes", "Abnormal spans that are open now.", "short",
               f"sum(anomalyd_episodes_open{{{DAEMON}}}) or vector(0)", steps((None, "green"), (1, "orange"))),
        number("Oldest owed notification", "Age of the oldest notification that has not been delivered.", "s",
               f"max(anomalyd_outbox_oldest_age_seconds{{{DAEMON}}}) or vector(0)", aged),
        number("Slots missed, 1 h", "Evaluations that did not happen in time.", "short",
               f"sum(increase(anomalyd_slots_missed_total{{{DAEMON}}}[1h])) or vector(0)", bad_when_set),
        number("Configuration", "1 when the newest reload worked; 0: the old one is still in use.", "short",
               f"min(anomalyd_config_last_reload_successful{{{DAEMON}}})", good_when_set),
    )  # fmt: skip


def _rate(metric: str) -> str:
    return f"rate({metric}{{{DAEMON}}}[$__rate_interval])"


def _evaluation() -> tuple[TimeSeries, ...]:
    slowest = f"histogram_quantile(0.99, sum by (le, group) ({_rate('anomalyd_evaluation_duration_seconds_bucket')}))"
    return (
        bars(graph("Slots by outcome", "Evaluations of all groups: ok, partial answers, errors.", "ops",
                   query(f"sum by (outcome) ({_rate('anomalyd_slots_total')})", "{{outcome}}"))),
        graph("Slots missed", "Evaluations that did not happen in time; the daemon is too slow or was stopped.", "ops",
              query(f"sum by (group) ({_rate('anomalyd_slots_missed_total')})", "{{group}}")),
        graph("Evaluation time, p99", "Wall time of a group's evaluation; must stay below its interval.", "s",
              query(slowest, "{{group}}")),
        graph("Age of the newest slot", "How far behind now a group's newest evaluation is.", "s",
              query(f"time() - max by (group) (anomalyd_last_evaluation_timestamp_seconds{{{DAEMON}}})", "{{group}}")),
        graph("Sources", "1 while the source answers.", "short",
              query(f"min by (source) (anomalyd_source_up{{{DAEMON}}})", "{{source}}")).min(0).max(1),
        graph("Rules with errors", "Slots in which a rule could not be evaluated, by reason.", "ops",
              query(f"sum by (rule, reason) ({_rate('anomalyd_rule_errors_total')})", "{{rule}} {{reason}}")),
    )  # fmt: skip


def _remote_write() -> tuple[TimeSeries, ...]:
    return (
        graph("Lag by target", "Age of the newest slot that a target has, where it lacks newer ones.", "s",
              query(f"max by (target) (anomalyd_remote_write_lag_seconds{{{DAEMON}}})", "{{target}}")),
        graph("Samples written", "Samples that a target took, and that it refused for good.", "ops",
              query(f"sum by (target, outcome) ({_rate('anomalyd_remote_write_samples_total')})",
                    "{{target}} {{outcome}}")),
        bars(graph("Requests by outcome", "Retry: sent again later; refused: not sent again.", "ops",
                   query(f"sum by (target, outcome, reason) ({_rate('anomalyd_remote_write_requests_total')})",
                         "{{target}} {{outcome}} {{reason}}"))),
        graph("Bytes sent", "Compressed bodies of all requests, retries too.", "Bps",
              query(f"sum by (target) ({_rate('anomalyd_remote_write_bytes_total')})", "{{target}}")),
    )  # fmt: skip


def _verdicts() -> tuple[TimeSeries, ...]:
    left_out = f"sum(anomaly_series_not_exported{{{DAEMON}}})"
    return (
        graph("Open episodes", "Episodes that are open, by rule and tier.", "short",
              query(f"sum by (rule, tier) (anomalyd_episodes_open{{{DAEMON}}})", "{{rule}} {{tier}}")),
        bars(graph("Verdicts by kind", "Every series, every slot: normal, anomalous, warming up, missing, unknown.",
                   "ops", query(f"sum by (kind) ({_rate('anomalyd_verdicts_total')})", "{{kind}}"))),
        graph("Series beyond a limit", "Not scored because the rule has too many series, or scored but not exported.",
              "short", query(f"sum by (rule) (anomalyd_series_limited{{{DAEMON}}})", "limited: {{rule}}"),
              query(left_out, "not exported", "B")),
        graph("Database errors", "Failed transactions by reason; their slots are evaluated again.", "ops",
              query(f"sum by (reason) ({_rate('anomalyd_store_errors_total')})", "{{reason}}")),
    )  # fmt: skip


def _delivery() -> tuple[TimeSeries, ...]:
    return (
        bars(graph("Deliveries by outcome", "Attempts to deliver, and notifications held back or dropped.", "ops",
                   query(f"sum by (outcome) ({_rate('anomalyd_notifications_total')})", "{{outcome}}"))),
        graph("What did not arrive", "Attempts that were not delivered, by receiver and reason.", "ops",
              query('sum by (receiver, outcome, reason) (rate(anomalyd_notifications_total{outcome!="delivered", '
                    f"{DAEMON}}}[$__rate_interval]))", "{{receiver}} {{outcome}} {{reason}}")),
        graph("Notifications owed", "In the outbox and not yet delivered.", "short",
              query(f"sum by (receiver) (anomalyd_outbox_pending{{{DAEMON}}})", "{{receiver}}")),
        graph("Oldest owed", "Age of the oldest notification owed to a receiver.", "s",
              query(f"max by (receiver) (anomalyd_outbox_oldest_age_seconds{{{DAEMON}}})", "{{receiver}}")),
    )  # fmt: skip


def render() -> dict[str, str]:
    """File name to JSON of every dashboard."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    made = {"anomalies.json": anomalies(), "daemon.json": daemon()}
    return {name: encoder.encode(numbered(one.build())) + "\n" for name, one in made.items()}


def numbered(made: model.Dashboard) -> model.Dashboard:
    """Give every panel an id of its own, so that links to a panel survive an import."""
    for number_, panel in enumerate(made.panels or [], 1):
        panel.id_val = number_
    return made


def main(arguments: list[str]) -> int:
    stale = [name for name, text in render().items() if _read(HERE / name) != text]
    if "--check" in arguments:
        for name in stale:
            print(f"{HERE / name} is stale: run python grafana/dashboards.py", file=sys.stderr)
        return 1 if stale else 0
    for name, text in render().items():
        (HERE / name).write_text(text)
    return 0


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
