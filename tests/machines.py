# SPDX-License-Identifier: Apache-2.0
"""The tests of tests/vm in their virtual machines, one after the other, beside the tests on the host.

Emulated, they take minutes of one processor, and most tests here wait: in a whole run the machines
begin first, and tests/system/test_vm_lane.py looks at what came of them last.

    python tests/machines.py DIRECTORY RUNTIME [--long]     leaves MACHINE.out and MACHINE.code there
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[1]
MARKERS = {"controllers": "vm", "systemd": "vm_systemd", "selinux": "vm_selinux"}
LONG = {"selinux"}  # those with no test for a short run
SESSIONS: set[str] = set()  # whose processes are nothing that a test has left
SECONDS = {False: 1500, True: 7200}  # for one machine, on a slow day; what it takes is in its last line


def command(machine: str, runtime: str, long: bool) -> list[str]:
    """pytest in that machine; emulated, each container takes seconds: all of the tests with --long."""
    which = MARKERS[machine] if long else f"{MARKERS[machine]} and vm_short"
    words = [sys.executable, "-m", "pytest", "tests/vm", "-m", which, "-q", "-ra", "-p", "no:cacheprovider",
             "--color=no", "--runtime", runtime, *(["--long"] if long else [])]
    return [sys.executable, "-m", "conformance.vm", "run", "--machine", machine, "--timeout", str(SECONDS[long]),
            "--share", os.path.dirname(runtime), "--", *words]


class Machines:
    """All, running in the background."""

    def __init__(self, directory: Path, runtime: str, long: bool) -> None:
        self.directory = directory
        self.long = long
        # An orphan: there are tests that want to have no child but their own.
        words = [sys.executable, __file__, str(directory), runtime, *(["--long"] if long else [])]
        subprocess.run(["setsid", "--fork", *words], cwd=TREE, stdin=subprocess.DEVNULL, check=True)
        deadline = time.monotonic() + 60
        while not (directory / "pid").exists():
            assert time.monotonic() < deadline, "tests/machines.py doesn't start"
            time.sleep(0.05)
        self.session = (directory / "pid").read_text()
        SESSIONS.add(self.session)

    def result(self, machine: str) -> tuple[int, str]:
        """Its exit status and output, once it has ended."""
        code = self.directory / f"{machine}.code"
        deadline = time.monotonic() + 2 * SECONDS[self.long]
        while not code.exists():
            assert time.monotonic() < deadline, f"the machine {machine} doesn't end"
            assert Path("/proc", self.session).exists() or code.exists(), "tests/machines.py was killed"
            time.sleep(0.2)
        return int(code.read_text()), (self.directory / f"{machine}.out").read_text(errors="replace")

    def stop(self) -> None:
        """A run that is interrupted leaves none behind."""
        try:
            os.killpg(int(self.session), signal.SIGTERM)
        except ProcessLookupError:
            pass


RUNNING = pytest.StashKey[Machines]()


def main() -> None:
    directory, runtime = Path(sys.argv[1]), sys.argv[2]
    write(directory / "pid", str(os.getpid()))
    # What they are made of, the first time: debootstrap mounts things, which a test of the host would notice.
    subprocess.run(["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "conformance.vm", "fetch"],
                   cwd=TREE, check=False, capture_output=True)
    for machine in MARKERS:
        if machine in LONG and "--long" not in sys.argv:
            continue
        with open(directory / f"{machine}.out", "wb") as output:
            done = subprocess.run(command(machine, runtime, "--long" in sys.argv), cwd=TREE, stdin=subprocess.DEVNULL,
                                  stdout=output, stderr=subprocess.STDOUT, check=False)
        write(directory / f"{machine}.code", str(done.returncode))


def write(path: Path, text: str) -> None:
    """Whole or not there."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


if __name__ == "__main__":
    main()
