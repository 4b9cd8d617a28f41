# SPDX-License-Identifier: Apache-2.0
"""The tests of tests/vm, in the virtual machines that they are for (with --long all of them)."""

from __future__ import annotations

import re
import subprocess

import machines
import pytest

UNAVAILABLE = 77  # python -m conformance.vm, where there can be no machine (never when CI is set)


def counts(summary: str) -> dict[str, int]:
    """What pytest's last line says: `3 passed, 1 skipped in 5.02s`."""
    return {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", summary.rpartition(" in ")[0])}


@pytest.mark.parametrize("machine", machines.MARKERS)
def test_in_the_machine(machine: str, runtime_path: str, long: bool, pytestconfig: pytest.Config) -> None:
    """All of them pass in it, and none is skipped: the machine was made for them."""
    if machine in machines.LONG and not long:
        pytest.skip("with --long: it is a machine for one file of tests")
    running = pytestconfig.stash.get(machines.RUNNING, None)
    if running is not None:  # since the beginning of the whole run
        status, output = running.result(machine)
    else:
        done = subprocess.run(machines.command(machine, runtime_path, long), cwd=machines.TREE, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace",
                              timeout=machines.SECONDS[long] + 1800)  # the first time, what it is made of is fetched
        status, output = done.returncode, done.stdout
    lines = output.splitlines() or [""]
    if status == UNAVAILABLE:
        pytest.skip(lines[-1])
    if status:
        pytest.fail(f"exit status {status} from the machine {machine}:\n{output}", pytrace=False)
    found = counts(lines[-1])
    assert found.get("passed", 0) > 0 and not found.keys() - {"passed", "deselected"}, output
