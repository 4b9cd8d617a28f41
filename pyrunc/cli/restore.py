# SPDX-License-Identifier: Apache-2.0
"""pyrunc restore ID: make a container from what checkpoint has written."""

from __future__ import annotations

import os

from pyrunc.cli import creating, criu
from pyrunc.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("bundle", "b", kind="text", metavar="DIR", help="the bundle (default: the current directory)"),
    *criu.PATHS,
    Option("detach", "d", help="don't wait for the container"),
    Option("console-socket", kind="text", metavar="SOCKET", help="send the terminal's master over this AF_UNIX socket"),
    Option("pid-file", kind="text", metavar="FILE", help="write the init's pid to FILE"),
    Option("no-subreaper", help="don't adopt orphans of the container"),
    Option("no-pivot", help="taken for runc's sake: criu enters the root in its own way"),
    *criu.OPTIONS,
    Option("lsm-profile", kind="text", metavar="TYPE:NAME",
           help="another AppArmor profile (apparmor:NAME) or SELinux label (selinux:NAME) than it had"),
    Option("lsm-mount-context", kind="text", metavar="CONTEXT", help="another SELinux context for its mounts"),
)
ARGUMENTS = criu.ARGUMENTS


def run(args: Args, context: Context) -> int:
    from pyrunc.foreground import restore
    from pyrunc.options import CreateOptions
    from pyrunc.restore import RestoreOptions

    pid_file = os.path.abspath(args["pid-file"]) if args["pid-file"] else ""

    def creation(console_fd: int) -> CreateOptions:
        return CreateOptions(console_socket=args["console-socket"], pid_file=pid_file, console_fd=console_fd,
                             cgroup_manager=context.cgroup_manager, rootless=context.rootless)

    return restore(
        creating.bundle(args), args["container-id"], context.root, creation,
        RestoreOptions(lsm_profile=args["lsm-profile"], lsm_mount_context=args["lsm-mount-context"],
                       **criu.common(args, context)),
        detach=args.flag("detach"), subreaper=not args.flag("no-subreaper"), console_socket=args["console-socket"],
        report=context.log)
