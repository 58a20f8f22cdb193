"""What the list of rules says: one row a rule, those in trouble first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from anomalyd import __version__
from anomalyd.console.parts import Parts
from anomalyd.console.places import graph_url
from anomalyd.console.rulestate import Counts, Judged, RuleState, Spent, ago, amount, sight_of, state_of
from anomalyd.evaluation.fits import FAR_MS, refit_at
from anomalyd.render import clean, clock_time, safe_url, span
from anomalyd.rule import Rule

RULES_A_PAGE = 100

T = TypeVar("T")


def rules_view(parts: Parts, wanted: str, page: int) -> dict[str, Any]:
    """All that the template of the list shows: the rules that have all the words that are ``wanted``."""
    running = list(parts.rules().values())
    chosen = [rule for rule in running if holds(f"{rule.id} {rule.detector.type} {rule.expr} {rule.where}", wanted)]
    sight = sight_of(parts, chosen)
    states = sorted((state_of(parts, rule, sight) for rule in chosen), key=lambda state: state.rank)
    shown, pages = paged(states, page, RULES_A_PAGE, wanted)
    return {
        "title": "Rules", "root": "", "version": __version__, "wanted": wanted, "pages": pages, "total": len(running),
        "found": len(states), "look": sum(state.rank < 3 for state in states),
        "tier": next((state.worst.tier for state in states if state.worst.tier), ""),
        "rules": [_row(parts, state, sight.now) for state in shown],
    }  # fmt: skip


def _row(parts: Parts, state: RuleState, now: int) -> dict[str, Any]:
    rule = state.rule
    return {
        "href": href(rule), "name": clean(rule.name, 120), "group": clean(rule.group, 80), "mode": rule.mode,
        "where": clean(rule.where, 200), "detector": rule.detector.type, "graph": graph_of(parts, rule),
        "expr": clean(rule.expr, 160), "word": state.worst.word, "tier": state.worst.tier,
        "troubles": [one.text for one in state.troubles][:4],
        "spent": spent_words(state.spent), "judged": judged_words(state.judged), "series": series_words(state.counts),
        "slot": slot_words(state, now), "model": model_words(state, now),
    }  # fmt: skip


# Shared with the page of one rule -------------------------------------------------------------------------------------


def href(rule: Rule) -> str:
    """The address of a rule's page below the root; a part that a browser would fold away keeps its slash encoded."""
    parts = rule.id.split("/")
    return "rules/" + quote(rule.id, safe="" if {"", ".", ".."} & {*parts} else "/")


def graph_of(parts: Parts, rule: Rule) -> str:
    """The expression on its source, where that is an address a browser may be sent to."""
    url = graph_url(parts.settings(), rule)
    return url if safe_url(url) else ""


def holds(text: str, wanted: str) -> bool:
    """Whether a text has all the words that are wanted, in whatever case."""
    low = text.lower()
    return all(word in low for word in wanted.lower().split())


def paged(things: Sequence[T], page: int, size: int, wanted: str) -> tuple[Sequence[T], list[tuple[str, str]]]:
    """One page of a list, and the links to the pages around it: their text and address."""
    last = max(1, -(-len(things) // size))
    page = min(max(1, page), last)
    around = [to for to in (page - 1, page + 1) if 1 <= to <= last]
    links = [(f"page {to} of {last}", "?" + urlencode({"q": wanted, "page": to})) for to in around]
    return things[(page - 1) * size : page * size], links


def spent_words(s: Spent) -> str:
    """Alerts against the budget."""
    count = f"{'at least ' if s.more else ''}{s.alerts:,} alert{'' if s.alerts == 1 else 's'}"
    count += f" in {s.incidents:,} incident{'' if s.incidents == 1 else 's'}" if s.incidents != s.alerts else ""
    return count if math.isnan(s.allowed) else f"{count}; budget {amount(s.allowed)}"


def judged_words(j: Judged) -> str:
    """How many judged alerts were real."""
    return f"{j.real} of {j.of} judged {'was' if j.of == 1 else 'were'} real ({j.real / j.of:.0%})" if j.of else ""


def series_words(c: Counts) -> str:
    """How many series are scored, and what became of the others."""
    rest = (
        (c.young, "young"), (c.warming, "warming up"), (c.missing, "without sample"), (c.faulty, "faulty"),
        (c.stale, "stale"), (c.waiting, "at the door"), (c.limited, "beyond the limit"), (c.duplicate, "duplicate"),
        (c.gone, "gone"),
    )  # fmt: skip
    return ", ".join([f"{c.scored:,} scored", *(f"{count:,} {word}" for count, word in rest if count)])


def slot_words(state: RuleState, now: int) -> str:
    """When the newest slot was, and how long it took."""
    if not state.at:
        return "none yet"
    took = f", took {state.slot.duration_s:.2g} s" if state.slot is not None and state.slot.duration_s else ""
    return f"{clock_time(state.at, now)}, {ago(state.at, now)}{took}"


def model_words(state: RuleState, now: int) -> str:
    """How old the model is and when it is fitted next."""
    run = state.run
    if run is None:
        return "not running here"
    memory = run.memory
    age = f"learned up to {ago(memory.fitted_at, now)}" if memory.fitted_at else "not fitted yet"
    if run.fitting is not None and not run.fitting.done():
        return f"{age}; a fit is under way"
    if memory.state is None:
        return age
    due = refit_at(run, memory)
    if due >= FAR_MS:
        return f"{age}; learns with every sample"
    return f"{age}; next fit {'is due' if due <= now else 'in ' + span(due - now)}"
