# SPDX-License-Identifier: Apache-2.0
"""pyrunc state ID: the container's state as JSON (runtime.md, Query State)."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS: tuple[Option, ...] = ()
ARGUMENTS = (Argument("container-id"),)


def run(args: Args, context: Context) -> int:
    from pyrunc.lifecycle import Container
    from pyrunc.spec.load import dump_pretty

    print(dump_pretty(Container.load(args["container-id"], context.root, context.log).state()))
    return 0
