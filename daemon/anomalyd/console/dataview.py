"""What a rule's series are like as data, now: the numbers behind the faults that are told."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from pydantic import Field

from anomalyd.block import fingerprint
from anomalyd.console.parts import Json, Parts
from anomalyd.errors import AnomalydError
from anomalyd.evaluation.datafeatures import features_of, named
from anomalyd.evaluation.rulerun import RuleRun

MOST_SERIES = 500


class NotRunning(AnomalydError):
    """The rule does not run here."""

    reason = "not_found"


def add_quality(router: APIRouter, parts: Parts, readers: Sequence[Any]) -> None:
    """The endpoint ``/quality``."""

    @router.get("/quality", dependencies=readers, tags=["rules"])
    def quality(
        rule: Annotated[str, Field(max_length=500)], offset: Annotated[int, Query(ge=0)] = 0
    ) -> Json:
        """What a rule's series are like as data: gap share, repeats, entropy, range, silence, each beside what has
        been usual, the faulty first. At most 500 series; ``next`` says which offset goes on."""
        run = parts.run(rule)
        if run is None:
            raise NotRunning(f"rule {rule!r} is not running here")
        return Json({"status": "success", "data": seen_of(run, offset)})


def seen_of(run: RuleRun, offset: int) -> dict[str, Any]:
    """The answer: the features of a rule's series, those with faults first."""
    memory = run.memory
    faults = memory.quality.faults()
    features = features_of(memory.quality, run.rule.interval_ms)
    order = sorted(range(len(memory.active)), key=lambda i: (i not in faults, i))
    rows = np.array(order[offset : offset + MOST_SERIES], np.int64).tolist()
    found = []
    for i in rows:
        labels = memory.registry.rows[int(memory.active[i])].labels
        about = {"labels": dict(labels), "fingerprint": fingerprint(labels), "faults": list(faults.get(i, ()))}
        found.append(about | named(features, i))
    more = offset + len(rows)
    return {"rule": run.rule.id, "series": found, "next": more if more < len(order) else None}
