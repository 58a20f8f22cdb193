"""The console over a rule that has lived through a recorded block: what the tests of the rules' pages share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from anomalyd.block import Block
from anomalyd.clock import VirtualClock
from anomalyd.rule import Rule
from anomalyd.settings import Web
from console_kit import Console
from life import RULE, START, Life, M, recorded


@dataclass
class Lived:
    """A console, and the life of one rule underneath; its clock stands ``minutes`` after the start."""

    console: Console
    life: Life

    def app_console(self, minutes: int) -> Console:
        """The console as it is so many minutes after the start."""
        runs = self.life.evaluator.runs
        self.console.rules = {rule_id: run.rule for rule_id, run in runs.items()}
        self.console.parts = replace(
            self.console.parts, clock=VirtualClock(START + minutes * M), run=runs.get,
            attendance=lambda rule_id: run.attendance if (run := runs.get(rule_id)) is not None else None,
        )  # fmt: skip
        return self.console


def lived(block: Block | None = None, rule: Rule = RULE, minutes: int = 60, web: Web | None = None) -> Lived:
    """A rule that has lived ``minutes`` of a block."""
    console = Console(web or Web("127.0.0.1", 9640))
    life = Life(block if block is not None else recorded(minutes=max(300, minutes)), rule, store=console.store)
    life.live(0, minutes)
    return Lived(console, life)
