# SPDX-License-Identifier: Apache-2.0
"""pyrunc image umount DIR: take away the mount of an image, or a bundle's."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("rm", help="remove the bundle too"),
    imaging.STORE,
)
ARGUMENTS = (Argument("directory"),)


def run(args: Args, context: Context) -> int:
    import os

    from pyrunc.errors import ImageError
    from pyrunc.registry import idmap, overlay, subids, unpack, uses
    from pyrunc.registry.store import Store

    path = os.path.realpath(args["directory"])
    if os.path.exists(f"{path}/{uses.RECORD}"):
        record = unpack.load_record(path)
        if args.flag("rm"):
            subids.enter(idmap.of_record(record))
            unpack.remove_bundle(Store(str(record["store"])), path)
        elif not overlay.unmount(f"{path}/rootfs"):
            raise ImageError(f"{path}/rootfs is not mounted")
        return 0
    store = imaging.store(args)
    if uses.find(store, path) is None:
        raise ImageError(f"{path}: no image of the store is mounted there")
    overlay.unmount(path)
    uses.forget(store, path)
    return 0
