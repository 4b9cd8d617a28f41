# SPDX-License-Identifier: Apache-2.0
"""pyrunc net setup BUNDLE: write hooks and mounts into config.json, so that any runtime gives it its networks."""

from __future__ import annotations

import os

from pyrunc.cli import netting
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args
    from pyrunc.net.bundles import Wish

#: What a container is to have; those of the hook are the same.
WISH = (
    Option("net", kind="list", metavar="NAME", help="a network (default: default); again for more. Addresses and ports "
                                                    "are in the first"),
    Option("publish", "p", kind="list", metavar="[HOSTIP:][PORT:]PORT[/PROTOCOL]",
           help="a port of the host, or a range, that leads to the container's; again for more"),
    Option("ip", kind="list", metavar="ADDRESS", help="the address to have; again for IPv6 (default: a free one)"),
    Option("mac", kind="text", metavar="ADDRESS", help="the MAC address to have"),
    Option("alias", kind="list", metavar="NAME", help="another name that the network's containers know it by"),
    Option("cni", kind="text", metavar="FILE", help="a CNI configuration, whose plugins are run too"),
    Option("plugins", kind="list", metavar="DIR", help="where CNI's plugins are (default: /usr/lib/cni, /opt/cni/bin, "
                                                       "/usr/libexec/cni)"),
    Option("cache", kind="text", metavar="DIR", help="where CNI's results are kept (default: /var/lib/pyrunc/cni)"),
    Option("forget", kind="text", metavar="CONTAINER", hidden=True, help="whose files of names go with it"),
    netting.ROOT,
)
OPTIONS = (
    *WISH,
    Option("dns", kind="list", metavar="ADDRESS", help="a name server (default: the networks', or the host's)"),
    Option("dns-search", kind="list", metavar="DOMAIN", help="a domain to look names up in"),
    Option("undo", help="take it all out of the bundle again"),
)
ARGUMENTS = (Argument("bundle", required=False, default="."),)


def wish(args: Args) -> Wish:
    """What the options say.  Raises UsageError."""
    from pyrunc.net.bundles import Wish

    return Wish(names=args.lists["net"], publish=args.lists["publish"], ip=args.lists["ip"], mac=args["mac"],
                aliases=args.lists["alias"], dns=args.lists.get("dns", ()), search=args.lists.get("dns-search", ()),
                cni=args["cni"], plugins=args.lists["plugins"], cache=args["cache"], root=args["net-root"],
                container=args["forget"])


def run(args: Args, context: Context) -> int:
    from pyrunc.net import bundles

    bundle = os.path.abspath(args["bundle"])
    if args.flag("undo"):
        bundles.undo(bundle)
        bundles.forget(bundle, args["net-root"])
    else:
        bundles.set_up(bundle, wish(args))
    return 0
