# SPDX-License-Identifier: Apache-2.0
"""Write the modules that a command may need as one file, for the launcher to give to the interpreter as frozen ones.

    python tools/freeze.py DIRECTORY

DIRECTORY holds the packages pyrunc and pyrunc_shim, as they will be installed; the file is
DIRECTORY/pyrunc/_frozen.bin.  Searching, opening and reading some sixty .pyc files is a tenth of what
`create` takes.  The file's layout, in the byte order of the machine (launcher/frozen.c reads it):

    "PYFROZEN", the magic number of the interpreter's bytecode, the number of modules
    for each module six 32-bit numbers: the offset of its name and of its source's path (each ends with a
        NUL; the path counts from DIRECTORY, "" for one of the standard library), the source's size,
        the offset and the size of its code as marshal writes it, whether it is a package
    the names, paths and codes

What nothing reads at run time is left out of the code: docstrings, the annotations of functions,
`from __future__ import annotations`.
"""

from __future__ import annotations
import __future__

import ast
import importlib.util
import marshal
import struct
import sys
import sysconfig
from pathlib import Path

NAME = "_frozen.bin"
HEAD = struct.Struct("=8s4sI")
ENTRY = struct.Struct("=6I")
PACKAGES = ("pyrunc", "pyrunc_shim")
#: Of these the file would be twice as large, for commands that take seconds: images and networks.
LEFT_OUT = ("pyrunc/net/", "pyrunc/registry/", "pyrunc/cli/imag", "pyrunc/cli/net")
#: What the interpreter itself reads as it starts.
STANDARD = ("encodings/__init__.py", "encodings/aliases.py", "encodings/utf_8.py")


class Strip(ast.NodeTransformer):
    """Takes out what is for readers and type checkers alone."""

    def _body(self, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
        self.generic_visit(node)
        if not node.body and not isinstance(node, ast.Module):
            node.body.append(ast.Pass(lineno=node.lineno, col_offset=node.col_offset))

    def visit_Module(self, node: ast.Module) -> ast.Module:
        self._body(node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self._body(node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        self._body(node)
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AsyncFunctionDef:
        node.returns = None
        self._body(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        return None if node.module == "__future__" else node


def code(path: Path, name: str) -> bytes:
    """The code of a module, as marshal writes it; `name` is the file's in tracebacks."""
    tree = Strip().visit(ast.parse(path.read_text(encoding="utf-8"), name))
    return marshal.dumps(compile(ast.fix_missing_locations(tree), name, "exec", dont_inherit=True, optimize=0,
                                 flags=__future__.annotations.compiler_flag))


def sources(top: Path) -> list[tuple[str, Path, str]]:
    """The modules to be frozen: name, source and path below `top`, "" for those of the standard library."""
    found = []
    for package in PACKAGES:
        for path in sorted((top / package).rglob("*.py")):
            below = path.relative_to(top).as_posix()
            if not below.startswith(LEFT_OUT):
                found.append((below, path, below))
    library = Path(sysconfig.get_path("stdlib"))
    found += [(below, library / below, "") for below in STANDARD]
    return found


def freeze(top: Path) -> bytes:
    """The file's content."""
    modules = sources(top)
    blob = bytearray()
    entries = bytearray()
    start = HEAD.size + ENTRY.size * len(modules)

    def put(data: bytes) -> int:
        offset = start + len(blob)
        blob.extend(data)
        return offset

    for below, source, path in modules:
        name = below.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        marshalled = code(source, path if path else str(source))
        entries += ENTRY.pack(put(name.encode() + b"\0"), put(path.encode() + b"\0"), source.stat().st_size,
                              put(marshalled), len(marshalled), below.endswith("/__init__.py"))
    return HEAD.pack(b"PYFROZEN", importlib.util.MAGIC_NUMBER, len(modules)) + entries + blob


def main() -> None:
    top = Path(sys.argv[1])
    (top / "pyrunc" / NAME).write_bytes(freeze(top))


if __name__ == "__main__":
    main()
