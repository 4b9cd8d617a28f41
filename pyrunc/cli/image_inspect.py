# SPDX-License-Identifier: Apache-2.0
"""pyrunc image inspect NAME...: what is known of an image."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("config", help="the image's own configuration, as it stands"),
    Option("remote", help="ask the registry; nothing is stored"),
    Option("referrers", help="what refers to it on its registry: signatures, bills of materials"),
    imaging.PLATFORM, imaging.STORE, *imaging.REGISTRY,
)
ARGUMENTS = (Argument("name"),)


def run(args: Args, context: Context) -> int:
    if args.flag("referrers") or args.flag("remote"):
        return _remote(args, context)
    image = imaging.store(args).image(args["name"], imaging.platform(args))
    if args.flag("config"):
        imaging.print_json(image.config.data)
        return 0
    from pyrunc.registry.digest import chain_ids
    from pyrunc.registry.store import INDEX_DIGEST

    imaging.print_json({
        "name": image.name, "id": image.id, "digest": image.descriptor.digest,
        **({"indexDigest": image.descriptor.annotations[INDEX_DIGEST]}
           if INDEX_DIGEST in image.descriptor.annotations else {}),
        "mediaType": image.manifest.media_type, "platform": str(image.config.platform), "size": image.size,
        "created": image.config.data.get("created", ""), "author": image.config.data.get("author", ""),
        "config": image.config.inner, "annotations": image.manifest.annotations,
        "layers": [{**layer.dump(), "diffID": diff_id, "chainID": chain_id} for layer, diff_id, chain_id in
                   zip(image.manifest.layers, image.config.diff_ids, chain_ids(image.config.diff_ids), strict=True)],
        "history": image.config.history})
    return 0


def _remote(args: Args, context: Context) -> int:
    """The manifest or index as the registry has it, or what refers to it."""
    import json

    from pyrunc.registry import reference

    wanted = reference.parse(args["name"])
    remote = imaging.remote(args, wanted, context)
    descriptor, data = remote.manifest(wanted.target)
    if args.flag("referrers"):
        imaging.print_json([item.dump() for item in remote.referrers(descriptor.digest)])
    else:
        imaging.print_json({"name": str(wanted), "digest": descriptor.digest, "manifest": json.loads(data)})
    return 0
