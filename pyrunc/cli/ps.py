# SPDX-License-Identifier: Apache-2.0
"""pyrunc ps ID [ps options]: the processes of a container, as ps(1) shows them or as JSON."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option
from pyrunc.errors import PyruncError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (Option("format", "f", kind="text", metavar="table|json", default="table", help="how to print"),)
ARGUMENTS = (Argument("container-id"), Argument("ps options", required=False, rest=True))


def run(args: Args, context: Context) -> int:
    from pyrunc.lifecycle import Container

    if args["format"] not in ("table", "json"):
        raise UsageError(f'invalid format option "{args["format"]}"', hint="table or json")
    pids = Container.load(args["container-id"], context.root, context.log).pids()
    if args["format"] == "json":
        from pyrunc.spec.load import dump

        print(dump(pids) if pids else "null")  # Go's encoding of an empty list, which clients expect
        return 0
    for line in chosen(_ps(args.rest or ["-ef"]), set(pids)):
        print(line)
    return 0


def _ps(options: list[str]) -> str:
    """What ps(1) prints."""
    import subprocess

    try:
        done = subprocess.run(["ps", *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="surrogateescape", check=False)
    except OSError as error:
        raise PyruncError("run ps", errno=error.errno or 0, hint="the table is made by ps(1), from procps") from None
    if done.returncode:
        raise PyruncError(f"ps: exit status {done.returncode}: {done.stdout.strip()}")
    return done.stdout


def chosen(output: str, pids: Collection[int]) -> Iterator[str]:
    """The heading of a ps table, and its lines of `pids`.  Raises PyruncError if they can't be told."""
    heading, *lines = output.splitlines() or [""]
    if "PID" not in heading.split():
        raise PyruncError("couldn't find PID field in ps output", hint="choose columns with the PID among them")
    column = heading.split().index("PID")
    yield heading
    for line in lines:
        fields = line.split(None, column + 1)
        if not fields:
            continue
        if len(fields) <= column or not fields[column].isdecimal():
            raise PyruncError(f"unable to parse pid in ps output: {line.strip()}")
        if int(fields[column]) in pids:
            yield line
