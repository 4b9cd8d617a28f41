# SPDX-License-Identifier: Apache-2.0
"""pyrunc image pull NAME: fetch an image, verify it, and unpack its layers on the way."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    imaging.PLATFORM,
    Option("all-platforms", help="the whole index, with the images of all platforms, not unpacked"),
    Option("no-unpack", help="only into the store; a bundle of it is unpacked later"),
    imaging.QUIET, imaging.JSON, *imaging.REGISTRY, imaging.STORE,
)
ARGUMENTS = (Argument("name"),)


def run(args: Args, context: Context) -> int:
    from pyrunc.registry import overlay, progress, reference

    wanted = reference.parse(args["name"])
    store = imaging.store(args)
    with progress.choose(args.flag("quiet") or imaging.wants_json(args)) as shown:
        pull = imaging.pull(args, context, store, wanted, shown)
        if args.flag("all-platforms"):
            descriptor = pull.run_all()
        else:
            descriptor = pull.run(unpack=not args.flag("no-unpack") and overlay.usable()).descriptor
    if imaging.wants_json(args):
        imaging.print_json({"name": str(wanted), "digest": descriptor.digest, "mediaType": descriptor.media_type,
                            "size": descriptor.size})
    else:
        print(descriptor.digest)
    return 0
