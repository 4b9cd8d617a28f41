# SPDX-License-Identifier: Apache-2.0
"""The tests of tests/vm, in the virtual machines that they are for (with --long all of them)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
UNAVAILABLE = 77  # python -m conformance.vm, where there can be no machine (never when CI is set)
SECONDS = {False: 900, True: 7200}  # for one machine, on a slow day; what it takes is in its last line


def counts(summary: str) -> dict[str, int]:
    """What pytest's last line says: `3 passed, 1 skipped in 5.02s`."""
    return {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", summary.rpartition(" in ")[0])}


@pytest.mark.parametrize(("machine", "marker"), [("controllers", "vm"), ("systemd", "vm_systemd")])
def test_in_the_machine(machine: str, marker: str, runtime_path: str, long: bool) -> None:
    """All of them pass in it, and none is skipped: the machine was made for them."""
    # Emulated, each container takes seconds: all of them with --long.
    which = marker if long else f"{marker} and vm_short"
    words = [sys.executable, "-m", "pytest", "tests/vm", "-m", which, "-q", "-ra", "-p", "no:cacheprovider",
             "--color=no", "--runtime", runtime_path, *(["--long"] if long else [])]
    done = subprocess.run([sys.executable, "-m", "conformance.vm", "run", "--machine", machine,
                           "--timeout", str(SECONDS[long]), "--share", os.path.dirname(runtime_path), "--", *words],
                          cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          timeout=SECONDS[long] + 1800)  # the first time, what it is made of is fetched
    lines = done.stdout.splitlines() or [""]
    if done.returncode == UNAVAILABLE:
        pytest.skip(lines[-1])
    if done.returncode:
        pytest.fail(f"exit status {done.returncode} from the machine {machine}:\n{done.stdout}", pytrace=False)
    found = counts(lines[-1])
    assert found.get("passed", 0) > 0 and not found.keys() - {"passed", "deselected"}, done.stdout
