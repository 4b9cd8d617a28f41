# SPDX-License-Identifier: Apache-2.0
"""pyrunc create ID: make the container; its init waits for start."""

from __future__ import annotations

from pyrunc.cli import creating

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = creating.OPTIONS
ARGUMENTS = creating.ARGUMENTS


def run(args: Args, context: Context) -> int:
    from pyrunc.lifecycle import Container

    Container.create(creating.bundle(args), args["container-id"], context.root, creating.options(args, context),
                     context.log)
    return 0
