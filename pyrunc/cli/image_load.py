# SPDX-License-Identifier: Apache-2.0
"""pyrunc image load [FILE]: the images of a docker-archive or an oci-archive."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("input", "i", kind="text", metavar="FILE", help="where from (default: stdin)"),
    imaging.JSON, imaging.STORE,
)
ARGUMENTS = (Argument("file", required=False),)


def run(args: Args, context: Context) -> int:
    from pyrunc.errors import ImageError
    from pyrunc.registry.archive import Loader

    with imaging.source(args["input"] or args["file"] or "-") as (source, what):
        loaded = Loader(imaging.store(args), what).run(source)
    found = [(item[0], item[1].digest) if isinstance(item, tuple) else (item.name, item.descriptor.digest)
             for item in loaded]
    if not found:
        raise ImageError(f"{what}: no image in it")
    if imaging.wants_json(args):
        imaging.print_json([{"name": name, "digest": digest} for name, digest in found])
    else:
        for name, digest in found:
            print(f"loaded: {name} {digest}")
    return 0
