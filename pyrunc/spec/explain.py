# SPDX-License-Identifier: Apache-2.0
"""Why a value does not fit its schema, in one line that a user can act on.

Only imported once the generated validator has said no.  `jsonschema` finds the failures; where it
can't be imported, a walk over the few keywords our schema uses finds the same ones.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pyrunc.errors import ConfigError, reference_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    Path = tuple[str | int, ...]
    Schema = dict[str, Any]

SCHEMAS = os.path.join(os.path.dirname(__file__), "schema")
#: Longer values are cut in a message.
SHOWN = 40

_NAMES = {"object": "an object", "array": "an array", "string": "a string", "boolean": "true or false"}


class Failure:
    """One keyword of the schema that one value does not fit."""

    __slots__ = ("keyword", "path", "schema", "value")

    def __init__(self, path: Path, keyword: str, schema: Schema, value: Any) -> None:
        self.path = path
        self.keyword = keyword
        self.schema = schema
        self.value = value


def explain(config: Any, schema_name: str = "config.json") -> ConfigError:
    """The error for the failure of `config` that says most, and how many others there are."""
    schema = load_schema(schema_name)
    try:
        failures = list(_by_jsonschema(schema, config))
    except ImportError:
        failures = list(walk(schema, schema, config, ()))
    return describe(failures)


def load_schema(name: str) -> dict[str, Any]:
    """The JSON Schema `name`: config.json, state.json or features.json."""
    with open(os.path.join(SCHEMAS, name), encoding="utf-8") as file:
        schema: dict[str, Any] = json.load(file)
    return schema


def validator(schema: dict[str, Any]) -> Any:
    """A jsonschema validator for `schema`, that like Go's decoder does not take 1.0 for an integer."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return extend(Draft202012Validator, type_checker=checker)(schema)  # type: ignore[no-untyped-call]


def _by_jsonschema(schema: dict[str, Any], value: Any) -> Iterator[Failure]:
    for error in validator(schema).iter_errors(value):
        path = tuple(error.absolute_path)
        if error.validator == "required":
            # jsonschema reports each missing member by itself, and names it in its message alone
            for member in error.validator_value:
                if error.message.startswith(repr(member)):
                    yield Failure((*path, member), "required", error.schema, error.instance)
        else:
            yield Failure(path, error.validator, error.schema, error.instance)


def walk(root: Schema, schema: Schema, value: Any, path: Path) -> Iterator[Failure]:
    """The failures of `value`, found without jsonschema."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if "enum" in schema and value not in schema["enum"]:
        yield Failure(path, "enum", schema, value)
    kind = schema.get("type")
    if kind and not _is(kind, value):
        yield Failure(path, "type", schema, value)
    elif kind == "integer":
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            yield Failure(path, "minimum", schema, value)
    elif kind == "string":
        if "pattern" in schema and "\0" in value:
            yield Failure(path, "pattern", schema, value)
    elif kind == "array":
        if len(value) < schema.get("minItems", 0):
            yield Failure(path, "minItems", schema, value)
        for index, item in enumerate(value):
            yield from walk(root, schema["items"], item, (*path, index))
    elif kind == "object":
        for member in schema.get("required", ()):
            if member not in value:
                yield Failure((*path, member), "required", schema, value)
        properties = schema.get("properties", {})
        for key, item in value.items():
            sub = properties.get(key, schema.get("additionalProperties"))
            if sub is not None:
                yield from walk(root, sub, item, (*path, key))


def describe(failures: list[Failure]) -> ConfigError:
    """One line for the first failure; a wrong value comes before a missing one."""
    if not failures:
        return ConfigError("", "does not fit the schema")
    best = min(failures, key=_rank)
    message, hint = _phrase(best)
    others = len({failure.path for failure in failures}) - 1
    if others:
        more = "and 1 other mistake" if others == 1 else f"and {others} other mistakes"
        hint = f"{hint}; {more}" if hint else more
    return ConfigError(pointer_of(best.path), message, hint=hint)


def _rank(failure: Failure) -> tuple[bool, tuple[str, ...]]:
    # Numbers padded, so that /mounts/2 comes before /mounts/10.
    path = tuple(f"{part:08d}" if isinstance(part, int) else part for part in failure.path)
    return failure.keyword == "required", path


def pointer_of(path: Path) -> str:
    """The JSON pointer (RFC 6901) of a path of keys and indices."""
    text = "".join("/" + reference_token(str(part)) for part in path) or "/"
    return text.encode("utf-8", "backslashreplace").decode()


def _phrase(failure: Failure) -> tuple[str, str]:
    """What is wrong, and a remedy or ""."""
    schema, value = failure.schema, failure.value
    if failure.keyword == "required":
        return "is missing but required", _misspelt(str(failure.path[-1]), value)
    if failure.keyword == "pattern":
        return "holds a NUL character, which the kernel can't take", ""
    if failure.keyword == "minItems":
        return f"expected at least {schema['minItems']} entry, found none", ""
    if failure.keyword == "enum" and isinstance(value, str):
        from difflib import get_close_matches

        names = schema["enum"]
        close = get_close_matches(value, names, 1, 0.5) or get_close_matches(value.upper(), names, 1, 0.5)
        hint = f'did you mean "{close[0]}"?' if close else ""
        return f"{_show(value)} is not one of {', '.join(names)}", hint
    return f"expected {_expected(schema)}, found {_found(value)}", ""


def _misspelt(member: str, value: dict[str, Any]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(member, [str(key) for key in value], 1, 0.75)
    return f"is {_show(close[0])} a misspelling?" if close else ""


def _expected(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if schema["type"] == "integer":
        return f"an integer from {schema['minimum']} to {schema['maximum']}"
    return _NAMES[schema["type"]]


def _found(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    for kind, what in (("object", "an object"), ("array", "an array")):
        if _is(kind, value):
            return what
    return f"the string {_show(value)}" if isinstance(value, str) else f"the number {_cut(str(value))}"


def _show(text: str) -> str:
    return '"' + _cut(text).encode("unicode_escape").decode("ascii") + '"'


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _is(kind: str, value: Any) -> bool:
    if kind == "integer":
        return type(value) is int
    return isinstance(value, {"object": dict, "array": list, "string": str, "boolean": bool}[kind])
