"""A page for each detector, made from its docstring, its parameters and its state.

    python docs/detector_pages.py            bring the pages in docs/detectors/ up to date
    python docs/detector_pages.py --check    exit 1 if one of them is stale

The pictures on them are drawn by ``detector_pictures.py``; what they show is said in ``scenes.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scenes import SCENES
from tables import PARTS, documented, keys, sentence, table
from toys import Scene

from anomalyd.block import Block, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import Detector, Grid, State
from anomalyd.detectors.model import Model
from anomalyd.detectors.registry import detector_info, detector_names, load_detector
from anomalyd.rule import DetectorSpec
from anomalyd.schemas import rules_schema

FOLDER = Path(__file__).parent / "detectors"
STEP_MS = 5 * MINUTE_MS
ORDER = tuple(part for part in PARTS if part != "Reference")
NEEDED: Mapping[str, Mapping[str, object]] = {"forecast": {"limit": 100}}
"""Parameters without which a detector cannot be made."""


@cache
def definitions() -> Mapping[str, Any]:
    """The mappings of a rules file, the detectors' parameters among them."""
    found: Mapping[str, Any] = rules_schema()["definitions"]
    return found


@cache
def page(name: str) -> str:
    """The text of one detector's page."""
    parts, scene = documented(name), SCENES[name]
    words = "\n\n".join(f"## {head}\n\n{parts[head]}" for head in ORDER)
    parameters = keys(definitions()[f"detector_{name}"], skip=frozenset({"type"}))
    picture = f"![{name}: {alt(scene)}]({name}.svg)"
    return (
        f"# {name}\n\n{sentence(parts[''])}\n\n{picture}\n\n{shown(name, scene)}\n\n{words}\n\n"
        f"## Parameters\n\n{written(name)}\n\n{parameters}\n## Facts\n\n{facts(name)}\n"
        f"## Reference\n\n{parts['Reference']}\n\n[All detectors](../detectors.md)\n"
    )


def alt(scene: Scene) -> str:
    told = (f"{plant.words} ({'found' if plant.found else 'not found'})" for plant in scene.plants)
    return f"{scene.about}; {', '.join(told)}"


def shown(name: str, scene: Scene) -> str:
    """What the picture is, in words."""
    cls = load_detector(name)
    band = ", the band in which it is ordinary" if cls.has_band else ""
    params = f"; parameters `{inline(scene.params)}`" if scene.params else ""
    return (
        f"Above the series, what was expected (dashed){band}; below the surprise, and the cut of a budget of one false "
        f"alarm a week. This is the detector's own answer on a toy series, samples every 15 minutes, after four weeks "
        f"of it without the marked spans{params}."
    )


def inline(value: object) -> str:
    """A value as YAML writes it in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {inline(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(inline(one) for one in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def written(name: str) -> str:
    """How a rule names the detector."""
    needed = NEEDED.get(name)
    if needed:
        return f"In a rule: `detector: {inline({'type': name, **needed})}`."
    definition = definitions()[f"detector_{name}"]["properties"]
    key, default = next((k, f["default"]) for k, f in definition.items() if "default" in f)
    return f"In a rule: `detector: {name}`, or with parameters `detector: {inline({'type': name, key: default})}`."


def facts(name: str) -> str:
    cls, info = load_detector(name), detector_info(name)
    model = Model(DetectorSpec(name, dict(NEEDED.get(name, {}))), Grid(STEP_MS))
    joint = "joint" in cls.Params.model_fields
    siblings = "compares the series of a rule with each other" if cls.multivariate and not joint else "no"
    rows = [
        ("learns", "with every sample" if model.streaming else "when it is fitted, on the rule's cadence"),
        ("several series as one vector", "with `joint: true`" if joint else siblings),
        ("has a band", "yes" if cls.has_band else "no: an expected value only"),
        ("first surprise", f"after {span_of(model.min_history)} at 5 minutes ({model.min_history:,} samples)"),
        ("memory", memory(model, cls)),
    ]
    if cls.calibrated:
        rows.append(("score", "is a surprise by itself, so it is not calibrated again"))
    if info.extra:
        rows.append(("needs", f"the extra `{info.extra}`"))
    return table(("fact", "value"), rows)


def span_of(samples: int) -> str:
    minutes = samples * STEP_MS // MINUTE_MS
    return f"{minutes / 1440:.1f} days" if minutes >= 2880 else f"{minutes / 60:.1f} hours"


def memory(model: Model, cls: type[Detector]) -> str:
    """Bytes that a series and a rule cost with default parameters, from the state of one and of two series."""
    one, two = size(model, 1), size(model, 2)
    each, shared = two - one, max(0, 2 * one - two)
    rest = f", and {human(shared)} that all series of a rule share" if shared >= 1024 else ""
    return f"{human(each)} a series at 5 minutes{rest}"


def size(model: Model, series: int) -> int:
    labels = tuple(make_labels({"instance": str(i)}) for i in range(series))
    empty = Block(labels, np.zeros(0, np.int64), np.zeros((series, 0)))
    state: State = model.fit(empty)
    return sum(array.nbytes for array in state.arrays.values())


def human(size: int) -> str:
    return f"{size / 1000:.0f} kB" if size >= 10_000 else f"{size / 1000:.1f} kB"


def main(arguments: list[str], folder: Path = FOLDER) -> int:
    folder.mkdir(exist_ok=True)
    made = {folder / f"{name}.md": page(name) for name in detector_names() if name in SCENES}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    stale += [path for path in folder.glob("*.md") if path not in made]
    for path in stale:
        if "--check" in arguments:
            sys.stderr.write(f"{path} is stale: run python docs/detector_pages.py\n")
        elif path in made:
            path.write_text(made[path], encoding="utf-8")
        else:
            path.unlink()
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
