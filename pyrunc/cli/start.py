# SPDX-License-Identifier: Apache-2.0
"""pyrunc start ID: let a created container run its program."""

from __future__ import annotations

import os

from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS: tuple[Option, ...] = ()
ARGUMENTS = (Argument("container-id"),)


def run(args: Args, context: Context) -> int:
    from pyrunc.lifecycle import Container

    container = Container.load(args["container-id"], context.root, context.log)
    host = os.environ.get("NOTIFY_SOCKET", "")
    if host:
        from pyrunc.notify import start

        start(container, host)
    else:
        container.start(released=context.released)
    return 0
