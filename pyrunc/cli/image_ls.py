# SPDX-License-Identifier: Apache-2.0
"""pyrunc image ls: the images in the store."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("digests", help="show digests of manifests too"),
    Option("quiet", "q", help="ids only"),
    Option("format", "f", kind="text", metavar="table|json|names", default="table", help="how to print"),
    imaging.STORE,
)
ARGUMENTS = (Argument("name", required=False),)


def run(args: Args, context: Context) -> int:
    from pyrunc.registry import reference
    from pyrunc.registry.progress import human, short

    images = imaging.store(args).images()
    if args["name"]:
        wanted = reference.parse(args["name"])
        tagged = ":" in args["name"].rpartition("/")[2] or "@" in args["name"]
        images = [image for image in images if image.name == str(wanted)
                  or (not tagged and reference.parse(image.name).name == wanted.name)]
    if args.flag("quiet"):
        for identity in dict.fromkeys(image.id for image in images):
            print(short(identity))
        return 0
    if args["format"] == "names":
        for image in images:
            print(reference.parse(image.name).familiar)
        return 0
    if imaging.wants_json(args):
        imaging.print_json([{"name": image.name, "id": image.id, "digest": image.descriptor.digest,
                             "platform": str(image.config.platform), "size": image.size,
                             "created": image.config.data.get("created", "")} for image in images])
        return 0
    rows = [("REPOSITORY", "TAG", *(("DIGEST",) if args.flag("digests") else ()), "ID", "PLATFORM", "CREATED", "SIZE")]
    for image in images:
        parsed = reference.parse(image.name)
        name = reference.Reference(parsed.registry, parsed.repository, "latest").familiar.removesuffix(":latest")
        rows.append((name, parsed.tag or "-", *((image.descriptor.digest,) if args.flag("digests") else ()),
                     short(image.id), str(image.config.platform),
                     imaging.ago(str(image.config.data.get("created", ""))), human(image.size)))
    imaging.table(rows)
    return 0
