"""All pictures of the docs, drawn anew: detectors, reports, messages.

``make pictures`` draws all, ``make pictures NAME=reports`` (or ``messages``, or a detector's name) some. Pictures of
reports and messages need playwright and Chromium, those of messages the extra ``images`` too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).parent


def main(names: Sequence[str]) -> int:
    """Draw what is named, or all; a name that is none of them ends with what there is."""
    scenes = import_module("scenes").SCENES
    if unknown := [name for name in names if name not in (*scenes, "reports", "messages")]:
        sys.stderr.write(f"no picture is called {unknown[0]!r}; there are reports, messages and {', '.join(scenes)}\n")
        return 2
    detectors = [name for name in names or scenes if name in scenes]
    if detectors:
        import_module("detector_pictures").main(detectors)
    if not names or "reports" in names:
        import_module("report_pictures").main(FOLDER)
    if not names or "messages" in names:
        import_module("messages").main(FOLDER / "messages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
