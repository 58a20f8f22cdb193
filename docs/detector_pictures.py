"""The pictures of the detectors' pages: the toy series with its band, the surprise with the cut, what was planted.

    python docs/detector_pictures.py [NAME ...]      draw them anew, all or the named ones

Each is the real detector's answer on its scene (``scenes.py``), drawn with the reports' own drawing code. SVG with a
background of its own, so that it reads on light and on dark pages; colours follow the reader's scheme.
"""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path

import numpy as np
from scenes import SCENES
from toys import CUT, Broken, Plant, Played, Scene, heard, played

from anomalyd.block import F64
from anomalyd.workbench.report.svg import HEIGHT as BODY_UNITS
from anomalyd.workbench.report.svg import SCORE_HEIGHT as SCORE_UNITS
from anomalyd.workbench.report.svg import WIDTH as UNITS
from anomalyd.workbench.report.svg import Chart, Strip, draw

FOLDER = Path(__file__).parent / "detectors"
WIDTH, LEFT, RIGHT = 860, 52, 16
TOP, BODY, SCORE, GAP = 66, 190, 70, 34
LETTER = 6.9
INNER = WIDTH - LEFT - RIGHT

STYLE = """
svg { --page: #ffffff; --line: #d5dae3; --ink: #1b2230; --soft: #5b6577; --value: #1f5fbf; --band: #1f5fbf26;
  --expected: #8a94a6; --score: #7a869c80; --cut: #c2410c; --found: #c2410c; --missed: #5b6577; --other: #9aa6ba; }
@media (prefers-color-scheme: dark) {
  svg { --page: #161b22; --line: #2f3947; --ink: #e6eaf2; --soft: #9aa6ba; --value: #6ea8ff; --band: #6ea8ff30;
    --expected: #7c889c; --score: #8a97ad80; --cut: #ff8a4c; --found: #ff8a4c; --missed: #9aa6ba; --other: #5b6577; }
}
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--soft); }
.head { fill: var(--ink); font-weight: 600; } .y { text-anchor: end; } .x, .n { text-anchor: middle; }
.page { fill: var(--page); stroke: var(--line); } .frame { fill: none; stroke: var(--line); }
.in * { vector-effect: non-scaling-stroke; }
.value { fill: none; stroke: var(--value); stroke-width: 1.5; stroke-linejoin: round; }
.other { fill: none; stroke: var(--other); stroke-width: 1; opacity: .8; }
.expected { fill: none; stroke: var(--expected); stroke-width: 1; stroke-dasharray: 4 3; }
.band { fill: var(--band); } .score { fill: var(--score); }
.cut, .limit { stroke: var(--cut); stroke-width: 1.2; stroke-dasharray: 5 3; fill: none; }
.cutword { fill: var(--cut); }
.found { fill: var(--found); } .missed { fill: var(--missed); } .shade { opacity: .16; }
circle + text { fill: var(--page); font-weight: 700; }
"""


def picture(name: str, scene: Scene) -> str:
    """The SVG of a scene; raise ``Broken`` where it does not show what it promises."""
    play = played(name, scene)
    surprise = play.scores.surprise[scene.focus]
    answers = heard(scene, surprise)
    for plant, answer in zip(scene.plants, answers, strict=True):
        if answer != plant.found:
            raise Broken(f"{name}: {plant.words!r} was {'found' if answer else 'not found'}")
    return drawn(name, scene, play)


def drawn(name: str, scene: Scene, play: Played) -> str:
    charts = [_chart(scene, play, row) for row in _rows(scene, play)]
    parts, top = [], TOP
    body = BODY if len(charts) == 1 else 110
    for i, chart in enumerate(charts):
        extra = _siblings(scene, play, chart) + _limit(scene, chart)
        parts.append(_panel(chart.body, extra, top, body, BODY_UNITS, scene.plants, len(play.block.times)))
        parts += [_y(tick.text, top + tick.at * body) for tick in chart.y]
        top += body + (8 if i < len(charts) - 1 else GAP)
    lead = charts[scene.focus if len(charts) > 1 else 0]
    parts.append(_panel(lead.score, "", top, SCORE, SCORE_UNITS, scene.plants, len(play.block.times)))
    parts.append(_y(f"{CUT:.1f}", top + lead.cut_at * SCORE, "y cutword"))
    parts.append(_y("0", top + SCORE))
    parts.append(f'<text x="{LEFT}" y="{top - 8}" class="head">surprise</text>')
    parts.append(f'<text x="{LEFT + INNER}" y="{top - 8}" class="y cutword">above the line: anomalous</text>')
    parts += [
        f'<text class="x" x="{LEFT + tick.at * INNER:.0f}" y="{top + SCORE + 18}">{tick.text}</text>' for tick in lead.x
    ]
    parts.append(_flags(scene.plants, len(play.block.times)))
    height = top + SCORE + 30
    head = f'<text x="{LEFT}" y="24" class="head">{escape(name)}: {escape(scene.about)}</text>'
    title = f"<title>{escape(name)}: {escape(scene.about)}</title>"
    page = f'<rect class="page" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img">{title}<style>{STYLE}</style>{page}{head}\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _rows(scene: Scene, play: Played) -> list[int]:
    return list(range(len(play.block))) if scene.panels else [scene.focus]


def _chart(scene: Scene, play: Played, row: int) -> Chart:
    values, scores = play.block.values[row].astype(np.float32), play.scores
    expected, lower, upper, surprise = (
        part[row].astype(np.float32) for part in (scores.expected, scores.lower, scores.upper, scores.surprise)
    )
    strip = Strip(play.block.times, values, values, expected, lower, upper, surprise, CUT)
    return draw(strip, ())


def _panel(inside: str, extra: str, top: float, height: float, units: float, plants: tuple[Plant, ...], n: int) -> str:
    inside = re.sub(r'<polygon class="range"[^>]*/>', "", inside)
    shades = "".join(_shade(plant, n, units) for plant in plants)
    frame = f'<rect class="frame" width="{UNITS:g}" height="{units:g}"/>'
    return (
        f'<svg class="in" x="{LEFT}" y="{top}" width="{INNER}" height="{height}" viewBox="0 0 {UNITS:g} {units:g}" '
        f'preserveAspectRatio="none">{frame}{shades}{extra}{inside}</svg>'
    )


def _shade(plant: Plant, n: int, units: float) -> str:
    x, width = plant.at / n * UNITS, max(4.0, plant.length / n * UNITS)
    kind = "found" if plant.found else "missed"
    return f'<rect class="shade {kind}" x="{x - 1:.1f}" width="{width + 2:.1f}" height="{units:g}"/>'


def _flags(plants: tuple[Plant, ...], n: int) -> str:
    """A numbered flag over each plant with what came of it; pushed aside where two would overlap."""
    parts, free = [], float(LEFT)
    widths = [36 + LETTER * len(_words(plant)) for plant in plants]
    room = WIDTH - RIGHT
    for i, plant in enumerate(plants):
        middle = LEFT + (plant.at + min(plant.length, n - plant.at) / 2) / n * INNER
        x = min(max(free, middle - widths[i] / 2), room - sum(widths[i:]))
        free = x + widths[i]
        kind = "found" if plant.found else "missed"
        parts.append(
            f'<circle class="{kind}" cx="{x + 9:.0f}" cy="48" r="9"/><text class="n" x="{x + 9:.0f}" y="52.5">{i + 1}'
            f'</text><text x="{x + 23:.0f}" y="52.5" class="{kind}">{escape(_words(plant))}</text>'
        )
    return "".join(parts)


def _words(plant: Plant) -> str:
    return f"{plant.words}: {'found' if plant.found else 'not found'}"


def _line(values: F64, chart: Chart, kind: str) -> str:
    share = (np.clip(values, chart.low, chart.high) - chart.low) / (chart.high - chart.low)
    xs = np.linspace(0, UNITS, len(values))
    ys = BODY_UNITS * (1 - share)
    points = " ".join(f"{x:.0f},{y:.0f}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline class="{kind}" points="{points}"/>'


def _siblings(scene: Scene, play: Played, chart: Chart) -> str:
    rows = [i for i in range(len(play.block)) if i != scene.focus and scene.siblings]
    return "".join(_line(play.block.values[i], chart, "other") for i in rows)


def _limit(scene: Scene, chart: Chart) -> str:
    if scene.limit is None:
        return ""
    return _line(np.array([scene.limit, scene.limit]), chart, "limit")


def _y(text: str, y: float, kind: str = "y") -> str:
    return f'<text class="{kind}" x="{LEFT - 7}" y="{y + 4.5:.0f}">{text}</text>'


def main(names: list[str]) -> int:
    FOLDER.mkdir(exist_ok=True)
    for name in names or SCENES:
        (FOLDER / f"{name}.svg").write_text(picture(name, SCENES[name]), encoding="utf-8")
        sys.stdout.write(f"{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
