# SPDX-License-Identifier: Apache-2.0
"""pyrunc image save NAME...: images as one archive."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("output", "o", kind="text", metavar="FILE", help="where to (default: stdout)"),
    Option("format", "f", kind="text", metavar="docker-archive|oci-archive", default="docker-archive",
           help="docker-archive: as `docker save`; oci-archive: an OCI layout, digests kept"),
    imaging.PLATFORM, imaging.STORE,
)
ARGUMENTS = (Argument("name", many=True),)


def run(args: Args, context: Context) -> int:
    from pyrunc.errors import UsageError
    from pyrunc.registry import archive

    if args["format"] not in ("docker-archive", "oci-archive"):
        raise UsageError(f'--format is docker-archive or oci-archive, not "{args["format"]}"')
    store = imaging.store(args)
    names = [args["name"], *args.rest]
    with store.adding():
        if args["format"] == "oci-archive":
            found = [store.resolve(name) for name in names]
            with imaging.sink(args["output"]) as write:
                archive.save_oci(store, found, write)
        else:
            images = [store.image(name, imaging.platform(args)) for name in names]
            with imaging.sink(args["output"]) as write:
                archive.save_docker(store, images, write)
    return 0
