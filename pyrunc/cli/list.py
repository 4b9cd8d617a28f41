# SPDX-License-Identifier: Apache-2.0
"""pyrunc list: the containers below the state root."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option
from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("format", "f", kind="text", metavar="table|json", default="table", help="how to print"),
    Option("quiet", "q", help="ids only"),
)
ARGUMENTS: tuple[Argument, ...] = ()
_COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")
_GAP = 4


def run(args: Args, context: Context) -> int:
    from pyrunc.lifecycle import load_all
    from pyrunc.log import escape
    from pyrunc.spec.load import dump

    if args["format"] not in ("table", "json"):
        raise UsageError(f'invalid format option "{args["format"]}"', hint="table or json")
    containers = load_all(context.root, context.log)
    if args.flag("quiet"):
        for container in containers:
            print(container.id)
        return 0
    states = [container.state() for container in containers]
    for state in states:
        state["owner"] = _name(state["owner"])
    if args["format"] == "json":
        print(dump(states) if states else "null")  # Go's encoding of an empty list, which clients expect
        return 0
    rows = [tuple(column.upper() for column in _COLUMNS)]
    # A bundle's name is whatever somebody has called a directory.
    rows += [tuple(escape(str(state[column])) for column in _COLUMNS) for state in states]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    for row in rows:
        print((" " * _GAP).join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _name(uid: str) -> str:
    """The owner's name; the number where there is none, `#0` is nobody's wish."""
    import pwd

    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError):
        return f"#{uid}"
