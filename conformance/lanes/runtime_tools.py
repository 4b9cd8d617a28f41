# SPDX-License-Identifier: Apache-2.0
"""The validation programs of opencontainers/runtime-tools, built beforehand in a checkout of their own.

    python -m conformance run runtime-tools --suite CHECKOUT --runtime PATH

Each program speaks TAP (testanything.org), and is a check: every test in it is to be ok.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from functools import partial
from pathlib import Path

from conformance.checks import Table
from conformance.errors import Unavailable
from conformance.lanes.base import Lane
from conformance.sandbox import Room

WRAPPER = """\
#!/bin/sh
for word; do
	[ "$before" != --bundle ] || sed -i 's/"ociVersion": *"1[.]3[.][0-9]*"/"ociVersion": "1.0.2"/' "$word/config.json"
	before=$word
done
exec RUNTIME "$@"
"""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Suite(Lane):
    """A checkout that has been built: `make runtimetest validation-executables`."""

    needs = ("tar",)

    def __init__(self, room: Room, runtime: str, suite: Path) -> None:
        super().__init__(room, runtime)
        self.suite = suite
        self.programs = sorted(suite.glob("validation/*/*.t"))
        if not self.programs or not (suite / "runtimetest").exists():
            raise Unavailable(f"no validation programs in {suite} (--suite DIR; there, `make runtimetest "
                              "validation-executables` builds them)")
        self.environment.update(RUNTIME=runtime)

    def start(self) -> None:
        # The programs look for these in their working directory, and unpack one into TMPDIR.
        for name in (f"rootfs-{ARCHITECTURES.get(platform.machine(), platform.machine())}.tar.gz", "runtimetest"):
            shutil.copy(self.suite / name, self.scratch)

        if "unknown version" in self.command(self.runtime, "create", "--bundle", self._bundle(), "probe").err:
            # crun before 1.15 knows no specification after 1.0; what the programs test is older.
            wrapper = self.file(WRAPPER.replace("RUNTIME", self.runtime), 0o755)
            self.environment.update(RUNTIME=str(wrapper))

    def _bundle(self) -> Path:
        where = self.directory()
        (where / "config.json").write_text('{"ociVersion": "1.3.0", "root": {"path": "."}}')
        return where

    def validate(self, program: Path) -> str:
        """`N ok, M not ok`, and a line for each that isn't."""
        done = self.command(program)
        good, bad = outcome(done.out)
        if done.code != 0:
            bad.append(f"aborted with {done.code}: {(done.err.splitlines() or ['no words'])[-1]}")
        return "\n".join([f"{good} ok, {len(bad)} not ok", *(f"not ok: {text}" for text in bad)])

    def table(self) -> Table[Suite]:
        table: Table[Suite] = Table()
        for program in self.programs:
            table.check(program.stem, matches=r"\d+ ok, 0 not ok", timeout=180)(
                partial(Suite.validate, program=program))
        return table

    def clean(self) -> None:
        """What a program left: its containers, by the runtime's own list."""
        for name in self.command(self.runtime, "list", "-q").out.split():
            self.command(self.runtime, "delete", "--force", name)


def make(room: Room, runtime: str, suite: str) -> Suite:
    return Suite(room, runtime, Path(os.path.abspath(suite or ".")))


def outcome(text: str) -> tuple[int, list[str]]:
    """How many tests of a TAP stream are ok, and what the others are.

    Some programs plan no tests, and tell a failure only in the diagnostics of none.
    """
    good = 0
    bad: list[str] = []
    told: list[str] = []
    planned = -1
    for line in text.splitlines():
        if plan := re.fullmatch(r"1\.\.(\d+)( *#.*)?", line):
            planned = int(plan[1])
        elif found := re.match(r"(not )?ok \d+ ?-? ?(.*)", line):
            if not found[1] or "# SKIP" in line or "# TODO" in line:
                good += 1
            else:
                bad.append(found[2])
        elif error := re.match(r"\s+\"?error\"?: (.*)", line):
            told.append(error[1].strip("'\","))
    if planned == 0:
        bad += told
    if planned > good + len(bad):
        bad.append(f"{planned - good - len(bad)} of {planned} tests did not run")
    return good, bad
