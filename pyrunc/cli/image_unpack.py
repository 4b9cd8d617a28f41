# SPDX-License-Identifier: Apache-2.0
"""pyrunc image unpack NAME DIR: make a bundle of an image."""

from __future__ import annotations

from pyrunc.cli import imaging, running
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("backend", kind="text", metavar="copy|overlay", default="copy",
           help="copy: a plain directory; overlay: a mount of layers that all bundles share"),
    Option("pull", kind="text", metavar="missing|always|never", default="missing", help="when to ask the registry"),
    Option("cmd", kind="list", metavar="WORD", help="a word of the command, instead of the image's; again for more"),
    *running.OVERRIDES, *imaging.UNPACK,
    imaging.PLATFORM, imaging.QUIET, imaging.JSON, *imaging.REGISTRY, imaging.STORE,
)
ARGUMENTS = (Argument("name"), Argument("directory"))


def run(args: Args, context: Context) -> int:
    from pyrunc.errors import UsageError
    from pyrunc.registry import progress, subids
    from pyrunc.registry.unpack import Unpacker

    if args["backend"] not in ("copy", "overlay"):
        raise UsageError(f'--backend is copy or overlay, not "{args["backend"]}"')
    imaging.wants_json(args)  # a mistake is told before anything is made
    overrides = running.overrides(args, args.lists["cmd"])
    store = imaging.store(args)
    image = imaging.image_or_pull(args, context, store, args["name"], unpack=args["backend"] == "overlay")
    ownership = imaging.ownership(args)
    subids.enter(ownership)
    with progress.choose(args.flag("quiet")) as shown:
        path = Unpacker(store, ownership, progress=shown, warn=imaging.warner(context)).bundle(
            image, args["directory"], overrides, backend=args["backend"])
    imaging.print_path(args, "bundle", path)
    return 0
