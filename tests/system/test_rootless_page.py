# SPDX-License-Identifier: Apache-2.0
"""docs/rootless.md: its transcript is what an ordinary user sees, line by line."""

from __future__ import annotations

import re
from pathlib import Path

from ordinary import HOME, NAME, UID, User
from support import PYRUNC, Host

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/rootless.md"


def transcript() -> list[tuple[str, list[str]]]:
    """(command, what it prints) of the indented block."""
    found: list[tuple[str, list[str]]] = []
    for line in re.findall(r"^ {4}(.*)", PAGE.read_text(), re.M):
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found and not line.startswith(('"', "{")):
            found[-1][1].append(line)
    return found


def plain(line: str) -> list[str]:
    """A line without what is another each time: the time, pids, the blanks that depend on their length."""
    line = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", line.replace(HOME, "/home/alice").replace(NAME, "alice"))
    return re.sub(rf"\b(?:{UID}|1000)\b", "ID", re.sub(r"(?<=web )( *)\d+", "PID", line)).split()


def test_the_transcript(tmp_path: Path, host: Host) -> None:
    shown = [(command, lines) for command, lines in transcript() if command]
    assert len(shown) > 14
    user = User(tmp_path / "home")
    user.environment["PATH"] = f"{Path(PYRUNC).parent}:{user.environment['PATH']}"
    script = "\n".join(f"echo '# {number}'; {command}" for number, (command, _) in enumerate(shown))
    result = user.run(f"exec 2>&1\n{script}")
    seen: list[list[str]] = []
    for line in result.lines:
        if line.startswith("# "):
            seen.append([])
        else:
            seen[-1].append(line)
    for (command, expected), found in zip(shown, seen, strict=True):
        assert [plain(line) for line in found] == [plain(line) for line in expected], command
