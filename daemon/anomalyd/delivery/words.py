"""``Words``: a statement as it goes out, with all that the daemon knows beside it.

Invariant: whatever goes wrong here (a hostile label, a slow store, a picture that cannot be drawn), a message goes out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from anomalyd.errors import StoreError
from anomalyd.incident import Statement
from anomalyd.logs import get_logger
from anomalyd.receivers.base import Receiver, ShowsPictures
from anomalyd.render import NO_BACKGROUND, Actions, Background, Chart, Charts, Places, Rendered, clean, render

Backgrounds = Callable[[Statement], Background]

log = get_logger("words")


@dataclass(frozen=True, slots=True)
class Words:
    """Puts statements into words for their receivers.

    Attributes:
        actions, places: buttons and links.
        chart: draws the chart, which only receivers that hold a picture themselves cost.
        chart_urls: where charts are for whoever looks; drawn only then.
        background: what was like it before, and what people have said.
        company: names of what began together with it, as of a time.
        day: of a holiday, which day of the week it counts as and what it is called.
    """

    actions: Actions | None = None
    places: Places | None = None
    chart: Charts | None = None
    chart_urls: Charts | None = None
    background: Backgrounds | None = None
    company: Callable[[Statement, int], str] | None = None
    day: Callable[[Statement], str] | None = None

    def of(self, statement: Statement, now: int, to: Receiver) -> Rendered:
        """The words of a statement; a failure to find them is told in the message, which is sent all the same."""
        try:
            return render(
                statement, now, to.name, self.actions, lambda s: self._chart(s, to), places=self.places,
                background=self._background(statement, now),
            )  # fmt: skip
        except Exception as error:  # whatever a hostile label provokes, the alert must go out
            log.exception("a message could not be rendered", receiver=to.name, rule=statement.rule)
            title = f"[{statement.tier.word.upper()}] {clean(statement.name, 80)}"
            said = f"The message could not be rendered ({type(error).__name__}); see the daemon's page."
            return Rendered(title, said, said, "", (), (), 0, f"{title}\n{said}", brief=said)

    def _chart(self, statement: Statement, to: Receiver) -> Chart | None:
        wanted = isinstance(to, ShowsPictures) and to.wants_picture
        drawn = self.chart(statement) if wanted and self.chart is not None else None
        linked = self.chart_urls(statement) if self.chart_urls is not None else None
        if drawn is None or linked is None:
            return drawn or linked
        return replace(drawn, url=linked.url, urls=linked.urls)

    def _background(self, statement: Statement, now: int) -> Background:
        try:
            known = self.background(statement) if self.background is not None else NO_BACKGROUND
            known = replace(known, company=self.company(statement, now)) if self.company is not None else known
        except StoreError as error:
            log.warning("a message goes out without its past", rule=statement.rule, reason=error.reason)
            known = NO_BACKGROUND
        return replace(known, day=self.day(statement)) if self.day is not None else known
