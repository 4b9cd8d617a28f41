# SPDX-License-Identifier: Apache-2.0
"""pyrunc.spec.load: strict reading, exact places in errors, writing that reads back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyrunc.errors import BundleError, ConfigError
from pyrunc.spec.default import default_config
from pyrunc.spec.load import MAX_BYTES, MAX_DEPTH, dump, dump_pretty, load_config, parse

TREE = Path(__file__).resolve().parent.parent
DEFAULT = dump_pretty(default_config()).encode()


def error_of(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        parse(data, "config.json")
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(("data", "place", "what"), [
    (b"", "line 1 column 1 (byte 0)", "the file is empty"),
    (b" \n ", "line 2 column 2 (byte 3)", "the file is empty"),
    (b'{"a": ', "line 1 column 7 (byte 6)", "the text ends where a value is expected"),
    (b'{"a": tru}', "line 1 column 7 (byte 6)", "expected a value, found 't'"),
    (b'{"a" 1}', "line 1 column 6 (byte 5)", "expected ':' delimiter"),
    (b'{"a": 1 "b": 2}', "line 1 column 9 (byte 8)", "expected ',' delimiter"),
    (b"{'a': 1}", "line 1 column 2 (byte 1)", "expected property name enclosed in double quotes"),
    (b'{"a": "\n"}', "line 1 column 8 (byte 7)", "invalid control character"),
    (b'{"a": "b', "line 1 column 7 (byte 6)", "unterminated string"),
    (b'{"a": "\\q"}', "line 1 column 8 (byte 7)", "invalid \\escape"),
    (b'{"a": 01}', "line 1 column 8 (byte 7)", "expected ',' delimiter"),
    (b'{\n "a": NaN}', "line 2 column 7 (byte 8)", "NaN is not JSON"),
    (b"[-Infinity]", "line 1 column 2 (byte 1)", "-Infinity is not JSON"),
    (b"[1e999]", "line 1 column 2 (byte 1)", "a number out of range"),
    (b"[" + b"1" * 5000 + b"]", "line 1 column 2 (byte 1)", "a number of too many digits"),
    (b'{"a": 1} x', "line 1 column 10 (byte 9)", "something follows the end of the value"),
    ('"é" x'.encode(), "line 1 column 5 (byte 5)", "something follows the end of the value"),
    (b'{"a": "\xff"}', "line 1 column 8 (byte 7)", "the byte 0xff is not UTF-8"),
    (b'{"a": 1, "a": 2}', "line 1 column 10 (byte 9)", 'duplicate key "a"'),
    (b'{"x": [{}, {"a": 1, "\\u0061": 2}]}', "line 1 column 21 (byte 20)",
     'duplicate key "\\u0061" in /x/1'),
])
def test_invalid_json_is_refused_with_its_place(data: bytes, place: str, what: str) -> None:
    text = error_of(data)
    assert text.startswith(f"config.json: invalid JSON at {place}: {what}"), text


@pytest.mark.parametrize(("data", "what"), [
    (b"\xff\xfe{\x00}\x00", "encoded as UTF-16"),
    (b"\xef\xbb\xbf{}", "starts with a byte order mark"),
    (b" " * (MAX_BYTES + 1), "larger than 4194304 bytes"),
    (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested deeper than 64 levels"),
    (b"[" * 2_000_000, "nested deeper than 64 levels"),
    (b'{"a":' * 200_000, "nested deeper than 64 levels"),
])
def test_limits_are_errors_and_not_crashes(data: bytes, what: str) -> None:
    assert what in error_of(data)


def test_the_limits_themselves_are_fine() -> None:
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "x")
    assert parse(b"1" + b" " * (MAX_BYTES - 1), "x") == 1


def test_keys_that_differ_are_no_duplicates() -> None:
    assert parse(b'{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}', "x") == {"a": {"a": 1},
                                                                         "b": [{"a": 1}, {"a": 2}]}


def test_null_is_absent_in_a_configuration() -> None:
    """Go's decoder takes null for the zero value, and clients in Go write it."""
    config = json.loads(DEFAULT)
    config["hooks"] = None
    config["linux"]["devices"] = None
    loaded = load_config(json.dumps(config).encode())
    assert "hooks" not in loaded
    assert "devices" not in loaded["linux"]
    assert parse(b'{"a": null}', "x") == {"a": None}


def test_null_for_a_required_member_is_a_missing_one() -> None:
    config = json.loads(DEFAULT)
    config["root"]["path"] = None
    with pytest.raises(ConfigError, match=r"^/root/path: is missing but required"):
        load_config(json.dumps(config).encode())


@pytest.mark.parametrize("member", [r'"hostname": "a\ud800"', r'"annotations": {"\udc80": ""}'])
def test_half_a_surrogate_pair_is_refused(member: str) -> None:
    """os.fsencode would turn one into a byte that the text never showed."""
    with pytest.raises(ConfigError, match="half a surrogate pair"):
        load_config(DEFAULT.replace(b'"hostname": "pyrunc"', member.encode()))


def test_a_whole_surrogate_pair_is_a_character() -> None:
    data = DEFAULT.replace(b'"TERM=xterm"', b'"A=\\ud83d\\ude00"')
    assert load_config(data)["process"]["env"][1] == "A=\U0001f600"


def test_unknown_properties_are_accepted() -> None:
    """config.md, Extensibility: runtimes MUST NOT generate an error for an unknown property."""
    config = json.loads(DEFAULT)
    config["new"] = {"a": [1.5, None]}
    config["linux"]["hooks"] = config["hooks"] = {"preflight": 3}
    assert load_config(json.dumps(config).encode())["hostname"] == "pyrunc"


VALUES: list[object] = [None, True, False, 0, -1, 2**64, 1.5, "", 'a"b\\c\n\0', "é\U0001f600",
                        os.fsdecode(b"\xff\x80"),
          [], {},
          [[], {}], {"a": {"b": [1, {"c": None}]}}]


@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_what_is_dumped_reads_back(value: object) -> None:
    for text in (dump(value), dump_pretty(value), dump_pretty(value, 4)):
        assert text.isascii()
        assert parse(text.encode(), "x") == value


def test_pretty_is_laid_out_as_go_does() -> None:
    value = {"a": [], "b": {}, "c": [1, {"d": "e"}]}
    assert dump_pretty(value, 4) == json.dumps(value, indent=4)


def test_what_json_can_not_hold_is_not_dumped() -> None:
    with pytest.raises(TypeError, match="a bytes can't be written as JSON"):
        dump({"a": b""})


def test_without_the_json_module_loaded() -> None:
    """The C scanner can't raise its own error unless the module `json` is loaded: see _scan."""
    program = (f"import sys; sys.path.insert(0, {str(TREE)!r})\n"
               "from pyrunc.spec.load import load_config, parse\n"
               "from pyrunc.spec.default import default_config\n"
               "from pyrunc.spec.load import dump\n"
               "load_config(dump(default_config()).encode())\n"
               "print(sorted({'json', 're', 'enum', 'typing', 'jsonschema'} & set(sys.modules)))\n"
               "for text in (b'{', b'[1', b'[\"', b'nul'):\n"
               "    try: parse(text, 'x')\n"
               "    except Exception as error: print(error)\n")
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True,
                            check=True)
    assert result.stdout.splitlines() == [
        "[]",
        "x: invalid JSON at line 1 column 2 (byte 1): expected property name enclosed in double quotes",
        "x: invalid JSON at line 1 column 3 (byte 2): expected ',' delimiter",
        "x: invalid JSON at line 1 column 2 (byte 1): unterminated string",
        "x: invalid JSON at line 1 column 1 (byte 0): expected a value, found 'n'",
    ]
