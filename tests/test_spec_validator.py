# SPDX-License-Identifier: Apache-2.0
"""The generated validator: up to date, of one mind with jsonschema; and what explains its no."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrunc.errors import ConfigError
from pyrunc.spec._validator import validate
from pyrunc.spec.default import default_config
from pyrunc.spec.explain import describe, explain, load_schema, validator, walk
from pyrunc.spec.load import dump, load_config, parse

TREE = Path(__file__).resolve().parent.parent
SCHEMA = load_schema("config.json")
JSONSCHEMA = validator(SCHEMA)


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_validator",
                                                  TREE / "tools" / "generate_validator.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_validator_is_up_to_date() -> None:
    """`python tools/generate_validator.py` mends it."""
    assert (TREE / "pyrunc/spec/_validator.py").read_text() == generator().generate()


def test_the_generator_refuses_a_keyword_it_does_not_know(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}}')
    with pytest.raises(ValueError, match="does not know maxLength"):
        generator().generate(schema)


@pytest.mark.parametrize("name", ["config.json", "state.json", "features.json"])
def test_the_schemas_are_schemas(name: str) -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(load_schema(name))


def full(schema: dict[str, Any]) -> Any:
    """A value with every member of `schema`."""
    if "$ref" in schema:
        return full(SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")])
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        every = {"key": full(schema["additionalProperties"])} if "additionalProperties" in schema else {}
        return every | {name: full(sub) for name, sub in schema.get("properties", {}).items()}
    if kind == "array":
        return [full(schema["items"])]
    return {"integer": schema.get("maximum"), "string": "text", "boolean": True, None: {"any": 1}}[kind]


FULL = full(SCHEMA)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    parts: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value,
                                                                                              list) else ()
    return [path] + [place for key, item in parts for place in places(item, (*path, key))]


PLACES = places(FULL)
ODD: list[Any] = [None, True, 0, 1, -1, 7, 8, 0.0, 1.0, -0.5, 2**16, 2**31, 2**32, -(2**31) - 1, 2**63,
                  2**64,
       -(2**63) - 1,
       "", "0", "pid", "a\0b", "a\n", "a\0\n", [], [None], [1], ["a"], ["\0"], {}, {"a": 1}, {"a": "b"},
       [{}], [[]]]


def replaced(path: tuple[str | int, ...], new: Any) -> Any:
    """FULL with `new` at `path`; with ... the member there is taken out."""
    config = copy.deepcopy(FULL)
    if not path:
        return {} if new is ... else new
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return config


def test_a_configuration_with_every_member_is_valid() -> None:
    assert validate(FULL)
    assert JSONSCHEMA.is_valid(FULL)
    assert len(PLACES) > 200


@pytest.mark.parametrize("path", PLACES[::9], ids=lambda path: "/".join(map(str, path)) or "/")
def test_it_agrees_with_jsonschema(path: tuple[str | int, ...]) -> None:
    """And our own walk, which serves without jsonschema, explains a failure in the same words."""
    for new in (..., *ODD):
        config = replaced(path, new)
        assert validate(config) == JSONSCHEMA.is_valid(config), (path, new)
        if not validate(config):
            assert str(explain(config)) == str(describe(list(walk(SCHEMA, SCHEMA, config, ())))), (path, new)


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from([..., *ODD])), min_size=1, max_size=3))
def test_it_agrees_with_jsonschema_on_several_mistakes(changes: list[tuple[tuple[str | int, ...],
                                                                           Any]]) -> None:
    config = copy.deepcopy(FULL)
    for path, new in changes:
        inner = config
        try:
            for key in path[:-1]:
                inner = inner[key]
            if path and new is ...:
                del inner[path[-1]]
            elif path:
                inner[path[-1]] = new
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took that place away
    assert validate(config) == JSONSCHEMA.is_valid(config)


def test_only_an_integer_is_one() -> None:
    """No Go decoder takes 1.0 for an int, though JSON Schema does."""
    for value in (0.0, True, "0"):
        assert not validate(replaced(("process", "user", "uid"), value))


def said(*changes: tuple[str, Any]) -> str:
    """The error for the default configuration with values changed at pointers."""
    config = json.loads(json.dumps(default_config()))
    for pointer, value in changes:
        keys = pointer.split("/")[1:]
        inner = config
        for key in keys[:-1]:
            inner = inner[int(key) if isinstance(inner, list) else key]
        last: Any = int(keys[-1]) if isinstance(inner, list) else keys[-1]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    with pytest.raises(ConfigError) as caught:
        load_config(dump(config).encode())
    return str(caught.value)


KINDS = "pid, network, mount, ipc, uts, user, cgroup, time"


@pytest.mark.parametrize(("pointer", "value", "text"), [
    ("/linux/namespaces/2/type", "pidd", f'"pidd" is not one of {KINDS} (did you mean "pid"?)'),
    ("/linux/namespaces/2/type", "zzzzzz", f'"zzzzzz" is not one of {KINDS}'),
    ("/linux/namespaces/2/type", 3, f"expected one of {KINDS}, found the number 3"),
    ("/process/user/uid", "0", 'expected an integer from 0 to 4294967295, found the string "0"'),
    ("/process/user/uid", -1, "expected an integer from 0 to 4294967295, found the number -1"),
    ("/process/user/uid", 1.0, "expected an integer from 0 to 4294967295, found the number 1.0"),
    ("/process/user/uid", True, "expected an integer from 0 to 4294967295, found true"),
    ("/process/oomScoreAdj", 1001, "expected an integer from -1000 to 1000, found the number 1001"),
    ("/process/ioPriority", {"class": "IOPRIO_CLASS_RT", "priority": 8},
     "/priority: expected an integer from 0 to 7, found the number 8"),
    ("/process/args", "sh", 'expected an array, found the string "sh"'),
    ("/process/args/0", None, "expected a string, found null"),
    ("/process/args/0", "a\0", "holds a NUL character, which the kernel can't take"),
    ("/process/terminal", "yes", 'expected true or false, found the string "yes"'),
    ("/process/rlimits/0/type", "RLIMIT_NOFILES", ...),
    ("/root", ..., "is missing but required"),
    ("/ociVersion", ..., "is missing but required"),
    ("/mounts/1", {"destinaton": "/a"},
     '/destination: is missing but required (is "destinaton" a misspelling?)'),
    ("/mounts", {"a": 1}, "expected an array, found an object"),
    ("/annotations", {"a/b~c": 1}, "/a~1b~0c: expected a string, found the number 1"),
    ("/linux/personality", {"domain": "bsd"}, '/domain: "bsd" is not one of LINUX, LINUX32'),
    ("/linux/sysctl", {"net.ipv4.ip_forward": 1},
     "/net.ipv4.ip_forward: expected a string, found the number 1"),
    ("/hostname", 10**100, "expected a string, found the number 1" + "0" * 39 + "..."),
    ("/hooks", {"prestart": [{"path": "/a", "timeout": 0}]},
     "/prestart/0/timeout: expected an integer from 1 to 9223372036854775807, found the number 0"),
])
def test_a_mistake_is_told_in_one_line(pointer: str, value: Any, text: Any) -> None:
    if text is ...:
        assert said((pointer, value)).endswith('(did you mean "RLIMIT_NOFILE"?)')
    else:
        assert said((pointer, value)) == pointer + (text if text.startswith("/") else ": " + text)


def test_of_several_mistakes_the_first_is_told_and_the_others_counted() -> None:
    text = said(("/mounts/1/type", 1), ("/linux/maskedPaths", {}), ("/root/path", ...))
    assert text == "/linux/maskedPaths: expected an array, found an object (and 2 other mistakes)"


def test_an_empty_object_and_no_object() -> None:
    for data, text in ((b"{}", "/ociVersion: is missing but required (and 1 other mistake)"),
                       (b"[]", "/: expected an object, found an array"),
                       (b"null", "/: expected an object, found null")):
        with pytest.raises(ConfigError) as caught:
            load_config(data)
        assert str(caught.value) == text


def test_explains_without_jsonschema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert said(("/process/cwd", 1)) == "/process/cwd: expected a string, found the number 1"


def test_no_pattern_library_at_run_time() -> None:
    source = (TREE / "pyrunc/spec/_validator.py").read_text()
    imports = [line.strip() for line in source.splitlines() if "import " in line]
    assert imports == ["from __future__ import annotations", "from typing import Any"]
    assert parse(dump(default_config()).encode(), "x") == default_config()
