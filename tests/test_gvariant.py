# SPDX-License-Identifier: Apache-2.0
"""Values in GVariant's text form: what it says, what it refuses, and that D-Bus carries what it lets pass."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jeepney import Header, HeaderFields, Message, MessageType, Parser
from jeepney.low_level import Endianness

from pyrunc import gvariant


@pytest.mark.parametrize(("text", "value"), [
    ("true", ("b", True)), ("5", ("i", 5)), ("0x1F", ("i", 31)), ("-017", ("i", -15)), ("1e3", ("d", 1000.0)),
    (".5", ("d", 0.5)), ("uint16 7", ("q", 7)), ("double 7", ("d", 7.0)), ("byte 0xff", ("y", 255)),
    (r"'a\'\n\u00e9\U0001F600'", ("s", "a'\né😀")), ('"it\'s"', ("s", "it's")),
    ("objectpath '/a/b_1'", ("o", "/a/b_1")), ("signature 'a{sv}'", ("g", "a{sv}")),
    (r"b'a\001\x'".replace(r"\x", r"\\"), ("ay", b"a\1\\\0")),
    ("@as []", ("as", [])), ("['a', 'b']", ("as", ["a", "b"])),
    ("[1, 2.5]", ("ad", [1.0, 2.5])), ("[1, uint64 2]", ("at", [1, 2])), ("@a(st) [('x', 1)]", ("a(st)", [("x", 1)])),
    ("{'a': <1>, 'b': <'x'>}", ("a{sv}", {"a": ("i", 1), "b": ("s", "x")})), ("(1, 'a')", ("(is)", (1, "a"))),
    ("(1,)", ("(i)", (1,))), ("<<5>>", ("v", ("v", ("i", 5)))), ("@a{sas} {}", ("a{sas}", {})),
    (" [ [ 1 ] , [ 2 ] ] ", ("aai", [[1], [2]])),
])
def test_gvariant(text: str, value: object) -> None:
    assert gvariant.parse(text) == value


@pytest.mark.parametrize("text", [
    "", " ", "[]", "{}", "nothing", "just 5", "handle 1", "5 6", "1x", "--1", "uint64 -1", "byte 256", "2147483648",
    "08", "1e999", "double 0x" + "f" * 400, "uint32 1.0", "'a", "'\\q'",
    r"'\u00'", r"'\u0000'", r"'\ud800'", r"'\U00110000'",
    "@a 5", "@a{vs} {}", "@ii 5", "@", "@s", "(1)", "()", "(1,2", "[1,]", "[1 2]", "{1}", "{1:2,}", "{[1]: 2}", "<5",
    "<>", "['a', 1]", "[true, 1]", "objectpath 'a'", "objectpath '/a/'", "signature 'z'", "true1", "True", "int32",
    "b5", "[" * 100, "<" * 100, "@" + "a" * 300 + "s []", "1" * 5000, "9" * 70000, "[uint64 1, int32 2]",
    "@(ii) (1, 2, 3)",
])
def test_gvariant_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\(at character \d+\)$|is longer than"):
        gvariant.parse(text)


@given(st.text(alphabet="[](){}<>@,:'\"\\ 012x.-aisbyvtunelfrdo\n\0é", max_size=40) | st.text(max_size=20))
def test_gvariant_of_anything(text: str) -> None:
    """It is refused in one way, or D-Bus can carry it."""
    try:
        signature, value = gvariant.parse(text)
    except ValueError:
        return
    carried(signature, value)


CODES = {"y": 8, "q": 16, "u": 32, "t": 64}
LEAVES = st.one_of(
    st.booleans().map(lambda value: ("b", value, "true" if value else "false")),
    st.text(st.characters(exclude_characters="\0\\'", exclude_categories=["Cs"]), max_size=8).map(
        lambda value: ("s", value, f"'{value}'")),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: ("d", value, f"double {value!r}")),
    *(st.integers(0, 2**bits - 1).map(lambda value, code=code: (
        code, value, f"{ {'y': 'byte', 'q': 'uint16', 'u': 'uint32', 't': 'uint64'}[code] } {value}"))
      for code, bits in CODES.items()),
)


def nested(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        values.map(lambda value: ("v", (value[0], value[1]), f"<{value[2]}>")),
        st.lists(values, min_size=1, max_size=3).map(lambda items: (
            f"({''.join(item[0] for item in items)})", tuple(item[1] for item in items),
            f"({', '.join(item[2] for item in items)}{',' if len(items) == 1 else ''})")),
        values.flatmap(lambda value: st.integers(1, 3).map(lambda count: (
            f"a{value[0]}", [value[1]] * count, f"[{', '.join([value[2]] * count)}]"))),
    )


@given(st.recursive(LEAVES, nested, max_leaves=8))
def test_gvariant_as_written(written: tuple[str, Any, str]) -> None:
    signature, value, text = written
    assert gvariant.parse(text) == (signature, value)
    carried(signature, value)


def carried(signature: str, value: object) -> None:
    """jeepney, on the way there and back, has the same."""
    header = Header(Endianness.little, MessageType.method_call, 0, 1, -1, 1,
                    {HeaderFields.path: "/", HeaderFields.member: "M", HeaderFields.signature: "v"})
    parser = Parser()
    (message,) = parser.feed(Message(header, ((signature, value),)).serialise())
    assert message.body[0][0] == signature
    assert as_lists(message.body[0][1]) == as_lists(value)


def as_lists(value: object) -> object:
    """The value with a list for bytes, at any depth: jeepney gives back bytes for a list of them."""
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, bytes)):
        return [as_lists(item) for item in value]
    return value
