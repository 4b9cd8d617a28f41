# SPDX-License-Identifier: Apache-2.0
"""pyrunc image history NAME: how an image was made, the last step first."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("no-trunc", help="show commands in full"),
    imaging.FORMAT, imaging.STORE,
)
ARGUMENTS = (Argument("name"),)
_WIDTH = 60


def run(args: Args, context: Context) -> int:
    from pyrunc.registry.progress import human, short

    image = imaging.store(args).image(args["name"])
    layers = iter(image.manifest.layers)
    steps = []
    for entry in image.config.history or [{} for _ in image.manifest.layers]:
        layer = None if entry.get("empty_layer") else next(layers, None)
        steps.append({"created": str(entry.get("created", "")), "created_by": str(entry.get("created_by", "")),
                      "comment": str(entry.get("comment", "")), "digest": layer.digest if layer else "",
                      "size": layer.size if layer else 0})
    steps.reverse()
    if imaging.wants_json(args):
        imaging.print_json(steps)
        return 0
    rows = [("LAYER", "CREATED", "SIZE", "CREATED BY", "COMMENT")]
    for step in steps:
        command = " ".join(imaging.printable(str(step["created_by"])).split())
        if not args.flag("no-trunc") and len(command) > _WIDTH:
            command = command[:_WIDTH - 3] + "..."
        rows.append((short(str(step["digest"])) or "-", imaging.ago(str(step["created"])),
                     human(int(str(step["size"]))), command, imaging.printable(str(step["comment"]))))
    imaging.table(rows)
    return 0
