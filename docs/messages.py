"""Pictures of the messages as their readers see them, for receivers.md.

The bodies are those that the receivers send, put into pages that show them as Slack, Teams, a mail program, PagerDuty
and Grafana do on a phone; Chromium makes the pictures. ``python docs/messages.py [FOLDER]`` writes them anew; it needs
playwright, Chromium and the extra ``images``.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from anomalyd.block import fingerprint, make_labels
from anomalyd.chart import Drawn, draw
from anomalyd.console.links import Signer, link_actions, link_charts, link_places
from anomalyd.incident import Alert, Notification, Reason, Statement
from anomalyd.receivers.blocks import message
from anomalyd.receivers.bodies import own_body
from anomalyd.receivers.email import page as email_page
from anomalyd.receivers.grafana import _text as grafana_text
from anomalyd.receivers.pagerduty import PagerDuty, PagerDutySettings
from anomalyd.receivers.teams import card
from anomalyd.render import Background, Chart, Rendered, Verdict, render
from anomalyd.score import Tier
from anomalyd.secret import Secret

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDTH = 390
MINUTE = 60_000
START = 1_767_323_045_000
WEEK = 7 * 86_400_000
SIGNER, DAEMON = Signer(b"a key for pictures only"), "https://anomalyd.example"
ACTIONS = link_actions(SIGNER, DAEMON, WEEK, False)
BUTTONS = link_actions(SIGNER, DAEMON, WEEK, True)
PLACES = link_places(SIGNER, DAEMON, WEEK)
CHARTS = link_charts(SIGNER, DAEMON, WEEK)
PAST = "4 times, last on 29 Dec (false alarm); 2 false alarm, 1 real"
LIKE = "2 of 3 like it were called false alarms (last 29 Dec, by ben)"


@dataclass(frozen=True)
class Told:
    """One message: what is said and its words, for a receiver with buttons of its own and for others."""

    notification: Notification
    rendered: Rendered
    buttons: Rendered
    picture: str


def alert(labels: Mapping[str, str], tier: Tier, value: float, **changes: Any) -> Alert:
    made = make_labels(dict(labels))
    one = Alert(
        episode="ep-1", fingerprint=fingerprint(made), labels=made, tier=tier, status="firing", why="surprise",
        value=value, expected=0.4, lower=0.31, upper=0.52, surprise=7.2, anomaly_score=1.7, started_at=START,
        opened_at=START + 3 * MINUTE,
    )  # fmt: skip
    return replace(one, **changes)


def statements() -> list[Statement]:
    """A new critical incident, a storm, and the end of the first."""
    first = Statement(
        incident="5f0c", key="3f5c" * 16, rule="checkout/CheckoutLatencyP99", group="checkout",
        name="CheckoutLatencyP99", expr="histogram_quantile(0.99, checkout_seconds)", detector="stl",
        reason=Reason.NEW, tier=Tier.CRITICAL, at=START + 3 * MINUTE, opened_at=START + 3 * MINUTE,
        group_labels=(("region", "eu"),), labels={"team": "payments"},
        annotations={
            "summary": "Checkout in eu takes 1.93 s at p99", "runbook_url": "https://runbook.example/p99",
            "description": "Customers wait at the last step. Look at the payment provider first.",
        },
        alerts=(alert({"region": "eu", "service": "checkout"}, Tier.CRITICAL, 1.93),), total=1,
        links={"Prometheus": "https://prometheus.example/graph?g0.expr=checkout"}, siblings=4,
    )  # fmt: skip
    crowd = tuple(
        alert({"cluster": "fra1", "pod": f"api-{i:03}"}, Tier.CRITICAL, 0.98 - i / 1_000, surprise=14 - i / 10)
        for i in range(50)
    )
    storm = replace(
        first, incident="77aa", rule="k8s/PodCpu", name="PodCpu", group="k8s", expr="rate(cpu[5m])", alerts=crowd,
        total=1_000, siblings=1_240, tier=Tier.EMERGENCY, group_labels=(("cluster", "fra1"),), annotations={},
    )  # fmt: skip
    at = START + 48 * MINUTE
    ended = replace(first.alerts[0], status="resolved", closed_at=at, close="recovered", value=0.41)
    return [first, storm, replace(first, reason=Reason.RESOLVED, at=at, alerts=(ended,))]


def chart_of(s: Statement) -> Chart:
    """A chart such as the daemon draws from its scores."""
    times = s.at - np.arange(240, dtype=np.int64)[::-1] * MINUTE
    lead = s.alerts[0]
    rng = np.random.default_rng(1)
    expected = 0.4 + 0.05 * np.sin(np.arange(240) / 40)
    until = lead.closed_at or s.at + 1
    odd = (times >= lead.started_at) & (times < until)
    jump = 0.58 if s.tier == Tier.EMERGENCY else 1.5
    values = expected + rng.normal(0, 0.02, 240) + np.where(odd, jump, 0)
    title = f"{s.name} {lead.labels[-1][1]}"
    shown = Drawn(title, times, values, expected, expected - 0.1, expected + 0.1, lead.started_at, lead.closed_at)
    return Chart(png=draw(shown), alt="Chart")


def told() -> list[Told]:
    made = []
    for s in statements():
        drawn = chart_of(s)
        chart = replace(CHARTS(s) or drawn, png=drawn.png)
        said = Background() if s.total > 1 else Background(PAST, like=LIKE)
        if s.resolved:
            said = Background(PAST, "real", (Verdict("real", "ana (U02AN7)", s.at - 5 * MINUTE),))
        by_link, by_button = (
            render(s, s.at, "r", actions, lambda _, chart=chart: chart, places=PLACES, background=said)  # type: ignore[misc]
            for actions in (ACTIONS, BUTTONS)
        )
        made.append(Told(Notification(f"n-{s.incident}", "r", s, s.at), by_link, by_button, _data(drawn.png)))
    return made


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


# Slack: Block Kit ----------------------------------------------------------------------------------------------------


_SIGNS = {"🟡": "#f2c744", "🟠": "#e8912d", "🔴": "#d72b3f", "✅": "#2eb67d"}


def slack(one: Told) -> str:
    blocks = "".join(_block(b, one.picture) for b in message(one.notification, one.buttons)["blocks"])
    return f'<div class="slack"><div class="who"><b>anomalyd</b> <i>APP</i> 04:07</div>{blocks}</div>'


def _block(b: Mapping[str, Any], picture: str) -> str:
    kind = b["type"]
    if kind == "header":
        # This machine may have no font with these signs.
        sign, _, title = _slack_text(b["text"]).partition(" ")
        return f'<div class="header"><span style="color:{_SIGNS[sign]}">&#9679;</span> {title}</div>'
    if kind == "section" and "fields" in b:
        return '<div class="fields">' + "".join(f"<div>{_slack_text(f)}</div>" for f in b["fields"]) + "</div>"
    if kind == "section":
        return f'<div class="section">{_slack_text(b["text"])}</div>'
    if kind == "context":
        return '<div class="context">' + " ".join(_slack_text(e) for e in b["elements"]) + "</div>"
    if kind == "image":
        return f'<img src="{picture}" alt="{escape(b["alt_text"])}">'
    if kind == "actions":
        return '<div class="actions">' + "".join(_button(e) for e in b["elements"]) + "</div>"
    raise AssertionError(f"no picture of a block of type {kind}")


def _button(e: Mapping[str, Any]) -> str:
    if e["type"] == "static_select":
        return f'<span class="button">{_slack_text(e["placeholder"])} &#9662;</span>'
    return f'<span class="button {e.get("style", "")}">{_slack_text(e["text"])}</span>'


def _slack_text(t: Mapping[str, Any]) -> str:
    text = t["text"].replace("\n", "<br>")  # Slack's own entities are those of HTML
    if t["type"] == "mrkdwn":
        text = re.sub(r"\*([^*<]+)\*", r"<b>\1</b>", re.sub(r"`([^`]+)`", r"<code>\1</code>", text))
    return str(text)


# Teams: adaptive card ------------------------------------------------------------------------------------------------

_CARD_COLORS = {"Attention": "#c4314b", "Warning": "#986f0b", "Good": "#237b4b", "Accent": "#5b5fc7"}


def teams(one: Told) -> str:
    content = card(one.notification.statement, one.rendered)["attachments"][0]["content"]
    body = "".join(_element(e, one.picture) for e in content["body"])
    actions = "".join(f'<span class="button">{escape(a["title"])}</span>' for a in content.get("actions", []))
    return f'<div class="teams">{body}<div class="actions">{actions}</div></div>'


def _element(e: Mapping[str, Any], picture: str) -> str:
    if e["type"] == "Image":
        return f'<img src="{picture}" alt="{escape(e["altText"])}">'
    if e["type"] == "FactSet":
        rows = "".join(f"<tr><th>{escape(f['title'])}</th><td>{_card_text(f['value'])}</td></tr>" for f in e["facts"])
        return f"<table>{rows}</table>"
    assert e["type"] == "TextBlock", e["type"]
    style = f"color:{_CARD_COLORS.get(e.get('color', ''), 'inherit')};" + ("opacity:.7;" if e.get("isSubtle") else "")
    style += ("font-size:19px;" if e.get("size") == "Large" else "") + (
        "font-weight:700;" if e.get("weight") == "Bolder" else ""
    )
    return f'<p style="{style}">{_card_text(e["text"])}</p>'


def _card_text(text: str) -> str:
    linked = re.sub(r"(?<!\\)\[(.*?)(?<!\\)\]\((\S+?)\)", r"<a>\1</a>", escape(text))
    return re.sub(r"\\([\[\]*_`])", r"\1", linked).replace("\n\n", "<br>")


# Email, PagerDuty, Grafana, webhook -----------------------------------------------------------------------------------


def email(one: Told) -> str:
    subject = f'<div class="subject">{escape(one.rendered.title)}</div><div class="from">anomalyd to payments</div>'
    return f'<div class="email">{subject}{email_page(one.notification.statement, one.rendered, one.picture)}</div>'


def pagerduty(one: Told) -> str:
    s = one.notification.statement
    receiver = PagerDuty(PagerDutySettings(name="p", type="pagerduty", routing_key=Secret("0" * 32)))
    if s.resolved:
        return '<div class="pd"><b>Resolved</b> through the API (PagerDuty takes no text with it)</div>'
    event = receiver._trigger(s, one.rendered)
    receiver.close()
    payload = event["payload"]
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{_detail(v)}</td></tr>" for k, v in payload["custom_details"].items())
    links = " ".join(f"<a>{escape(link['text'])}</a>" for link in event.get("links", []))
    links += "".join(f'<img src="{one.picture}" alt="{escape(i["alt"])}">' for i in event.get("images", []))
    small = f"{payload['severity']} · {escape(payload['source'])}"
    head = f"<b>{escape(payload['summary'])}</b><div class=from>{small}</div>"
    return f'<div class="pd">{head}<table>{rows}</table><p>{links}</p></div>'


def _detail(value: Any) -> str:
    return escape(str(value)) if not isinstance(value, list) else "<br>".join(escape(v) for v in value)


def grafana(one: Told) -> str:
    text = grafana_text(one.notification.statement, one.rendered)
    return f'<div class="grafana"><div class="from">2026-01-02 04:04:05</div>{text}</div>'


def webhook(one: Told) -> str:
    body = own_body(one.notification, one.rendered)
    body["alerts"] = body["alerts"][:1]
    body["chart_png"] = ""
    text = json.dumps(body, indent=1, ensure_ascii=False)
    shown = re.sub(r"(/[fc]/v1.{12})[^?\"]+?(\.png|(?=[?\"]))", r"\1…\2", text)
    return f"<pre>{escape(shown)}</pre>"


STYLE = """
body{margin:0;padding:10px;background:#fff;font:15px/1.4 "Liberation Sans",Arial,sans-serif;color:#1d1c1d;width:370px}
body>div,pre{margin-bottom:14px;overflow-wrap:anywhere}
code{background:#f6f6f6;border:1px solid #ddd;border-radius:3px;padding:0 3px;color:#c01343;font-size:12px}
table{border-spacing:0} img{max-width:100%;display:block;margin:8px 0} a{color:#1264a3}
th{text-align:left;white-space:nowrap;vertical-align:top;padding-right:10px;color:#616061;font-weight:400}
.who i{background:#eee;font-size:10px;font-style:normal;padding:1px 3px} .who{font-size:14px;margin-bottom:4px}
.slack{border-bottom:1px solid #ddd;padding-bottom:10px} .header{font-weight:700;font-size:18px;line-height:1.3}
.section{margin:6px 0} .fields{display:grid;grid-template-columns:1fr 1fr;gap:6px 10px;margin:6px 0}
.context,.from{color:#616061;font-size:12px} .actions{display:flex;flex-wrap:wrap;gap:6px;margin-top:8px}
.button{border:1px solid #bbb;border-radius:4px;padding:4px 10px;font-weight:700;font-size:13px}
.primary{background:#007a5a;color:#fff;border-color:#007a5a} .danger{background:#e01e5a;color:#fff}
.teams{border:1px solid #ddd;border-radius:6px;padding:10px;font-size:14px} .teams p{margin:4px 0}
.email{border-bottom:1px solid #ddd} .subject{font-size:19px} .pd{border:1px solid #ddd;padding:10px;font-size:14px}
.grafana{background:#1f1f23;color:#ccccdc;padding:10px;white-space:pre-line} .grafana a{color:#6e9fff}
pre{font-size:11px;white-space:pre-wrap}
"""

SHOWN = {"slack": slack, "teams": teams, "email": email, "pagerduty": pagerduty, "grafana": grafana, "webhook": webhook}


def picture(browser: Browser, body: str) -> bytes:
    """The page as a small PNG."""
    view = browser.new_page(viewport={"width": WIDTH, "height": 600})
    view.set_content(f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{body}")
    shot = view.screenshot(full_page=True)
    view.close()
    small = io.BytesIO()
    # By coverage and not by frequency: the little that is red in a picture is what it is about.
    seen = Image.open(io.BytesIO(shot)).convert("RGB")
    few = seen.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(small, "PNG", optimize=True)
    return small.getvalue()


def write(path: Path, png: bytes) -> None:
    path.write_bytes(png)
    assert len(png) < 60_000, f"{path.name}: {len(png)} bytes"


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    messages = told()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for name, show in SHOWN.items():
            shown = messages[:1] if name == "webhook" else messages
            write(folder / f"{name}.png", picture(browser, "".join(show(one) for one in shown)))
        write(folder / "slack-first.png", picture(browser, slack(messages[0])))  # for the README
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "messages")
