# SPDX-License-Identifier: Apache-2.0
"""pyrunc image diff CONTAINER|BUNDLE: what was changed of the image."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("format", "f", kind="text", metavar="text|json", default="text", help="how to print"),
    imaging.STORE,
)
ARGUMENTS = (Argument("container"),)


def run(args: Args, context: Context) -> int:
    import os

    from pyrunc.registry import containers

    store = imaging.store(args)
    _, changes = imaging.changes_of(containers.find(store, args["container"], context.root))
    found = changes.find()
    if imaging.wants_json(args):
        imaging.print_json([{"kind": change.kind, "path": f"/{os.fsdecode(change.path)}"} for change in found])
    else:
        for change in found:
            print(imaging.printable(str(change)))
    return 0
