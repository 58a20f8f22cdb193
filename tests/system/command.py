"""The command line run in this process, as a user would type it."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass

from anomalyd.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def command(*arguments: str) -> Done:
    """Run ``anomalyd`` with these arguments."""
    before, code = sys.argv, 0
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["anomalyd", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())
