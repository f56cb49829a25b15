"""Every stage that goes on where it was, killed twice (`make torture` kills each twenty times, and trains longer)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_killed_stages_end_as_if_nobody_had_disturbed_them() -> None:
    command = [sys.executable, Path(__file__).with_name("torture.py"), "--kills", "2", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "left out" in done.stdout or done.stdout.count("| 2 |") >= 6, done.stdout
