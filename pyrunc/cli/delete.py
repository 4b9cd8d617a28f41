# SPDX-License-Identifier: Apache-2.0
"""pyrunc delete ID: undo what create made."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (Option("force", "f", help="kill it first if it runs; no error if there is no such container"),)
ARGUMENTS = (Argument("container-id"),)


def run(args: Args, context: Context) -> int:
    from pyrunc.lifecycle import Container, force_delete

    if args.flag("force"):
        force_delete(args["container-id"], context.root, context.log)
    else:
        Container.load(args["container-id"], context.root, context.log).delete()
    return 0
