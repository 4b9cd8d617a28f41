# SPDX-License-Identifier: Apache-2.0
"""What the package defines is used by something that isn't a test."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
USERS = ("pyrunc", "shims", "launcher", "conformance", "tools", "bench")
#: Whole descriptions of a format: not all of one is used.
FORMATS = {"messages.py", "types.py", "_validator.py"}


def defined(tree: ast.Module) -> Iterator[str]:
    """Functions, methods, classes; constants, but for those in a row: they are a protocol's or the kernel's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id


def words(path: Path) -> list[str]:
    return re.findall(r"\w+", path.read_text())


def unused(own: list[Path], users: list[Path]) -> list[str]:
    seen = Counter(word for path in users for word in words(path))
    return [f"{path.name}: {name}" for path in own for name in defined(ast.parse(path.read_text()))
            if seen[name] < 2 and not re.fullmatch("__.*__", name)]


def test_nothing_is_dead() -> None:
    users = [path for folder in USERS for path in sorted((REPOSITORY / folder).rglob("*.[pc]*"))
             if path.suffix in (".py", ".c") and "build" not in path.parts[len(REPOSITORY.parts):]]
    own = [path for path in users if path.parts[len(REPOSITORY.parts)] in ("pyrunc", "shims")
           and path.suffix == ".py" and path.name not in FORMATS]
    assert len(own) > 150
    assert unused(own, users) == []


def test_the_control(tmp_path: Path) -> None:
    place = tmp_path / "some.py"
    place.write_text("USED = 1\nDEAD = 2\n\nclass Thing:\n    def method(self): return USED\n\nThing()\n")
    assert unused([place], [place]) == ["some.py: method", "some.py: DEAD"]
