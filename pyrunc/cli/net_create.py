# SPDX-License-Identifier: Apache-2.0
"""pyrunc net create NAME: make a network."""

from __future__ import annotations

from pyrunc.cli import netting
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("subnet", kind="list", metavar="ADDRESS/BITS", help="where its addresses are; again for IPv6 (default: a "
                                                               "free /24)"),
    Option("gateway", kind="list", metavar="ADDRESS", help="the bridge's address, or that of the router which is there "
                                                           "(default: the first)"),
    Option("ipv6", help="IPv6 too; without a subnet for it, one of our own"),
    Option("driver", "d", kind="text", metavar="bridge|macvlan|ipvlan|none", default="bridge", help="the kind"),
    Option("parent", kind="text", metavar="DEVICE", help="macvlan, ipvlan: the host's device below (default: that of "
                                                         "the default route)"),
    Option("mode", kind="text", metavar="MODE", help="of macvlan: bridge, private, vepa, passthru; of ipvlan: l2, l3, "
                                                     "l3s (default: the first)"),
    Option("mtu", kind="number", metavar="BYTES", help="the largest packet"),
    Option("internal", help="without a way out, or in"),
    Option("isolate", default="true", help="other networks reach it by published ports only; --isolate=false opens it "
                                           "to others that are open"),
    Option("dns", kind="list", metavar="ADDRESS", help="a name server for its containers; again for more (default: the "
                                                       "host's)"),
    Option("dns-search", kind="list", metavar="DOMAIN", help="a domain to search names in; again for more"),
    netting.JSON, netting.ROOT,
)
ARGUMENTS = (Argument("name"),)


def run(args: Args, context: Context) -> int:
    from pyrunc.net import networks

    as_json = netting.wants_json(args, "text")
    network = networks.create(
        netting.store(args), args["name"], driver=args["driver"], subnets=args.lists["subnet"],
        gateways=args.lists["gateway"], ipv6=args.flag("ipv6"), mtu=args.number("mtu"), internal=args.flag("internal"),
        isolate=args.flag("isolate"), dns=args.lists["dns"], search=args.lists["dns-search"], parent=args["parent"],
        mode=args["mode"])
    if as_json:
        netting.print_json(network.to_data())
    else:
        print(network.name)
    return 0
