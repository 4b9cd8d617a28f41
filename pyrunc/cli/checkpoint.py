# SPDX-License-Identifier: Apache-2.0
"""pyrunc checkpoint ID: write a container's processes to files, with criu."""

from __future__ import annotations

from pyrunc.cli import criu
from pyrunc.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    *criu.PATHS,
    Option("parent-path", kind="text", metavar="DIR",
           help="where the images of an earlier --pre-dump are, counted from --image-path"),
    Option("leave-running", help="let the container run on"),
    Option("pre-dump", help="write only its memory, and let it run on"),
    *criu.OPTIONS,
    Option("tcp-skip-in-flight", help="leave out TCP connections that are being made"),
    Option("link-remap", help="give deleted files that are in use a name for the while"),
    Option("page-server", kind="text", metavar="ADDRESS:PORT",
           help="where memory is sent, or with --lazy-pages served"),
    Option("status-fd", kind="number", metavar="N",
           help="write a zero byte to descriptor N when memory is served (with --lazy-pages)"),
)
ARGUMENTS = criu.ARGUMENTS


def run(args: Args, context: Context) -> int:
    from pyrunc.checkpoint import CheckpointOptions, checkpoint
    from pyrunc.lifecycle import Container

    options = CheckpointOptions(
        parent_path=args["parent-path"], leave_running=args.flag("leave-running"), pre_dump=args.flag("pre-dump"),
        tcp_skip_in_flight=args.flag("tcp-skip-in-flight"), link_remap=args.flag("link-remap"),
        page_server=args["page-server"], status_fd=args.number("status-fd") if args["status-fd"] else -1,
        **criu.common(args, context))
    with Container.load(args["container-id"], context.root, context.log) as container:
        checkpoint(container, options)
    return 0
