# SPDX-License-Identifier: Apache-2.0
"""What the tests of known attacks share: the attack's record, weakened runtimes, a host to be reached.

A test in tests/system/security carries the row of the table in docs/security.md that it proves:

    @pytest.mark.attack("CVE-2019-5736", "the container overwrites the runtime through /proc/PID/exe")

and says through the `attack` fixture whom the attack got the better of.  It must have worked on somebody
(runc, pyrunc with one of its defences taken out, a naive program), or it would prove nothing,
and never on pyrunc.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import Bundle, Runtime, runc_version

PYRUNC = "pyrunc"
OF_THE_TABLE = "runc 1.1.5"  # Debian 12's; 13's 1.1.15 no longer falls for all that it does
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "security.md"
_BEGIN, _END = "<!-- attacks: written by pytest --attack-table -->", "<!-- end of attacks -->"


@functools.cache
def peer() -> str:
    """runc, by its version."""
    return f"runc {'.'.join(map(str, runc_version()))}"


class Attack:
    """On whom one attack worked."""

    def __init__(self, row: str, what: str, test: str) -> None:
        self.row = row
        self.what = what
        self.test = test
        self.worked: dict[str, bool] = {}

    def on(self, victim: str | Runtime, worked: bool) -> None:
        """It was tried on `victim`, perhaps again: it `worked` if it did so once."""
        name = victim if isinstance(victim, str) else peer() if victim.name == "runc" else victim.name
        self.worked[name] = self.worked.get(name, False) or worked
        print(f"{self.row}: {name}: {worked}")

    def check(self) -> None:
        """What the test has to have shown."""
        assert PYRUNC in self.worked, "it was not tried on pyrunc"
        assert not self.worked[PYRUNC], f"{self.row} works on pyrunc"
        assert any(self.worked.values()), f"{self.row} worked on nobody, so that nothing is proven: {self.worked}"

    def line(self) -> str:
        """The row of the document's table."""
        runc = {True: "falls", False: "holds", None: "not tried"}[self.worked.get(peer())]
        shown = "; ".join(name for name, worked in self.worked.items() if worked and name != peer())
        return f"| {self.row} | {self.what} | `{self.test}` | {runc}{f' (works on {shown})' if shown else ''} | holds |"


def write_table(found: list[Attack], document: Path) -> None:
    """Put the lines into the document's table; those of tests that were not run stay."""
    assert peer() == OF_THE_TABLE, f"the table is about {OF_THE_TABLE}, and this is {peer()}"
    attacks: dict[str, Attack] = {}
    for one in found:  # a test of several cases is one line
        first = attacks.setdefault(one.test, one)
        for name, worked in one.worked.items():
            first.on(name, worked)
    before, _, rest = document.read_text().partition(_BEGIN)
    table, _, after = rest.partition(_END)
    assert after, f"{document} lacks {_BEGIN} and {_END}"
    lines = {test: line for line, _, test in _lines(table)}
    lines.update({test: attack.line() for test, attack in attacks.items()})
    head = [f"| row | attack | test, in `tests/system/security` | {OF_THE_TABLE} | pyrunc |", "|---|---|---|---|---|"]
    document.write_text("\n".join([before + _BEGIN, *head, *sorted(lines.values(), key=_order), _END + after]))


def _order(line: str) -> tuple[bool, list[int | str]]:
    return "CVE" not in line[:12], [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", line)]


def rows_of(document: Path) -> list[tuple[str, str]]:
    """(row, test) of each line of the table."""
    table = document.read_text().partition(_BEGIN)[2].partition(_END)[0]
    return [(row, test) for _, row, test in _lines(table)]


def _lines(table: str) -> list[tuple[str, str, str]]:
    """(the line, row, test)."""
    found = []
    for line in table.strip().splitlines()[2:]:
        row, _, test = (cell.strip() for cell in line.strip("|").split("|")[:3])
        found.append((line, row, test.strip("`")))
    return found


# Runtimes with a defence taken out

_WEAKENED = """#!{python} -I
import sys
sys.path[:0] = {path!r}
{code}
from pyrunc.cli import main
import os
status = main(sys.argv[1:])
sys.stdout.flush()
os._exit(status)
"""


def weaken(directory: Path, code: str) -> Path:
    """A `pyrunc` that runs `code` first, which takes one defence out of the package.

    It has neither the launcher's seal nor its isolation, but runs a copy of the interpreter: what
    comes through must not reach the host's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    python = directory / "python"
    if not python.exists():
        python.write_bytes(Path(sys.executable).resolve().read_bytes())
        python.chmod(0o755)
    path = directory / f"weakened-{hashlib.sha256(code.encode()).hexdigest()[:8]}"
    site = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    path.write_text(_WEAKENED.format(python=python, path=site, code=code))
    path.chmod(0o755)
    return path


# The host that is to be reached

def checksums(runtime: Runtime) -> dict[str, str]:
    """Of all that the host runs when the runtime is called: the command, the interpreter, the package, libraries."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(host_programs(runtime))}


def host_programs(runtime: Runtime) -> set[Path]:
    """The files that a runtime's process maps or imports."""
    files = {Path(runtime.path), Path(runtime.path).resolve(), Path(sys.executable).resolve()}
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if path.startswith("/"):
            files.add(Path(path))
    for package in Path(sys.prefix).glob("lib/python*/site-packages/pyrunc"):
        files |= {path for path in package.rglob("*") if path.suffix in (".py", ".pyc", ".so")}
    return {path for path in files if path.is_file()}


def outside(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A directory of the host's that an image would like to reach, and how it looks."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "ptmx").write_text("of the host")
    (path / "target").mkdir()
    return path, look(path)


def look(path: Path) -> dict[str, Any]:
    """Everything at and below `path`, and what it is."""
    return {str(found): (os.lstat(found).st_mode, os.lstat(found).st_uid, os.lstat(found).st_ino,
                         found.read_text() if found.is_file() else "") for found in (path, *path.rglob("*"))}


def replace(bundle: Bundle, name: str, target: Path | str) -> None:
    """Make `name` in the image a link."""
    path = bundle.rootfs / name
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    elif path.exists() or path.is_symlink():
        path.unlink()
    path.symlink_to(target)


@contextmanager
def exchange(attacker: Path, first: Path, second: Path) -> Iterator[None]:
    """While the block runs two names are exchanged as fast as can be (renameat2(2), RENAME_EXCHANGE)."""
    racer = subprocess.Popen([attacker, "exchange", first, second])
    try:
        yield
    finally:
        racer.kill()
        racer.wait()


def build_attacker(directory: Path) -> Path:
    """The hostile program, which runs in any root."""
    source = Path(__file__).parent / "system" / "security" / "attacker.c"
    program = directory / "attacker"
    subprocess.run(["cc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", source, "-o", program], check=True)
    return program


def collect(config: pytest.Config) -> list[Attack]:
    """What the tests of this run have shown, for the table."""
    found: list[Attack] = config.stash.setdefault(_FOUND, [])
    return found


_FOUND = pytest.StashKey[list[Attack]]()
