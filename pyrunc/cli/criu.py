# SPDX-License-Identifier: Apache-2.0
"""The options that checkpoint and restore share."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

PATHS = (
    Option("image-path", kind="text", metavar="DIR", help="where the images are (default: ./checkpoint)"),
    Option("work-path", kind="text", metavar="DIR", help="where criu has its log and sockets "
                                                         "(default: the images' directory)"),
)
OPTIONS = (
    Option("tcp-established", help="allow TCP connections"),
    Option("ext-unix-sk", help="allow unix sockets whose other end is outside"),
    Option("shell-job", help="leave out a terminal that isn't the container's own; restore puts the "
                             "caller's in its place"),
    Option("file-locks", help="keep file locks"),
    Option("manage-cgroups-mode", kind="text", metavar="soft|full|strict|ignore",
           help="what criu keeps and restores of cgroups that the container made (default: soft)"),
    Option("empty-ns", kind="list", metavar="network",
           help="leave the network namespace's devices and rules out (always so, as with runc)"),
    Option("auto-dedup", help="drop from parent images what newer ones have"),
    Option("lazy-pages", help="leave memory to a page server, to be fetched when it is used"),
)
ARGUMENTS = (Argument("container-id"),)


def common(args: Args, context: Context) -> dict[str, Any]:
    """As the library wants them."""
    return {
        "image_path": args["image-path"], "work_path": args["work-path"],
        "tcp_established": args.flag("tcp-established"), "ext_unix_sk": args.flag("ext-unix-sk"),
        "shell_job": args.flag("shell-job"), "file_locks": args.flag("file-locks"),
        "cgroups_mode": args["manage-cgroups-mode"], "empty_ns": args.lists["empty-ns"],
        "auto_dedup": args.flag("auto-dedup"), "lazy_pages": args.flag("lazy-pages"), "criu": context.criu,
    }
