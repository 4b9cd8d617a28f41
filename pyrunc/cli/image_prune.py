# SPDX-License-Identifier: Apache-2.0
"""pyrunc image prune: remove what no name, bundle or mount leads to."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("all", "a", help="also images that no bundle and no mount is made of"),
    imaging.JSON, imaging.STORE,
)
ARGUMENTS: tuple[Argument, ...] = ()


def run(args: Args, context: Context) -> int:
    from pyrunc.registry import containers, idmap, subids, uses
    from pyrunc.registry.progress import human

    store = imaging.store(args)
    subids.enter(idmap.default())
    gone = containers.collect(store, context.log)
    with store.removing():
        if args.flag("all"):
            used = {use.descriptor.digest for use in uses.listed(store)}
            for name, descriptor in store.names().items():
                if descriptor.digest not in used:
                    store.unname(name)
        removed = uses.collect(store, partial=True)
    if imaging.wants_json(args):
        imaging.print_json({**removed.dump(), "containers": gone})
    else:
        print(f"removed {len(removed.blobs)} blobs, {len(removed.layers)} unpacked layers and "
              f"{len(removed.partial)} unfinished downloads"
              f"{f', the bundles of {len(gone)} lost containers' if gone else ''}: {human(removed.bytes)}")
    return 0
