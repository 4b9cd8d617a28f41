# SPDX-License-Identifier: Apache-2.0
"""pyrunc events ID: what happens to a container, a line of JSON each."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option
from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    from pyrunc.cli import Context
    from pyrunc.cli.options import Args
else:
    import _signal  # what `signal` wraps; that one costs importing enum

OPTIONS = (
    Option("interval", kind="text", metavar="DURATION", default="5s", help="how often to print the stats"),
    Option("stats", help="print the stats once"),
)
ARGUMENTS = (Argument("container-id"),)
_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def run(args: Args, context: Context) -> int:
    import sys

    from pyrunc import events
    from pyrunc.lifecycle import Container
    from pyrunc.spec.load import dump

    interval = duration(args["interval"])
    if interval <= 0:
        raise UsageError("duration interval must be greater than 0")
    # It runs until it is told to stop, or its reader goes: neither is an error to report.
    for number in (_signal.SIGINT, _signal.SIGPIPE):
        _signal.signal(number, _signal.SIG_DFL)
    container = Container.load(args["container-id"], context.root, context.log)
    events.check_alive(container)
    if args.flag("stats"):
        print(dump(events.stats_event(container)))
        return 0
    for event in events.follow(container, interval):
        print(dump(event))
        sys.stdout.flush()
    return 0


def duration(text: str) -> float:
    """The seconds of a duration as Go writes it: 5s, 1m30s, 1.5h, 300ms.  Raises UsageError."""
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0.0
    seconds = 0.0 if rest else -1.0
    while rest and seconds >= 0:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        length = len(rest) - len(rest.lstrip("nu\u00b5\u03bcmsh"))
        unit, rest = rest[:length], rest[length:]
        if unit not in _UNITS or number.count(".") > 1 or not number.strip("."):
            seconds = -1.0
            break
        seconds += float(number) * _UNITS[unit]
    if seconds < 0:
        raise UsageError(f'--interval takes a duration such as 5s or 1m30s, not "{text}"')
    return -seconds if text[0] == "-" else seconds
