"""The faults of receivers (57 to 75) and of hostile input (93 to 97): each is provoked by the tests named here.

The table is read against the files: a test that is renamed or lost fails here, and so does a fault without one.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SCENARIOS = "scenario/delivery"

FAULTS: dict[int, tuple[str, tuple[str, ...]]] = {
    57: ("a receiver is down for hours", (
        f"{SCENARIOS}/outage.txt", f"{SCENARIOS}/escalates_in_outage.txt", f"{SCENARIOS}/restart.txt",
        "unit/test_deliver.py::test_an_outage_longer_than_the_page_age_loses_nothing",
        "unit/test_deliver.py::test_retry_backs_off_and_recovers",
        "contract/test_store_outbox.py::test_outbox_stats",
    )),
    58: ("a receiver is slow or hangs", (
        "contract/test_receivers.py::test_network_faults", "unit/test_deliver.py::test_receivers_are_isolated",
        "unit/test_picture.py::test_a_slow_chart_holds_nothing_up",
    )),
    59: ("429 with Retry-After: seconds, a date, absurd", (
        "contract/test_receivers.py::test_retry_after", f"{SCENARIOS}/rate_limit.txt", f"{SCENARIOS}/budget.txt",
        "unit/test_deliver.py::test_rate_limit_closes_the_gate_and_emergencies_go_first",
        "unit/test_deliver.py::test_absurd_retry_after_is_not_obeyed",
    )),
    60: ("4xx for good", (
        "contract/test_receivers.py::test_statuses", "unit/test_deliver.py::test_failed_is_final",
        "unit/test_deliver.py::test_what_is_refused_for_good_goes_to_the_fallback_with_its_end",
    )),
    61: ("401, 403, 404, 410: a revoked token, an archived channel", (
        "contract/test_receivers.py::test_statuses", "contract/test_receivers_each.py::test_slack_says_no_with_200",
        "unit/test_deliver.py::test_a_receiver_that_refuses_for_good_is_told_through_the_others",
    )),
    62: ("TLS: expired, wrong host, unknown authority, plain HTTP on its port", (
        "contract/test_receivers.py::test_bad_certificates", "contract/test_receivers.py::test_tls_on_a_plain_port",
        "contract/test_receivers_more.py::test_email_network_faults",
    )),
    63: ("taken, but the answer is lost", (
        "contract/test_receivers.py::test_lost_answer_collapses", f"{SCENARIOS}/doubt.txt",
        "unit/test_deliver.py::test_died_between_send_and_settle_is_in_doubt",
    )),
    64: ("Slack says no with 200", (
        "contract/test_receivers_each.py::test_slack_says_no_with_200",
        "contract/test_receivers_each.py::test_slack_webhook_bodies",
    )),
    65: ("a message over the limits", (
        "contract/test_receivers.py::test_hostile_statements_stay_within_limits",
        "contract/test_receivers_each.py::test_pagerduty_too_large_event_is_cut",
        "contract/test_charts.py::test_a_chart_that_slack_cannot_fetch_costs_only_the_chart",
    )),
    66: ("a trigger retried after its resolve", (
        "unit/test_deliver.py::test_only_the_newest_is_sent",
        "contract/test_store_outbox.py::test_nothing_overtakes_a_row_in_flight",
        "contract/test_receivers_each.py::test_pagerduty_late_resolve_leaves_the_next_incident_alone",
    )),
    67: ("PagerDuty's routing key changed while an alert is open", (
        "contract/test_receivers_each.py::test_pagerduty_resolves_through_the_key_that_triggered",
    )),
    68: ("a Slack message was deleted", ("contract/test_receivers_each.py::test_slack_message_deleted",)),
    69: ("a Grafana annotation with unknown outcome", (
        "contract/test_receivers_each.py::test_grafana_without_memory_finds_its_annotation",
        "unit/test_past.py::test_an_annotation_that_was_lost_is_found_by_its_tag",
    )),
    70: ("Alertmanager answers 400 to a mixed batch", (
        "contract/test_receivers_more.py::test_bad_alerts_do_not_stop_good_ones",
    )),
    71: ("Alertmanager was restarted", (
        "contract/test_receivers_more.py::test_kept_alive_until_resolved",
        "contract/test_receivers_more.py::test_restore_takes_up_what_was_told_before",
        "contract/test_receivers_more.py::test_real_alertmanager",
        "unit/test_deliver_quiet.py::test_keep_alive_every_minute_and_after_a_restart",
    )),
    72: ("a storm of a thousand series", (
        f"{SCENARIOS}/storm.txt", f"{SCENARIOS}/storm_joins.txt",
        "contract/test_store_outbox.py::test_series_beyond_the_top_list_are_told_too",
        "unit/test_render.py::test_many_series_are_listed_and_counted",
    )),
    73: ("a series that flaps", (
        f"{SCENARIOS}/flapping.txt", f"{SCENARIOS}/flapping_restart.txt", f"{SCENARIOS}/window.txt",
    )),
    74: ("escalation within the cooldown; de-escalation", (
        f"{SCENARIOS}/escalation.txt", f"{SCENARIOS}/deescalation.txt", f"{SCENARIOS}/escalates_silenced_series.txt",
        "scenario/test_escalation.py::test_an_incident_becomes_worse_and_never_pages_for_less",
    )),
    75: ("a receiver is set up wrong and unused for weeks", (
        "unit/test_preflight.py::test_what_run_refuses_check_finds",
        "unit/test_preflight.py::test_probing_finds_receivers_that_cannot_be_reached_and_sends_nothing",
        "system/test_receivers_command.py::test_a_test_message_arrives_or_the_command_says_why_not",
    )),
    93: ("a forged, replayed, stale, altered, huge callback", (
        "contract/test_api_inbound.py::test_nothing_unsigned_is_taken",
        "contract/test_api_inbound.py::test_a_stale_signature_is_not_taken",
        "contract/test_api_inbound.py::test_a_replayed_request_and_a_repeated_press_count_once",
        "contract/test_api_inbound.py::test_forged_altered_and_strange_requests_are_not_taken",
        "contract/test_charts.py::test_expired_forged_and_unknown_say_so",
        "contract/test_api.py::test_large_and_deep_bodies_are_refused",
    )),
    94: ("a flood of votes to mute a rule", (
        "unit/test_feedback.py::test_a_flood_of_votes_by_one_person_has_a_limit",
        "unit/test_feedback.py::test_a_day_moves_a_cut_by_a_bounded_factor",
        "unit/test_feedback.py::test_moved_cuts_stay_in_order_and_an_emergency_still_pages",
        "contract/test_api_pages.py::test_the_limit_of_votes_is_told_on_the_page",
    )),
    95: ("another site's page acts; clickjacking", (
        "contract/test_api.py::test_another_sites_page_cannot_act_in_the_users_name",
        "contract/test_api_pages.py::test_a_form_needs_the_cookie_of_its_browser",
        "contract/test_api_pages.py::test_nobody_may_frame_the_page_or_run_a_script_in_it",
        "contract/test_charts.py::test_the_address_is_no_key_to_anything_else",
    )),
    96: ("script by label, query or user name; a javascript: link", (
        "contract/test_api_pages.py::test_hostile_text_stays_text",
        "contract/test_api_inbound.py::test_hostile_names_stay_text_in_slack",
        "contract/test_receivers_each.py::test_grafana_text_is_escaped", "unit/test_render.py::test_safe_urls",
    )),
    97: ("labels with line breaks, terminal codes, 10 kB, forged log lines and headers", (
        "unit/test_render.py::test_clean_is_safe_for_any_text",
        "unit/test_logs.py::test_a_hostile_value_cannot_forge_a_line",
        "contract/test_receivers_more.py::test_email_hostile_labels_add_no_header",
        "contract/test_api.py::test_labels_of_any_kind_can_be_shown",
        "contract/test_api_pages.py::test_hostile_characters_are_taken_out_of_what_is_shown",
        "contract/test_store_hostile.py::test_labels_are_kept_to_the_character",
    )),
}  # fmt: skip


@cache
def names_in(file: Path) -> frozenset[str]:
    return frozenset(re.findall(r"^def (test_\w+)\(", file.read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("fault", [*range(57, 76), *range(93, 98)])
def test_each_fault_is_provoked(fault: int) -> None:
    """Every fault has tests, and every test that is named is there."""
    what, named = FAULTS[fault]
    assert named, what
    for one in named:
        path, _, test = one.partition("::")
        file = TESTS / path
        assert file.is_file(), f"fault {fault} ({what}): {path} is not there"
        assert not test or test in names_in(file), f"fault {fault} ({what}): {one} is not there"


def test_every_delivery_scenario_is_of_a_kind_that_is_played() -> None:
    """A scenario whose name is wrong would not be played and would prove nothing."""
    files = list((TESTS / SCENARIOS).iterdir())
    assert all(file.suffix == ".txt" for file in files)
