# SPDX-License-Identifier: Apache-2.0
"""GVariant text, as the values of `org.systemd.property.*` annotations are written (GLib, GVariant Text Format).

Taken is what D-Bus can carry and the text says without doubt: booleans, numbers, strings, byte strings,
arrays, tuples, dictionaries and variants, with a type keyword (`uint64 5`) or a signature (`@as []`) before
them where there is one.  Everything else is refused: no `nothing`, no descriptors.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: What the text says, its type still open: kind, content, where it stands.
    Node = tuple[str, Any, int]

MAX_LENGTH = 1 << 16
MAX_DEPTH = 16

KEYWORDS = {"boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x",
            "uint64": "t", "double": "d", "string": "s", "objectpath": "o", "signature": "g"}
_RANGES = {"y": (0, 2**8 - 1), "n": (-(2**15), 2**15 - 1), "q": (0, 2**16 - 1), "i": (-(2**31), 2**31 - 1),
           "u": (0, 2**32 - 1), "x": (-(2**63), 2**63 - 1), "t": (0, 2**64 - 1)}
_BASIC = "ybnqiuxtdsog"
_INFINITY = float("inf")

_SPACE = re.compile(r"[ \t\n\r]*")
_WORD = re.compile(r"[a-z][a-z0-9]*")
_NUMBER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?)")
_NUMBER_ENDS = re.compile(r"[A-Za-z0-9_.]")
_SIGNATURE = re.compile(r"[a-z(){}]+")
_PATH = re.compile(r"/|(?:/[A-Za-z0-9_]+)+")
_CODE_POINT = re.compile(r"[0-9a-fA-F]{4}|0010[0-9a-fA-F]{4}|000[0-9a-fA-F]{5}")
_OCTAL = re.compile(r"[0-3]?[0-7]{1,2}")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}


def parse(text: str) -> tuple[str, Any]:
    """(D-Bus signature, value) of a text.  Raises ValueError that tells where it is wrong."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"is longer than {MAX_LENGTH} characters")
    reader = _Reader(text)
    node = reader.value(0)
    reader.space()
    if reader.at < len(text):
        raise reader.error(f"{text[reader.at]!a} comes after the value")
    signature = _infer(node)
    return signature, _build(node, signature)


class _Reader:
    """From text to nodes."""

    __slots__ = ("at", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def error(self, message: str) -> ValueError:
        return _error(self.at, message)

    def space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found
        self.at = found.end()

    def peek(self) -> str:
        """The next character that isn't space, "" at the end."""
        self.space()
        return self.text[self.at : self.at + 1]

    def take(self, character: str) -> bool:
        if self.peek() != character:
            return False
        self.at += 1
        return True

    def expect(self, character: str) -> None:
        if not self.take(character):
            found = self.text[self.at : self.at + 1]
            raise self.error(f"{character!r} is missing" + (f" before {found!a}" if found else ""))

    def value(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self.error("is nested too deeply")
        first = self.peek()
        at = self.at
        if not first:
            raise self.error("a value is missing")
        if first == "[":
            return "array", self._items("[", "]", depth), at
        if first == "(":
            return "tuple", self._tuple(depth), at
        if first == "{":
            return "dictionary", self._dictionary(depth), at
        if first == "<":
            self.at += 1
            inner = self.value(depth + 1)
            self.expect(">")
            return "variant", inner, at
        if first == "@":
            return self._signed(depth)
        if first in "'\"":
            return "string", self._string(), at
        if first == "b" and self.text[at + 1 : at + 2] in ("'", '"'):
            self.at += 1
            return "bytes", self._bytes(), at
        if first in "+-.0123456789":
            return "number", self._number(), at
        return self._word(depth)

    def _items(self, opening: str, closing: str, depth: int) -> list[Node]:
        self.expect(opening)
        items: list[Node] = []
        while not self.take(closing):
            if items:
                self.expect(",")
            items.append(self.value(depth + 1))
        return items

    def _tuple(self, depth: int) -> list[Node]:
        """`(1, 2)`; one alone is `(1,)`."""
        self.expect("(")
        items = [self.value(depth + 1)]
        if self.take(","):
            if self.take(")"):
                return items
            items.append(self.value(depth + 1))
            while self.take(","):
                items.append(self.value(depth + 1))
        elif self.peek() == ")":
            raise self.error("a tuple of one has a comma: (1,)")
        self.expect(")")
        return items

    def _dictionary(self, depth: int) -> list[tuple[Node, Node]]:
        self.expect("{")
        entries: list[tuple[Node, Node]] = []
        while not self.take("}"):
            if entries:
                self.expect(",")
            key = self.value(depth + 1)
            self.expect(":")
            entries.append((key, self.value(depth + 1)))
        return entries

    def _signed(self, depth: int) -> Node:
        """`@as []`"""
        at = self.at
        found = _SIGNATURE.match(self.text, at + 1)
        if found is None or not is_single(found[0]):
            raise self.error("'@' stands before the signature of one type")
        self.at = found.end()
        return "typed", (found[0], self.value(depth + 1)), at

    def _word(self, depth: int) -> Node:
        at = self.at
        found = _WORD.match(self.text, at)
        word = found[0] if found else ""
        if word in ("true", "false"):
            self.at += len(word)
            return "boolean", word == "true", at
        if word not in KEYWORDS:
            raise self.error(f"{word or self.text[at]!a} begins no value")
        self.at += len(word)
        return "typed", (KEYWORDS[word], self.value(depth + 1)), at

    def _number(self) -> str:
        found = _NUMBER.match(self.text, self.at)
        if found is None or _NUMBER_ENDS.match(self.text, found.end()):
            raise self.error("is not a number")
        self.at = found.end()
        return found[0]

    def _string(self) -> str:
        quote = self.text[self.at]
        self.at += 1
        pieces: list[str] = []
        while (character := self.text[self.at : self.at + 1]) != quote:
            if not character:
                raise self.error("the string has no end")
            self.at += 1
            pieces.append(self._escape() if character == "\\" else character)
        self.at += 1
        text = "".join(pieces)
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise self.error("the string has characters that D-Bus can't carry")
        return text

    def _escape(self) -> str:
        letter = self.text[self.at : self.at + 1]
        self.at += 1
        if letter in _ESCAPES:
            return _ESCAPES[letter]
        if letter in ("u", "U"):
            digits = self.text[self.at : self.at + (4 if letter == "u" else 8)]
            if _CODE_POINT.fullmatch(digits):
                self.at += len(digits)
                return chr(int(digits, 16))
        raise self.error("there is no such escape")

    def _bytes(self) -> bytes:
        """`b'text'`: the bytes, and the NUL that ends them."""
        quote = self.text[self.at]
        self.at += 1
        result = bytearray()
        while (character := self.text[self.at : self.at + 1]) != quote:
            if not character:
                raise self.error("the string has no end")
            self.at += 1
            if character == "\\" and (octal := _OCTAL.match(self.text, self.at)):
                self.at = octal.end()
                result.append(int(octal[0], 8))
            else:
                result += (self._escape() if character == "\\" else character).encode("utf-8", "surrogatepass")
        self.at += 1
        return bytes(result) + b"\0"


def _error(at: int, message: str) -> ValueError:
    return ValueError(f"{message} (at character {at + 1})")


def split(signature: str) -> list[str]:
    """The single types that a signature is made of.  Raises ValueError."""
    types: list[str] = []
    at = 0
    while at < len(signature):
        end = _end(signature, at, 0)
        types.append(signature[at:end])
        at = end
    return types


def is_single(signature: str) -> bool:
    """Whether it is the signature of one type."""
    try:
        return len(split(signature)) == 1
    except ValueError:
        return False


def _end(signature: str, at: int, depth: int) -> int:
    """Where the type that begins at `at` ends."""
    code = signature[at : at + 1]
    if depth > MAX_DEPTH:
        raise ValueError("is nested too deeply")
    if code and code in _BASIC + "v":
        return at + 1
    if code == "a":
        if signature[at + 1 : at + 2] != "{":
            return _end(signature, at + 1, depth + 1)
        if signature[at + 2 : at + 3] not in tuple(_BASIC):
            raise ValueError("a dictionary's key is of a basic type")
        end = _end(signature, at + 3, depth + 1)
        if signature[end : end + 1] != "}":
            raise ValueError("a dictionary has a key and a value")
        return end + 1
    if code == "(":
        end = _end(signature, at + 1, depth + 1)
        while signature[end : end + 1] != ")":
            end = _end(signature, end, depth + 1)
        return end + 1
    raise ValueError(f"{code!a} is no type")


def _infer(node: Node) -> str:
    """The type of what was written: what it says, else the plain one of its kind."""
    kind, content, at = node
    if kind == "typed":
        return str(content[0])
    if kind == "number":
        return "i" if _is_whole(content) else "d"
    if kind == "tuple":
        return f"({''.join(_infer(item) for item in content)})"
    if kind == "array":
        return "a" + _common(content, at)
    if kind == "dictionary":
        key = _common([key for key, _ in content], at)
        if key not in _BASIC:
            raise _error(at, "a dictionary's key is of a basic type")
        return f"a{{{key}{_common([value for _, value in content], at)}}}"
    return {"boolean": "b", "string": "s", "bytes": "ay", "variant": "v"}[kind]


def _common(nodes: list[Node], at: int) -> str:
    """The type of the first that says one, else of the first."""
    if not nodes:
        raise _error(at, "is empty, so its type has to be told: @as []")
    told = [node for node in nodes if node[0] == "typed"]
    if not told and any(node[0] == "number" and not _is_whole(node[1]) for node in nodes):
        return "d"
    return _infer((told or nodes)[0])


def _is_whole(text: str) -> bool:
    return "x" in text.lower() or not any(character in text for character in ".eE")


def _build(node: Node, signature: str) -> Any:
    """The value, in the form in which D-Bus libraries of Python have one of this type."""
    kind, content, at = node
    if kind == "typed":
        if content[0] != signature:
            raise _error(at, f"{content[0]} is not of the type {signature}")
        return _build(content[1], signature)
    if kind == "number" and signature in (*_RANGES, "d"):
        return _number(content, signature, at)
    if kind == "string" and signature in "sog":
        return _text(content, signature, at)
    if (kind, signature) in (("boolean", "b"), ("bytes", "ay")):
        return content
    if kind == "variant" and signature == "v":
        inner = _infer(content)
        return inner, _build(content, inner)
    if kind == "array" and signature[0] == "a" and signature[1] != "{":
        return [_build(item, signature[1:]) for item in content]
    if kind == "dictionary" and signature[:2] == "a{":
        key, value = split(signature[2:-1])
        return {_build(name, key): _build(item, value) for name, item in content}
    if kind == "tuple" and signature[0] == "(":
        types = split(signature[1:-1])
        if len(types) == len(content):
            return tuple(_build(item, each) for item, each in zip(content, types, strict=True))
    raise _error(at, f"this {kind} is not of the type {signature}")


def _number(text: str, signature: str, at: int) -> int | float:
    if signature == "d":
        try:
            number = float(int(text, 16)) if "x" in text.lower() else float(text)
        except OverflowError:
            number = _INFINITY
        if abs(number) == _INFINITY:
            raise _error(at, f"{text[:40]} is out of range")
        return number
    if not _is_whole(text):
        raise _error(at, f"{text[:40]} is not a whole number")
    digits = text.lstrip("+-")
    base = 16 if digits[:2] in ("0x", "0X") else 8 if len(digits) > 1 and digits[0] == "0" else 10
    try:
        whole = int(digits, base) * (-1 if text[0] == "-" else 1)
    except ValueError:
        raise _error(at, f"{text[:40]} is not a number") from None
    low, high = _RANGES[signature]
    if not low <= whole <= high:
        raise _error(at, f"{text[:40]} is out of range: {low} to {high}")
    return whole


def _text(text: str, signature: str, at: int) -> str:
    if signature == "o" and not _PATH.fullmatch(text):
        raise _error(at, f"{text!a} is no object path")
    if signature == "g":
        try:
            split(text)
        except ValueError as error:
            raise _error(at, f"{text!a} is no signature: {error}") from None
    return text
