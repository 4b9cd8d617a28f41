# SPDX-License-Identifier: Apache-2.0
"""pyrunc net attach CONTAINER NETWORK: give a container a place in a network."""

from __future__ import annotations

from pyrunc.cli import netting
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    netting.NETNS,
    Option("ip", kind="list", metavar="ADDRESS", help="the address to have; again for IPv6 (default: a free one)"),
    Option("mac", kind="text", metavar="ADDRESS", help="the MAC address to have"),
    Option("publish", "p", kind="list", metavar="[HOSTIP:][PORT:]PORT[/PROTOCOL]",
           help="a port of the host, or a range, that leads to the container's; again for more"),
    Option("alias", kind="list", metavar="NAME", help="another name that the network's containers know it by"),
    Option("interface", kind="text", metavar="NAME", help="what its device is called (default: eth0, eth1 and so on)"),
    netting.JSON, netting.ROOT,
)
ARGUMENTS = (Argument("container-id"), Argument("network", required=False))


def run(args: Args, context: Context) -> int:
    from pyrunc.net import attachments
    from pyrunc.net.model import parse_publish

    as_json = netting.wants_json(args, "text")
    name = netting.name_of(args)
    publish = [parse_publish(text) for text in args.lists["publish"]]
    store = netting.store(args)
    made = attachments.attach(
        store, netting.network_of(args), container=name, netns=netting.namespace_of(args, context),
        ip=args.lists["ip"], mac=args["mac"], publish=publish, aliases=args.lists["alias"], ifname=args["interface"],
        warn=netting.warner(context))
    if as_json:
        netting.print_json(made.to_data())
    else:
        for address in made.addresses:
            print(address)
    return 0
