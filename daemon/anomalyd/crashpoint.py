"""Named places where a test may end the process as `kill -9` would.

Off unless the environment names one place (``ANOMALYD_CRASHPOINT=after_claim``); then the process ends there at once,
without clean-up, exit code 137. The names stand between the steps of a slot and of a delivery, so that a test can ask
what a restart makes of each half-done state. The module is a leaf: it imports nothing of ours.
"""

from __future__ import annotations

import os

ENVIRONMENT = "ANOMALYD_CRASHPOINT"

EXIT_CODE = 137
"""What a shell reports for a process ended by SIGKILL."""


def crashpoint(name: str) -> None:
    """End the process here if the environment names this place; otherwise do nothing."""
    if os.environ.get(ENVIRONMENT) == name:
        os._exit(EXIT_CODE)
