# SPDX-License-Identifier: Apache-2.0
"""pyrunc explain: what creating the bundle's container would do, step by step, without doing it."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (Option("bundle", "b", kind="text", metavar="DIR", help="the bundle (default: the current directory)"),)
ARGUMENTS: tuple[Argument, ...] = ()


def run(args: Args, context: Context) -> int:
    from pyrunc.explain import explain

    for line in explain(args["bundle"] or "."):
        print(line)
    return 0
