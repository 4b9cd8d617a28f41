# SPDX-License-Identifier: Apache-2.0
"""A command that strace(1) kills at a system call."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path


def killed_at(command: list[str], trace: Path, call: str, count: int, extra: str = "") -> None:
    """Run `command` until it enters the system call `call` for the `count`th time; assert that it did."""
    done = subprocess.run(["strace", "-o", str(trace), "-e", f"trace={call}", "-e",
                           f"inject={call}{extra}:signal=KILL:when={count}", *command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    text = trace.read_text()
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL) and "killed by SIGKILL" in text, text
    assert len(re.findall(rf"^{call}\(", text, re.MULTILINE)) == count, text
