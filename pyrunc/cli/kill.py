# SPDX-License-Identifier: Apache-2.0
"""pyrunc kill ID [SIGNAL]: send a signal to the container's init."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (Option("all", "a", hidden=True, help="every process of the container, also when the init is gone"),)
ARGUMENTS = (Argument("container-id"), Argument("signal", required=False, default="SIGTERM"))


def run(args: Args, context: Context) -> int:
    from pyrunc.lifecycle import Container
    from pyrunc.signals import parse_signal

    number = parse_signal(args["signal"] or "SIGTERM")  # an empty one, a script's unset variable, is none to runc too
    Container.load(args["container-id"], context.root, context.log).kill(number, args.flag("all"))
    return 0
