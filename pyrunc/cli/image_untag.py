# SPDX-License-Identifier: Apache-2.0
"""pyrunc image untag NAME...: take names away; the image goes with `prune` when it has no other."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (imaging.JSON, imaging.STORE)
ARGUMENTS = (Argument("name", many=True),)


def run(args: Args, context: Context) -> int:
    from pyrunc.errors import ImageError
    from pyrunc.registry import reference

    as_json = imaging.wants_json(args)
    store = imaging.store(args)
    untagged = []
    for text in (args["name"], *args.rest):
        name = str(reference.parse(text))
        if not store.unname(name):
            raise ImageError(f"no image {reference.parse(text).familiar} in the store")
        untagged.append(name)
        if not as_json:
            print(f"untagged: {name}")
    if as_json:
        imaging.print_json({"untagged": untagged})
    return 0
