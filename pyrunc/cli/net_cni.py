# SPDX-License-Identifier: Apache-2.0
"""pyrunc net cni ACTION: run an existing CNI configuration's plugins for a container."""

from __future__ import annotations

from pyrunc.cli import netting
from pyrunc.cli.options import Argument, Option
from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args
    from pyrunc.net.cni_config import NetworkList
    from pyrunc.net.cni_host import Attachment, Cache

ACTIONS = {
    "add": "run ADD for a container; print the result",
    "del": "run DEL, with what is known of the ADD",
    "check": "run CHECK",
    "ls": "list what was added",
    "gc": "take away what is left of containers that have gone; run GC",
    "status": "whether the network takes containers",
}
OPTIONS = (
    netting.NETNS,
    Option("interface", kind="text", metavar="NAME", default="eth0", help="the device in the container"),
    Option("publish", "p", kind="list", metavar="[IP:]HOST:CTR[/PROTO]", help="ports of the host (portMappings)"),
    Option("ip", kind="list", metavar="ADDRESS", help="an address to have (ips)"),
    Option("mac", kind="text", metavar="MAC", help="the MAC address to have (mac)"),
    Option("capability", kind="list", metavar="NAME=JSON", help="an argument that a plugin takes"),
    Option("arg", kind="list", metavar="KEY=VALUE", help="a pair of CNI_ARGS"),
    Option("plugins", kind="list", metavar="DIR", help="where plugins are (default: $CNI_PATH; /usr/lib/cni, "
                                                       "/opt/cni/bin, /usr/libexec/cni)"),
    Option("config-dir", kind="text", metavar="DIR", default="/etc/cni/net.d", help="where networks are described"),
    Option("cache", kind="text", metavar="DIR", help="where results are kept (default: $PYRUNC_CNI_CACHE, "
                                                     "/var/lib/pyrunc/cni)"),
)
ARGUMENTS = (Argument("action", help="|".join(ACTIONS)), Argument("network", required=False),
             Argument("container-id", required=False))


def run(args: Args, context: Context) -> int:
    from pyrunc.net.cni_host import Cache

    action = args["action"]
    if action not in ACTIONS:
        raise UsageError(f"net cni has no {action!a}", hint=", ".join(ACTIONS))
    cache = Cache(args["cache"])
    if action == "ls":
        _list(cache, args["network"])
        return 0
    if not args["network"]:
        raise UsageError(f"net cni {action} takes a network", hint="the path of its .conflist, or its name")
    if action in ("add", "del", "check"):
        if not args["container-id"]:
            raise UsageError(f"net cni {action} takes a container, too")
        _one(action, args, context, cache)
        return 0
    from pyrunc.net import cni_host

    if action == "status":
        cni_host.status(_network(args), args.lists["plugins"])
        return 0
    failures = cni_host.collect(cache, _network(args), args.lists["plugins"])
    for failure in failures:
        context.log("error", failure)
    return 1 if failures else 0


def _network(args: Args) -> NetworkList:
    from pyrunc.net import cni_config

    return cni_config.load(cni_config.find(args["network"], args["config-dir"]))


def _one(action: str, args: Args, context: Context, cache: Cache) -> None:
    from pyrunc.net import cni_host
    from pyrunc.spec.load import dump_pretty

    if action == "add":
        print(dump_pretty(cni_host.add(cache, _attachment(args, context))))
        return
    known = cache.load(f"{_name(args)}@{args['container-id']}@{args['interface']}")
    if action == "check":
        cni_host.check(cache, known.key if known else f"{_name(args)}@{args['container-id']}@{args['interface']}")
    elif known is not None:
        cni_host.delete(cache, known)
    elif args["netns"] or "/" in args["network"]:  # somebody else's, or lost: as well as it can be done
        cni_host.delete(cache, cni_host.Attachment(_network(args), args["container-id"], args["netns"],
                                                   ifname=args["interface"], paths=args.lists["plugins"]))


def _name(args: Args) -> str:
    """The network's name, which is enough for one whose configuration has gone."""
    from pyrunc.net.cni_config import ENDINGS

    text = args["network"]
    return _network(args).name if "/" in text or text.endswith(ENDINGS) else text


def _attachment(args: Args, context: Context) -> Attachment:
    from pyrunc.net import cni_host
    from pyrunc.net.cni_config import parse_capability
    from pyrunc.net.model import parse_publish

    network = _network(args)
    netns = netting.namespace_of(args, context)
    pairs = [text.partition("=") for text in args.lists["arg"]]
    if any(not equals for _, equals, _ in pairs):
        raise UsageError("--arg takes KEY=VALUE")
    capabilities = dict(parse_capability(text) for text in args.lists["capability"])
    if args.lists["publish"]:
        capabilities["portMappings"] = cni_host.port_mappings(map(parse_publish, args.lists["publish"]))
    if args.lists["ip"]:
        capabilities["ips"] = args.lists["ip"]
    if args["mac"]:
        capabilities["mac"] = args["mac"]
    return cni_host.Attachment(network, args["container-id"], netns, ifname=args["interface"],
                               args={key: value for key, _, value in pairs}, capabilities=capabilities,
                               paths=args.lists["plugins"])


def _list(cache: Cache, network: str) -> None:
    rows = [("NETWORK", "CONTAINER", "INTERFACE", "ADDRESSES", "NAMESPACE")]
    for each in cache.attachments(network=network):
        addresses = [str(ip["address"]) for ip in (each.result or {}).get("ips", ())]
        rows.append((each.network.name, each.container, each.ifname, ",".join(addresses) or "-",
                     each.netns if each.is_alive else "gone"))
    netting.table(rows)
