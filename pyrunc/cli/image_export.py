# SPDX-License-Identifier: Apache-2.0
"""pyrunc image export CONTAINER|BUNDLE: its root file system as a tar archive."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("output", "o", kind="text", metavar="FILE", help="where to (default: stdout)"),
    imaging.STORE,
)
ARGUMENTS = (Argument("container"),)


def run(args: Args, context: Context) -> int:
    from pyrunc.registry import commit, containers, export, idmap, subids, unpack

    store = imaging.store(args)
    path = containers.find(store, args["container"], context.root)
    record = unpack.load_record(path)
    ownership = idmap.of_record(record)
    subids.enter(ownership)
    with imaging.sink(args["output"]) as write:
        export.export(f"{path}/rootfs", write, ownership, commit.source_date_epoch(), imaging.warner(context))
    return 0
