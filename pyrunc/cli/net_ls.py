# SPDX-License-Identifier: Apache-2.0
"""pyrunc net ls: list networks."""

from __future__ import annotations

from pyrunc.cli import netting
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("quiet", "q", help="names only"),
    netting.FORMAT, netting.ROOT,
)
ARGUMENTS: tuple[Argument, ...] = ()


def run(args: Args, context: Context) -> int:
    store = netting.store(args)
    networks = store.networks()
    if args.flag("quiet"):
        for network in networks:
            print(network.name)
        return 0
    count = store.inhabitants()
    if netting.wants_json(args):
        netting.print_json([{**network.to_data(), "containers": count.get(network.name, 0)} for network in networks])
        return 0
    netting.table([("NAME", "DRIVER", "SUBNETS", "DEVICE", "CONTAINERS", "")] + [
        (network.name, network.driver, " ".join(map(str, network.subnets)) or "-",
         network.interface or network.parent or "-", str(count.get(network.name, 0)),
         "internal" if network.internal else "" if network.isolate or network.driver != "bridge" else "open")
        for network in networks])
    return 0
