# SPDX-License-Identifier: Apache-2.0
"""pyrunc net inspect NAME...: what is known of networks and who is in them."""

from __future__ import annotations

from pyrunc.cli import netting
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS: tuple[Option, ...] = (netting.ROOT,)
ARGUMENTS = (Argument("name", many=True),)


def run(args: Args, context: Context) -> int:
    store = netting.store(args)
    found = []
    for name in (args["name"], *args.rest):
        network = store.network(name)
        found.append({**network.to_data(), "containers": [
            {key: value for key, value in attachment.to_data().items() if key != "network"}
            for attachment in store.attachments(network=name)]})
    netting.print_json(found)
    return 0
