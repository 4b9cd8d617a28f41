# SPDX-License-Identifier: Apache-2.0
"""Mutated config.json documents (tests/fuzz.py): none may crash, hang or confuse a command, or leave anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).resolve().parent.parent / "fuzz.py"
SEED = 4
#: What breaks when a document has a certain part, and how it shows.
DEFECTS = {
    "an exception": ("from pyrunc import mounts\n"
                     "def parse(*_): raise TypeError('a defect')\nmounts.parse = parse", "TypeError"),
    "a process left": ("from pyrunc.creation import Creation\nCreation._undo = lambda self, cause: None",
                       "left its state"),
    "a death": ("from pyrunc import explain\nexplain.steps = lambda *_: os.abort()", "ends with -6"),
    "two lines": ("from pyrunc import cli\ncli._fail = lambda log, message: (log('error', message), log('error', 'x'))",
                  "2 lines of error"),
}


def fuzz(directory: Path, first: int, count: int, code: str = "") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figures, and the documents that broke a rule."""
    directory.mkdir()
    done = subprocess.run(["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child",
                           "--mount-proc", sys.executable, FUZZ, directory, str(SEED), str(first), str(count),
                           *([code] if code else [])], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-3000:]
    *broken, figures = map(json.loads, done.stdout.splitlines())
    return figures, broken


def test_mutated_documents(tmp_path: Path, long: bool) -> None:
    """Each ends in time with success or one line of error; explain agrees with create; the host is as it was."""
    count = 5000 if long else 100
    figures, broken = fuzz(tmp_path / "fuzz", 0, count)
    print(figures)
    assert [(entry["number"], entry["broken"]) for entry in broken] == []
    assert figures["documents"] == count
    assert figures["started"] > count // 10 and figures["refused"] > count // 10  # the control: they are of both kinds


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found(tmp_path: Path, defect: str) -> None:
    """The control: a pyrunc that is broken is told from one that isn't."""
    code, shows = DEFECTS[defect]
    _, broken = fuzz(tmp_path / "fuzz", 0, 12, code)
    assert any(shows in entry["broken"] for entry in broken), broken
