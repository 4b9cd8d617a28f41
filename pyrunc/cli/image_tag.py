# SPDX-License-Identifier: Apache-2.0
"""pyrunc image tag NAME NEW: another name for an image."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (imaging.STORE,)
ARGUMENTS = (Argument("name"), Argument("new-name"))


def run(args: Args, context: Context) -> int:
    from pyrunc.errors import ImageError
    from pyrunc.registry import reference

    store = imaging.store(args)
    new = reference.parse(args["new-name"])
    if new.digest:
        raise ImageError(f"{new}: a name to give has a tag, not a digest")
    with store.adding():
        _, descriptor = store.resolve(args["name"])
        store.name(str(new), descriptor)
    return 0
