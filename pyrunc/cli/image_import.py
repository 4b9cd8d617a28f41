# SPDX-License-Identifier: Apache-2.0
"""pyrunc image import FILE|- NAME: an image of a root file system in a tar archive."""

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
    *imaging.EDITS, imaging.COMPRESSION, imaging.JSON, imaging.STORE,
)
ARGUMENTS = (Argument("file"), Argument("name"))


def run(args: Args, context: Context) -> int:
    from pyrunc.registry import commit, reference

    name = reference.parse(args["name"])
    with imaging.source(args["file"]) as (source, what):
        image = commit.import_tar(imaging.store(args), source, what, str(name), imaging.edits(args),
                                  compression=imaging.compression(args))
    imaging.print_image(args, image)
    return 0
