# SPDX-License-Identifier: Apache-2.0
"""Signals by name and number (signal(7)), as `kill ID SIGNAL` takes them.

The numbers are those of x86_64 and aarch64, which agree.
"""

from __future__ import annotations

from .errors import UsageError

# In the order of their numbers, from 1 on.
_IN_ORDER = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT "
    "CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
_NAMES = _IN_ORDER.split()

# What else signal(7) calls them.
_ALIASES = {"IOT": 6, "CLD": 17, "POLL": 29}

# The kernel's first real-time signal is 32; glibc keeps two for its threads (nptl(7)).
RTMIN = 34
RTMAX = 64

_NUMBERS = {name: number for number, name in enumerate(_NAMES, 1)} | _ALIASES


def parse_signal(text: str) -> int:
    """The number of the signal that `text` names: `KILL`, `sigkill`, `9`, `RTMIN+1`, `SIGRTMAX-2`.

    0 is accepted, as kill(2) and runc do: it asks only whether the process could be signalled.
    Raises UsageError.
    """
    if text.isascii() and text.isdigit():
        # Longer than any signal is refused before int() sees it: it balks at thousands of digits.
        if len(text) <= 3 and int(text) <= RTMAX:
            return int(text)
        raise UsageError(f'unknown signal "{text[:20]}"', hint=f"numbers go from 1 to {RTMAX}")
    name = text.upper().removeprefix("SIG")
    number = _NUMBERS.get(name) or _real_time(name)
    if not number or not text.isascii():
        raise UsageError(f'unknown signal "{text}"', hint=_hint(name))
    return number


def signal_name(number: int) -> str:
    """`SIGKILL` for 9, `SIGRTMIN+1` for 35; what has no name comes back as its number."""
    if 1 <= number <= len(_NAMES):
        return "SIG" + _NAMES[number - 1]
    if RTMIN <= number <= RTMAX:
        # The shells' habit: the lower half counts from RTMIN, the upper from RTMAX.
        if number - RTMIN <= RTMAX - number:
            return f"SIGRTMIN+{number - RTMIN}" if number > RTMIN else "SIGRTMIN"
        return f"SIGRTMAX-{RTMAX - number}" if number < RTMAX else "SIGRTMAX"
    return str(number)


def _real_time(name: str) -> int:
    """The number of `RTMIN`, `RTMIN+n`, `RTMAX-n`; 0 when it is none."""
    base, offset = name[:5], name[5:]
    if base not in ("RTMIN", "RTMAX"):
        return 0
    start, sign = (RTMIN, "+") if base == "RTMIN" else (RTMAX, "-")
    if not offset:
        return start
    digits = offset[1:]
    if offset[0] != sign or not digits.isascii() or not digits.isdigit() or len(digits) > 2:
        return 0
    number = start + int(offset)
    return number if RTMIN <= number <= RTMAX else 0


def _hint(name: str) -> str:
    import difflib  # only here: it costs more than all the rest of this module

    near = difflib.get_close_matches(name, [*_NUMBERS, "RTMIN", "RTMAX"], 1)
    return f"did you mean SIG{near[0]}?" if near else ""
