# SPDX-License-Identifier: Apache-2.0
"""pyrunc net rm NAME...: remove networks."""

from __future__ import annotations

from pyrunc.cli import netting
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("force", "f", help="take the containers out that are in it"),
    netting.ROOT,
)
ARGUMENTS = (Argument("name", many=True),)


def run(args: Args, context: Context) -> int:
    from pyrunc.net import attachments

    store = netting.store(args)
    for name in (args["name"], *args.rest):
        attachments.remove_network(store, name, force=args.flag("force"), warn=netting.warner(context))
        print(name)
    return 0
