# SPDX-License-Identifier: Apache-2.0
"""pyrunc image mount NAME DIR: an image's root, read-only; or BUNDLE: an overlay bundle's rootfs again."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (imaging.PLATFORM, imaging.JSON, imaging.STORE)
ARGUMENTS = (Argument("name"), Argument("directory", required=False))


def run(args: Args, context: Context) -> int:
    import os

    from pyrunc.errors import UsageError
    from pyrunc.registry import unpack
    from pyrunc.registry.store import Store

    imaging.wants_json(args)  # a mistake is told before anything is mounted
    if not args["directory"]:
        if not os.path.isdir(args["name"]):
            raise UsageError("image mount: the argument <directory> is missing", hint="pyrunc image mount --help")
        path = os.path.abspath(args["name"])
        record = unpack.load_record(path)
        if record["backend"] != "overlay":
            raise UsageError(f"{path}: its rootfs is a directory, not a mount")
        if not os.path.ismount(f"{path}/rootfs"):
            unpack.mount_bundle(Store(str(record["store"])), path, [str(item) for item in record["layers"]])
        imaging.print_path(args, "root", f"{path}/rootfs")
        return 0
    store = imaging.store(args)
    root = unpack.mount_image(store, store.image(args["name"], imaging.platform(args)), args["directory"])
    imaging.print_path(args, "root", root)
    return 0
