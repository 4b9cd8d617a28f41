# SPDX-License-Identifier: Apache-2.0
"""Write shims/pyrunc_shim's message classes from its .proto files.

    python tools/generate_messages.py [DIRECTORY]

Of protobuf's language it knows what those files use: messages of scalar fields, messages, repeated
ones and map<string, string>, and enums, whose values become constants.  Anything else is an error.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
PACKAGE = HERE / "shims" / "pyrunc_shim"
#: One module for what every shim needs, one for each kind of metrics, of which it needs one when asked.
MODULES = {
    "messages.py": ("ttrpc.proto", "task.proto", "events.proto"),
    "metrics_v1.py": ("metrics_v1.proto",),
    "metrics_v2.py": ("metrics_v2.proto",),
}
SCALARS = {"string": ("STRING", "str"), "bytes": ("BYTES", "bytes"), "bool": ("BOOL", "bool"),
           "int32": ("INT32", "int"), "int64": ("INT64", "int"), "uint32": ("UINT32", "int"),
           "uint64": ("UINT64", "int"), "double": ("DOUBLE", "float")}
FIELD = re.compile(r"(repeated )?(map<string, string>|\w+) (\w+) = (\d+)")
HEADER = '''\
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF012, RUF023, F401
"""Generated from proto/ by tools/generate_messages.py: {files}; do not edit."""

from __future__ import annotations

from .codec import BOOL, BYTES, DOUBLE, INT32, INT64, MAP, MESSAGE, STRING, UINT32, UINT64, Message
'''


def statements(text: str) -> list[str]:
    """Without comments, split where { } and ; stand."""
    text = re.sub(r"//[^\n]*", "", text)
    return [" ".join(part.split()) for part in re.split(r"([{};])", text) if part.strip()]


class Module:
    """Classes and constants from some files."""

    def __init__(self) -> None:
        self.enums: set[str] = set()
        self.messages: set[str] = set()
        self.source: list[str] = []

    def add(self, text: str) -> None:
        """The contents of a file, after those it imports."""
        words = iter(statements(text))
        for word in words:
            if word.split()[0] in ("syntax", "package", "import"):
                assert next(words) == ";"
                continue
            kind, name = word.split()
            assert next(words) == "{", word
            body = []
            while (word := next(words)) != "}":
                assert next(words) == ";", word
                body.append(word)
            {"message": self._message, "enum": self._enum}[kind](name, body)

    def _enum(self, name: str, body: list[str]) -> None:
        self.enums.add(name)
        self.source += ["", *(line for line in body)]

    def _message(self, name: str, body: list[str]) -> None:
        fields, members, slots = [], [], []
        for line in body:
            match = FIELD.fullmatch(line)
            if match is None:
                raise ValueError(f"{name}: {line}")
            repeated, of, field, number = bool(match[1]), match[2], match[3], int(match[4])
            cls = "None"
            if of in self.enums:
                of = "int32"
            if of in SCALARS:
                kind, hint = SCALARS[of]
            elif of.startswith("map<"):
                kind, hint = "MAP", "dict[str, str]"
            elif of in self.messages:
                kind, hint, cls = "MESSAGE", of, of
            else:
                raise ValueError(f"{name}: the type {of} is not known")
            fields.append(f"        {number}: ({field!r}, {kind}, {repeated}, {cls}),".replace("'", '"'))
            hint = f"list[{hint}]" if repeated else f"{hint} | None" if of in self.messages else hint
            members.append(f"    {field}: {hint}")
            slots.append(field)
        self.messages.add(name)
        self.source += ["", "", f"class {name}(Message):"]
        if not fields:
            self.source.append("    __slots__ = ()")
            return
        listed = "".join(f'"{slot}", ' for slot in slots)
        line = f"    __slots__ = ({listed[:-2] if len(slots) > 1 else listed[:-1]})"
        if len(line) > 120:
            line = "    __slots__ = (\n" + "".join(f'        "{slot}",\n' for slot in slots) + "    )"
        self.source += [line, "    FIELDS = {", *fields, "    }", *members]


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE
    for name, files in MODULES.items():
        module = Module()
        for file in files:
            module.add((PACKAGE / "proto" / file).read_text())
        text = HEADER.format(files=", ".join(files)) + "\n".join(module.source) + "\n"
        (out / name).write_text(text)


if __name__ == "__main__":
    main()
