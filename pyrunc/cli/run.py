# SPDX-License-Identifier: Apache-2.0
"""pyrunc run ID: create, start, wait, delete; exits as the program did."""

from __future__ import annotations

import os

from pyrunc.cli import creating
from pyrunc.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    *creating.OPTIONS,
    Option("detach", "d", help="don't wait for the container"),
    Option("keep", help="don't delete the container when it has exited"),
    Option("no-subreaper", help="don't adopt orphans of the container"),
)
ARGUMENTS = creating.ARGUMENTS


def run(args: Args, context: Context) -> int:
    from pyrunc.foreground import run as run_container

    return run_container(
        creating.bundle(args), args["container-id"], context.root,
        lambda console_fd: creating.options(args, context, console_fd),
        detach=args.flag("detach"), keep=args.flag("keep"), subreaper=not args.flag("no-subreaper"),
        console_socket=args["console-socket"], notify_socket=os.environ.get("NOTIFY_SOCKET", ""), report=context.log,
    )
