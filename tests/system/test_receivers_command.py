"""``anomalyd receivers``: a test message past everything that keeps quiet, and what it says when it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fakes.webhook import FakeWebhook
from system.kit import write_config

RULES = {"groups": [{"name": "g", "rules": [{"anomaly": "A", "expr": "up", "detector": "mad"}]}]}


def anomalyd(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "anomalyd", *arguments], capture_output=True, text=True, check=False)


def test_a_test_message_arrives_or_the_command_says_why_not(tmp_path: Path) -> None:
    """A working receiver gets one marked message; a wrong secret and an unknown name are told in words."""
    with FakeWebhook("s3cret") as hook:
        receivers = {
            "good": {"type": "webhook", "url": hook.url, "secret": "s3cret", "min_tier": "emergency"},
            "bad": {"type": "webhook", "url": hook.url, "secret": "another-canary"},
        }
        config = str(write_config(tmp_path, "http://127.0.0.1:1", RULES, receivers))
        listed = anomalyd("receivers", "list", "--config", config)
        assert "good" in listed.stdout
        assert "s3cret" not in listed.stdout
        sent = anomalyd("receivers", "test", "good", "--config", config)
        assert (sent.returncode, sent.stdout) == (0, "good: delivered\n"), sent.stderr
        assert [body["event"] for body in hook.bodies] == ["test"]
        refused = anomalyd("receivers", "test", "bad", "--config", config)
        assert refused.returncode == 1
        assert "not delivered (auth)" in refused.stderr
        assert "another-canary" not in refused.stderr
        unknown = anomalyd("receivers", "test", "goood", "--config", config)
        assert unknown.returncode == 2
        assert "there are: good, bad" in unknown.stderr
