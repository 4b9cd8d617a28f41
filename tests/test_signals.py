# SPDX-License-Identifier: Apache-2.0
"""Signals by name and number, as `kill ID SIGNAL` takes them (signal(7))."""

from __future__ import annotations

import signal

import pytest

from pyrunc.errors import UsageError
from pyrunc.signals import RTMAX, RTMIN, parse_signal, signal_name

STANDARD = [s for s in signal.Signals if s.value < RTMIN]


@pytest.mark.parametrize("standard", STANDARD, ids=lambda s: s.name)
def test_the_names_are_the_systems(standard: signal.Signals) -> None:
    assert parse_signal(standard.name) == standard
    assert parse_signal(standard.name.removeprefix("SIG").lower()) == standard
    assert parse_signal(signal_name(standard)) == standard


def test_real_time_numbers_are_glibcs() -> None:
    assert (RTMIN, RTMAX) == (signal.SIGRTMIN, signal.SIGRTMAX)


@pytest.mark.parametrize(("text", "number"), [
    ("9", 9), ("09", 9), ("1", 1), ("64", 64), ("0", 0),  # 0 asks only, as with runc and kill(2)
    ("KILL", 9), ("SIGKILL", 9), ("sigkill", 9), ("Kill", 9), ("SigKill", 9),
    ("IOT", 6), ("SIGCLD", 17), ("poll", 29), ("STKFLT", 16),
    ("RTMIN", 34), ("SIGRTMIN", 34), ("rtmin+1", 35), ("SIGRTMIN+30", 64), ("RTMAX", 64), ("rtmax-0", 64),
    ("SIGRTMAX-2", 62), ("RTMAX-30", 34),
])
def test_accepted(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", [
    "", " ", "SIG", "65", "-1", "+9", " 9", "9 ", "9x", "0x9", "1e1", "9" * 5000, "KILL\0", "KILL\n",
    "SIGSIGKILL", "BOGUS", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMAX-31", "RTMIN+", "RTMIN+ 1", "RTMIN++1", "RTMIN+0001",
    # Digits, and letters whose upper case is ASCII, of other scripts.
    "\u0669", "\u00b2", "RTMIN+\u0661", "k\u0131ll",
])
def test_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unknown signal"):
        parse_signal(text)


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UsageError) as info:
        parse_signal("SIGTREM")
    assert str(info.value) == 'unknown signal "SIGTREM" (did you mean SIGTERM?)'


@pytest.mark.parametrize(("number", "name"), [
    (9, "SIGKILL"), (34, "SIGRTMIN"), (35, "SIGRTMIN+1"), (63, "SIGRTMAX-1"), (64, "SIGRTMAX"),
    (32, "32"), (0, "0"),
])
def test_names(number: int, name: str) -> None:
    assert signal_name(number) == name


def test_every_name_leads_back() -> None:
    assert [parse_signal(signal_name(number)) for number in range(65)] == list(range(65))
