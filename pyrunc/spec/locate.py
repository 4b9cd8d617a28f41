# SPDX-License-Identifier: Apache-2.0
"""Where in a JSON text something lies that the C scanner refused without telling the place.

Only imported to report an error.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)


class _Level:
    """An object or array not yet closed."""

    __slots__ = ("index", "is_object", "keys", "name")

    def __init__(self, is_object: bool) -> None:
        self.is_object = is_object
        self.keys: set[str] = set()
        self.name = ""
        self.index = 0


def locate(text: str, what: str, token: str) -> tuple[int, str]:
    """The position of `token`, or of a duplicate key, and what to say of it."""
    if token:
        for match in _TOKEN.finditer(text):
            if match[0] == token:
                return match.start(), what
        return 0, what
    return _duplicate(text, what)


def _duplicate(text: str, what: str) -> tuple[int, str]:
    levels: list[_Level] = []
    at_key = False
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in ("{", "["):
            levels.append(_Level(token == "{"))
            at_key = token == "{"
        elif token in ("}", "]"):
            if levels:
                levels.pop()
            at_key = False
        elif token == "," and levels:
            levels[-1].index += 1
            at_key = levels[-1].is_object
        elif token[0] == '"' and at_key and levels:
            at_key = False
            key = _unescape(token)
            if key in levels[-1].keys:
                return match.start(), f"{what} {token}{_inside(levels)}"
            levels[-1].keys.add(key)
            levels[-1].name = key
    return 0, what


def _inside(levels: list[_Level]) -> str:
    if len(levels) == 1:
        return ""
    return " in /" + "/".join(level.name if level.is_object else str(level.index) for level in levels[:-1])


def _unescape(token: str) -> str:
    # "a" and "\u0061" are one key
    import json

    try:
        return str(json.loads(token))
    except ValueError:
        return token
