# SPDX-License-Identifier: Apache-2.0
"""pyrunc image untag NAME...: take names away; the image goes with `prune` when it has no other."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (imaging.STORE,)
ARGUMENTS = (Argument("name", many=True),)


def run(args: Args, context: Context) -> int:
    from pyrunc.errors import ImageError
    from pyrunc.registry import reference

    store = imaging.store(args)
    for text in (args["name"], *args.rest):
        name = str(reference.parse(text))
        if not store.unname(name):
            raise ImageError(f"no image {reference.parse(text).familiar} in the store")
        print(f"untagged: {name}")
    return 0
