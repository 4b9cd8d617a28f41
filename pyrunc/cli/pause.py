# SPDX-License-Identifier: Apache-2.0
"""pyrunc pause ID: freeze every process of a container."""

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

    Container.load(args["container-id"], context.root, context.log).pause()
    return 0
