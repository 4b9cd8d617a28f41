# SPDX-License-Identifier: Apache-2.0
"""Write pyrunc/spec/_validator.py, the fast yes-or-no check of config.json, from its JSON Schema.

    python tools/generate_validator.py [OUT]

The start-up budget has no room for a schema library, nor for the `re` and `json` modules, so the
schema is turned at build time into plain functions: one for each kind of value, and for an object a
table from a member's name to its function.  What they find wrong is explained, from the same schema,
by pyrunc/spec/explain.py.

Only the keywords the schema uses are known here; any other one is an error, lest a rule be dropped
in silence.  One departure from JSON Schema: 1.0 is not an integer, since no Go decoder takes it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
SCHEMA = HERE / "pyrunc" / "spec" / "schema" / "config.json"
OUT = HERE / "pyrunc" / "spec" / "_validator.py"

#: The one pattern in use, told in a way that needs no `re`.
NO_NUL = r"^[^\u0000]*$"
NOTES = {"description", "title", "$schema", "$defs"}
HEADER = '''\
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501, SIM110
"""Generated from schema/{name} by tools/generate_validator.py; do not edit.

`validate(value)` tells whether the value fits the schema; pyrunc.spec.explain tells why not.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
'''


class Generator:
    """Turns schemas into functions; equal schemas share one."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.root = schema
        self.names: dict[str, str] = {}
        self.taken: set[str] = set()
        self.source: list[str] = []

    def function(self, schema: dict[str, Any], wanted: str) -> str | None:
        """The name of the function for `schema`, None where anything is valid."""
        if "$ref" in schema:
            _only(schema, {"$ref"})
            definition = schema["$ref"].removeprefix("#/$defs/")
            return self.function(self.root["$defs"][definition], "is_" + definition)
        schema = {key: value for key, value in schema.items() if key not in NOTES}
        if not schema:
            return None
        key = json.dumps(schema, sort_keys=True)
        if key not in self.names:
            name = wanted
            while name in self.taken:
                name += "_"
            self.taken.add(name)
            self.names[key] = name
            body = self.body(schema, name)  # first, so that what it calls stands above it
            self.source.append(f"\n\ndef {name}(value: Any) -> bool:\n{body}")
        return self.names[key]

    def body(self, schema: dict[str, Any], name: str) -> str:
        if "enum" in schema:
            _only(schema, {"enum"})
            self.source.append(f"\n\n_{name} = frozenset({sorted(schema['enum'])!r})\n")
            return f"    return isinstance(value, str) and value in _{name}\n"
        kind = schema["type"]
        return str(getattr(self, "_" + kind)(schema, name))

    def _boolean(self, schema: dict[str, Any], name: str) -> str:
        _only(schema, {"type"})
        return "    return value is True or value is False\n"

    def _integer(self, schema: dict[str, Any], name: str) -> str:
        _only(schema, {"type", "minimum", "maximum"})
        # type() and not isinstance(): True is an int to Python
        return f"    return type(value) is int and {schema['minimum']} <= value <= {schema['maximum']}\n"

    def _string(self, schema: dict[str, Any], name: str) -> str:
        _only(schema, {"type", "pattern"})
        if schema.get("pattern", NO_NUL) != NO_NUL:
            raise ValueError(f"pattern {schema['pattern']} is not known to the generator")
        no_nul = ' and "\\0" not in value' if "pattern" in schema else ""
        return f"    return isinstance(value, str){no_nul}\n"

    def _array(self, schema: dict[str, Any], name: str) -> str:
        _only(schema, {"type", "items", "minItems"})
        size = f" or len(value) < {schema['minItems']}" if "minItems" in schema else ""
        item = self.function(schema["items"], name + "_item")
        return (f"    if not isinstance(value, list){size}:\n        return False\n"
                f"    for item in value:\n        if not {item}(item):\n            return False\n"
                "    return True\n")

    def _object(self, schema: dict[str, Any], name: str) -> str:
        _only(schema, {"type", "properties", "required", "additionalProperties"})
        missing = "".join(f" or {member!r} not in value" for member in schema.get("required", ()))
        body = f"    if not isinstance(value, dict){missing}:\n        return False\n"
        if "additionalProperties" in schema:
            _only(schema, {"type", "additionalProperties"})
            every = self.function(schema["additionalProperties"], name + "_value")
            return body + (f"    for item in value.values():\n        if not {every}(item):\n"
                           "            return False\n    return True\n")
        table = ""
        for member, sub in schema.get("properties", {}).items():
            check = self.function(sub, f"{name}_{member}")
            table += f"    {member!r}: {check},\n" if check else ""
        self.source.append(f"\n\n_{name} = {{\n{table}}}\n")
        return body + (f"    for key, item in value.items():\n        check = _{name}.get(key)\n"
                       "        if check is not None and not check(item):\n            return False\n"
                       "    return True\n")


def _only(schema: dict[str, Any], known: set[str]) -> None:
    unknown = set(schema) - known - NOTES
    if unknown:
        raise ValueError(f"the generator does not know {', '.join(sorted(unknown))} here: {schema}")


def generate(schema_path: str | Path = SCHEMA) -> str:
    """The source of the validator for the schema at `schema_path`."""
    path = Path(schema_path)
    generator = Generator(json.loads(path.read_text(encoding="utf-8")))
    generator.function(generator.root, "validate")
    return HEADER.replace("{name}", path.name) + "".join(generator.source).replace("'", '"')


def main(arguments: list[str]) -> None:
    """Write the validator to the file named, by default to its place in the tree."""
    out = Path(arguments[0]) if arguments else OUT
    out.write_text(generate(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
