# SPDX-License-Identifier: Apache-2.0
"""The package's modules as frozen ones: tools/freeze.py makes the file, launcher/frozen.c reads it.

Each test has a copy of what is installed, and edits it.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import PYRUNC

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import freeze  # noqa: E402

# In place of a command: what the interpreter has at that moment.
STUB = """
import sys
import _json

def facts():
    for name, module in list(sys.modules.items()):
        spec = module.__spec__
        yield name, [spec and spec.origin, getattr(module, "__file__", None), list(getattr(module, "__path__", ()))]

encode = _json.make_encoder(None, repr, _json.encode_basestring_ascii, None, ": ", ", ", False, False, True)
print("".join(encode(dict(facts()), 0)).replace("'", '"'))
sys.stdout.flush()
"""


class Copy:
    """An installed pyrunc that may be edited."""

    def __init__(self, place: Path) -> None:
        installed = Path(os.path.realpath(PYRUNC))
        (packages,) = installed.parent.parent.glob("lib/python3*/site-packages")
        below = packages.relative_to(installed.parent.parent)
        self.command = place / "bin" / "pyrunc"
        self.packages = place / below
        self.command.parent.mkdir()
        shutil.copy(installed, self.command)
        for name in ("pyrunc", "pyrunc_shim"):
            shutil.copytree(packages / name, self.packages / name)
        self.frozen = self.packages / "pyrunc" / freeze.NAME

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.command, *words], capture_output=True, text=True, timeout=60, cwd="/", env={})

    def version(self) -> str:
        done = self("--version")
        assert (done.returncode, done.stderr) == (0, ""), done
        found = re.search(r"^pyrunc: (\S+)$", done.stdout, re.M)
        assert found, done
        return found[1]

    def edit(self, version: str) -> None:
        """Another version in the source."""
        source = self.packages / "pyrunc" / "_version.py"
        text, changes = re.subn(r'(?m)^(__version__\b.*= ")[^"]*"', rf'\g<1>{version}"', source.read_text())
        assert changes == 1
        source.write_text(text)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    copy = Copy(tmp_path)
    if copy.command.read_bytes()[:4] != b"\x7fELF":
        pytest.fail("the installed command is the shell script: a compiler was missing")
    return copy


def test_modules_come_from_the_file(copy: Copy) -> None:
    """An edit that leaves the size as it was isn't seen; it is without the file."""
    own = copy.version()
    other = "9" * len(own)
    copy.edit(other)
    assert copy.version() == own
    copy.frozen.unlink()
    assert copy.version() == other


def test_an_edited_module_comes_from_its_own(copy: Copy) -> None:
    copy.edit("0.1.0-edited")
    assert copy.version() == "0.1.0-edited"


def _entry(data: bytearray, index: int, field: int, value: int) -> None:
    struct.pack_into("=I", data, freeze.HEAD.size + index * freeze.ENTRY.size + field * 4, value)


DAMAGES: dict[str, Callable[[bytearray], object]] = {
    "empty": lambda data: data.clear(),
    "a part of the head": lambda data: data.__delitem__(slice(10, None)),
    "the head alone": lambda data: data.__delitem__(slice(freeze.HEAD.size, None)),
    "half": lambda data: data.__delitem__(slice(len(data) // 2, None)),
    "another mark": lambda data: data.__setitem__(0, 0x20),
    "another Python's": lambda data: data.__setitem__(8, data[8] ^ 1),
    "too many": lambda data: struct.pack_into("=I", data, 12, 0xFFFFFFFF),
    "name outside": lambda data: _entry(data, 3, 0, len(data)),
    "path outside": lambda data: _entry(data, 3, 1, 0xFFFFFFF0),
    "name without an end": lambda data: (_entry(data, 3, 0, len(data)), data.extend(b"x")),
    "code outside": lambda data: _entry(data, 3, 3, len(data) + 1),
    "code too long": lambda data: _entry(data, 3, 4, 0xFFFFFFFF),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_right_is_left_alone(copy: Copy, damage: str) -> None:
    copy.edit("9" * len(copy.version()))
    data = bytearray(copy.frozen.read_bytes())
    DAMAGES[damage](data)
    copy.frozen.write_bytes(data)
    assert copy.version() == "9" * 5


def test_modules_know_where_they_are(copy: Copy) -> None:
    """As if each had come from its own file: what isn't frozen is found beside, and the package finds its data."""
    (copy.packages / "pyrunc/cli/features.py").write_text(STUB)
    seen = []
    for frozen in (True, False):
        if not frozen:
            copy.frozen.unlink()
        done = copy("features")
        found: dict[str, tuple[str | None, str | None, list[str]]] = json.loads(
            done.stdout.replace("None", "null") or "null")
        assert found, done
        origins = {name: origin for name, (origin, _, _) in found.items() if name.startswith("pyrunc")}
        assert {origin == "frozen" for name, origin in origins.items() if name != "pyrunc.cli.features"} == {frozen}
        files = {name: file for name, (_, file, _) in found.items() if file}
        assert all(Path(file).is_file() for file in files.values()), files
        seen.append({name: (files[name], path) for name, (_, _, path) in found.items() if name.startswith("pyrunc")})
        seen[-1]["encodings"] = ("", found["encodings"][2])
    with_file, without = seen
    assert with_file == without


def test_a_traceback_has_its_lines(copy: Copy, tmp_path: Path) -> None:
    done = copy("--root", str(tmp_path / "state"), "--debug", "state", "nobody")
    assert done.returncode == 1 and "    return _dispatch(args, rest, context)\n" in done.stderr, done


SOURCE = '''
"""What it is."""
from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    """Two."""

    one: int
    two: str = "b"


class Empty(Exception):
    """Nothing."""


def documented() -> None:
    """Nothing else."""


def checked(value: NoSuchType, *rest: int, key: str = "k", **more: Any) -> int:
    """Of what."""
    assert value, f"{key}"
    return value


async def later(value: int) -> int:
    return value
'''


def test_what_is_left_out(tmp_path: Path) -> None:
    """Only what nobody can see the absence of: fields of a named tuple, assertions and line numbers stay."""
    import marshal

    source = tmp_path / "module.py"
    source.write_text(SOURCE)
    names: dict[str, Any] = {"__name__": "module"}
    code = marshal.loads(freeze.code(source, "module.py"))
    exec(code, names)
    pair, checked = names["Pair"], names["checked"]
    assert pair(1) == (1, "b")
    assert pair._fields == ("one", "two") and pair.__doc__ == "Pair(one, two)"
    assert "__doc__" not in names and "annotations" not in names
    for name in ("documented", "checked", "later"):
        assert not names[name].__doc__ and not names[name].__annotations__, name
    assert checked(3) == 3
    with pytest.raises(AssertionError) as raised:
        checked(0, key="why")
    assert str(raised.value) == "why"
    line = next(node.lineno for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Assert))
    assert raised.traceback[-1].lineno + 1 == line and code.co_filename == "module.py"


def test_all_that_a_container_needs_is_in(copy: Copy) -> None:
    """Each module that is installed, but those of images and networks, and their commands."""
    listed = {path for _, _, path in freeze.sources(copy.packages)}
    installed = {path.relative_to(copy.packages).as_posix() for path in copy.packages.rglob("*.py")}
    left_out = {path for path in installed if path.startswith(("pyrunc/net/", "pyrunc/registry/", "pyrunc/cli/imag",
                                                               "pyrunc/cli/net"))}
    assert listed - {""} == installed - left_out and len(left_out) > 20
    count = freeze.HEAD.unpack_from(copy.frozen.read_bytes())[2]
    assert count == len(installed - left_out) + len(freeze.STANDARD)
