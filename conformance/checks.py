# SPDX-License-Identifier: Apache-2.0
"""A lane's checks: small functions that return what they saw, in a table beside what should be seen."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Generic, TypeVar

from conformance.errors import Failed, TooLate

Lane = TypeVar("Lane", contravariant=True)  # a table for any lane of a kind is one for a single lane of it
SLOW = 5 if os.environ.get("PYRUNC_VM") else 1  # emulated (conformance/vm)


class Check(Generic[Lane]):
    """`look` returns what it saw; `expected` is that text, or with `pattern` a regular expression for all of it."""

    def __init__(self, name: str, look: Callable[[Lane], str], expected: str, *, pattern: bool, short: bool,
                 timeout: float) -> None:
        self.name = name
        self.look = look
        self.expected = expected
        self.pattern = pattern
        self.short = short
        self.timeout = timeout

    def accepts(self, seen: str) -> bool:
        if self.pattern:
            return re.fullmatch(self.expected, seen, re.DOTALL) is not None
        return seen == self.expected


class Table(Generic[Lane]):
    """Checks in the order they are written; a table may begin with those of others."""

    def __init__(self, *others: Table[Lane]) -> None:
        self.checks: list[Check[Lane]] = [check for other in others for check in other.checks]

    def check(self, name: str, expected: str = "", *, matches: str = "", short: bool = False,
              timeout: float = 60) -> Callable[[Callable[[Lane], str]], Callable[[Lane], str]]:
        """Add the decorated function; `short` has it in the short form too."""
        def add(look: Callable[[Lane], str]) -> Callable[[Lane], str]:
            self.checks.append(Check(name, look, matches or expected, pattern=bool(matches), short=short,
                                     timeout=timeout))
            return look
        return add

    def chosen(self, *, short: bool, only: str = "") -> list[Check[Lane]]:
        return [check for check in self.checks if (check.short or not short) and re.search(only, check.name)]


def run(lane: Lane, checks: Iterable[Check[Lane]], clean: Callable[[], object]) -> Iterator[dict[str, Any]]:
    """Each check's row; one that fails, whatever happens in it, doesn't stop the others.

    `clean` is called after a failure: what the check had made may still be there.
    """
    for check in checks:
        began = time.monotonic()
        try:
            with limit(check.timeout):
                seen = check.look(lane)
            passed = check.accepts(seen)
        except Exception as error:
            seen, passed = _words(error), False
        row: dict[str, Any] = {"check": check.name, "expected": check.expected, "pattern": check.pattern, "seen": seen,
               "passed": passed, "failures": max(seen.count("\nnot ok: "), int(not passed)),
               "seconds": round(time.monotonic() - began, 2)}
        if not passed:
            try:
                with limit(60):
                    clean()
            except Exception as error:
                row["seen"] += f" (and cleaning up after it: {_words(error)})"
        yield row


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, (Failed, TooLate)) else f"{type(error).__name__}: {error}"


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise TooLate in the middle of whatever is done when the time is up (main thread only)."""
    def late(number: int, frame: FrameType | None) -> None:
        raise TooLate(f"not done after {seconds:g} s")

    seconds *= SLOW
    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Poll until it holds; the check's own limit ends it."""
    while True:
        try:
            if condition():
                return
            time.sleep(0.02)
        except TooLate as error:
            raise TooLate(f"{error}, waiting for {what}") from None
