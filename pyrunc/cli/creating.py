# SPDX-License-Identifier: Apache-2.0
"""The options create and run share."""

from __future__ import annotations

import os

from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args
    from pyrunc.options import CreateOptions

OPTIONS = (
    Option("bundle", "b", kind="text", metavar="DIR", help="the bundle (default: the current directory)"),
    Option("console-socket", kind="text", metavar="SOCKET", help="send the terminal's master over this AF_UNIX socket"),
    Option("pid-file", kind="text", metavar="FILE", help="write the init's pid to FILE"),
    Option("pidfd-socket", kind="text", metavar="SOCKET", help="send a pidfd of the init over this AF_UNIX socket"),
    Option("no-pivot", help="enter the root with mount --move instead of pivot_root (the host runs from an initramfs)"),
    Option("no-new-keyring", help="keep the caller's session keyring"),
    Option("preserve-fds", kind="number", metavar="N", help="pass N descriptors, from 3 on, to the container"),
)
ARGUMENTS = (Argument("container-id"),)


def bundle(args: Args) -> str:
    return args["bundle"] or "."


def options(args: Args, context: Context, console_fd: int = -1) -> CreateOptions:
    from pyrunc.options import CreateOptions

    listen_fds, listen_names = 0, ""
    if "LISTEN_FDS" in os.environ:
        from pyrunc.notify import listen_fds as passed

        listen_fds, listen_names = passed(os.environ)
    return CreateOptions(
        console_socket=args["console-socket"],
        pid_file=os.path.abspath(args["pid-file"]) if args["pid-file"] else "",
        pidfd_socket=args["pidfd-socket"],
        pivot=not args.flag("no-pivot"),
        keyring=not args.flag("no-new-keyring"),
        preserve_fds=args.number("preserve-fds"),
        cgroup_manager=context.cgroup_manager,
        rootless=context.rootless,
        console_fd=console_fd,
        notify_socket=os.environ.get("NOTIFY_SOCKET", ""),
        listen_fds=listen_fds,
        listen_names=listen_names,
    )
