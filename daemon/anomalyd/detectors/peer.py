"""``peer``: outlier among siblings: one pod, host or shard that does not do as the others do.

Idea
    All series of the rule are siblings. At each time a series is compared with the median of the others, after its own
    usual offset (one host is always a little slower) is taken off; the score is the distance in robust standard
    deviations across the siblings, never less than their noise in time. With ``method: dbscan`` the siblings may form
    several clusters (two versions in a rollout) and the score is the distance to the nearest cluster of some size.

Works for
    Fleets behind a load balancer, replicas, disks of an array. Common causes (a holiday, a deploy, the night) move all
    siblings and raise nothing; no history of a rhythm is needed.

Fails when
    All siblings are wrong together, or there are fewer than three of them: then there is no score. It cannot tell which
    side is right when half of them differ. All siblings must be in one shard.

Toy stream
    Five pods at ``10 11 10 9 30``: the median is 10, the spread 1.5, so the last one scores 13.

Reference
    Median and MAD: Iglewicz and Hoaglin (1993); DBSCAN: Ester, Kriegel, Sander and Xu, KDD 1996.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from anomalyd.block import Block, Bool
from anomalyd.clock import DAY_MS
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import (
    ABSOLUTE_FLOOR,
    HIGHEST_SCORE,
    RELATIVE_FLOOR,
    advanced,
    blank,
    check_newer,
    check_series,
    clean,
    copied,
    held,
)

SETTLED = 30


class PeerParams(base.Params):
    """Parameters of ``peer``."""

    method: Literal["mad", "dbscan"] = Field("mad", description="Compare with the median, or with the nearest cluster.")
    offsets: bool = Field(True, description="Take off each series' own usual distance from the others.")
    fewest: int = Field(3, ge=3, description="Siblings that must be present.")
    share: float = Field(0.25, gt=0, le=1, description="dbscan: share of the siblings that makes a cluster.")
    reach: float = Field(4.0, gt=0, description="dbscan: widest gap inside a cluster, in spreads of the noise in time.")
    floor: float = Field(RELATIVE_FLOOR, ge=0, description="Smallest spread, as a share of the level.")


class Peer:
    """Comparison with siblings at one time; see the module's docstring."""

    name: ClassVar[str] = "peer"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = True
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = PeerParams

    def __init__(self, params: PeerParams, grid: Grid) -> None:
        self.params = params
        self.memory = max(60.0, DAY_MS / max(1, grid.step_ms))
        self.floors = np.array([params.floor, ABSOLUTE_FLOOR])

    @property
    def min_history(self) -> int:
        return SETTLED

    def fit(self, history: Block, seed: int) -> State:
        return self._run(State({"own": np.zeros((len(history), 4))}), history, None)[1]

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "own", fresh)
        return self._run(state, fresh, hold)

    def _run(self, state: State, fresh: Block, hold: Bool | None) -> tuple[Raw, State]:
        from anomalyd.detectors.kernels.siblings import compare

        arrays, raw, p = copied(state), blank(fresh.values.shape), self.params
        compare(
            clean(fresh.values),
            held(hold, len(fresh)),
            arrays["own"],
            p.offsets,
            p.method == "dbscan",
            p.fewest,
            p.share,
            p.reach,
            self.memory,
            SETTLED,
            self.floors,
            HIGHEST_SCORE,
            raw.score,
            raw.expected,
            raw.unit,
        )
        return raw, advanced(state, arrays, fresh)
