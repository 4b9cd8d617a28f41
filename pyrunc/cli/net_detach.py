# SPDX-License-Identifier: Apache-2.0
"""pyrunc net detach CONTAINER NETWORK: take a container out of a network."""

from __future__ import annotations

from pyrunc.cli import netting
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    netting.NETNS,
    Option("interface", kind="text", metavar="NAME", help="only this device of it"),
    netting.ROOT,
)
ARGUMENTS = (Argument("container-id"), Argument("network", required=False))


def run(args: Args, context: Context) -> int:
    from pyrunc.net import attachments

    name, network = netting.name_of(args), netting.network_of(args)
    if not attachments.detach(netting.store(args), network, container=name, ifname=args["interface"],
                              warn=netting.warner(context)):
        context.log("warning", f"{name} is not in the network {network}")
    return 0
