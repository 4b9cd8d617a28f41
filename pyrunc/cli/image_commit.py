# SPDX-License-Identifier: Apache-2.0
"""pyrunc image commit CONTAINER|BUNDLE NAME: an image of what was changed."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("author", "a", kind="text", metavar="TEXT", help="who made it"),
    Option("message", "m", kind="text", metavar="TEXT", help="what for"),
    *imaging.EDITS,
    Option("no-pause", help="don't pause a running container meanwhile"),
    imaging.COMPRESSION, imaging.JSON, imaging.STORE,
)
ARGUMENTS = (Argument("container"), Argument("name"))


def run(args: Args, context: Context) -> int:
    import os

    from pyrunc.registry import commit, containers, idmap, reference
    from pyrunc.registry.manifest import Descriptor
    from pyrunc.registry.store import Store

    name = reference.parse(args["name"])
    path = containers.find(imaging.store(args), args["container"], context.root)
    record, changes = imaging.changes_of(path)
    store = Store(str(record["store"]))
    base = store.load(str(record["image"]), Descriptor.load(record["descriptor"], path))
    ownership = idmap.of_record(record)
    with imaging.paused(os.path.basename(path) if record["kind"] == "container" else args["container"], context,
                        not args.flag("no-pause")):
        image = commit.commit(store, base, changes, str(name), imaging.edits(args), ownership,
                              compression=imaging.compression(args), warn=imaging.warner(context))
    imaging.print_image(args, image)
    return 0
