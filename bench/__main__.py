"""``python -m bench [NAME]``: run one benchmark, or list them."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

from bench.harness import Report, command_line, context_from_environment, fail

HIDDEN = {"__init__", "__main__", "harness"}


def names() -> dict[str, str]:
    """Every benchmark with the first line of its docstring (read, not imported)."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem in HIDDEN or path.stem.startswith("_"):
            continue
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        found[path.stem] = doc.splitlines()[0] if doc else ""
    return found


def main() -> None:
    known = names()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if not name:
        for each, summary in known.items():
            print(f"{each:12} {summary}")
        return
    if name not in known:
        fail(f"no benchmark {name!r}; there are: {', '.join(known)}")
    report = Report(name, command_line(name))
    for figure in importlib.import_module(f"bench.{name}").run(context_from_environment()):
        report.add(figure)
    print(f"{report.short} figures short" if report.short else "all targets met")


if __name__ == "__main__":
    main()
