# SPDX-License-Identifier: Apache-2.0
"""pyrunc net prune: tidy up after containers that have gone."""

from __future__ import annotations

from pyrunc.cli import netting
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("all", "a", help="remove networks too that no container is in"),
    netting.JSON, netting.ROOT,
)
ARGUMENTS: tuple[Argument, ...] = ()


def run(args: Args, context: Context) -> int:
    from pyrunc.net import attachments

    as_json = netting.wants_json(args, "text")
    store = netting.store(args)
    warn = netting.warner(context)
    gone = attachments.prune(store, warn=warn)
    removed = []
    if args.flag("all"):
        inhabited = store.inhabitants()
        for network in store.networks():
            if network.name not in inhabited:
                attachments.remove_network(store, network.name, warn=warn)
                removed.append(network.name)
    if as_json:
        netting.print_json({"attachments": gone, "networks": removed})
    else:
        for line in (*gone, *removed):
            print(line)
    return 0
