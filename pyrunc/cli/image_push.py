# SPDX-License-Identifier: Apache-2.0
"""pyrunc image push NAME [DESTINATION]: an image to a registry."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (imaging.QUIET, imaging.JSON, *imaging.REGISTRY, imaging.STORE)
ARGUMENTS = (Argument("name"), Argument("destination", required=False))


def run(args: Args, context: Context) -> int:
    from pyrunc.errors import ImageError
    from pyrunc.registry import progress, reference
    from pyrunc.registry.push import Push

    store = imaging.store(args)
    name, descriptor = store.resolve(args["name"])
    target = reference.parse(args["destination"] or name)
    if target.digest and target.digest != descriptor.digest:
        raise ImageError(f"{target}: the image's digest is {descriptor.digest}", hint="push it to a tag")
    with progress.choose(args.flag("quiet") or imaging.wants_json(args)) as shown:
        digest = Push(store, imaging.remote(args, target, context), progress=shown).run(descriptor)
    if imaging.wants_json(args):
        imaging.print_json({"name": str(target), "digest": digest, "size": descriptor.size})
    else:
        print(digest)
    return 0
