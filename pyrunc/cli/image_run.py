# SPDX-License-Identifier: Apache-2.0
"""pyrunc image run NAME [COMMAND...]: a container of an image; exits as the command does."""

from __future__ import annotations

import errno

from pyrunc.cli import imaging, running
from pyrunc.cli.options import Argument, Option
from pyrunc.errors import PyruncError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("interactive", "i", help="keep stdin open"),
    *running.OVERRIDES,
    Option("detach", "d", help="in the background; print its name"),
    Option("rm", help="delete it when it has ended; otherwise `pyrunc delete` does"),
    Option("name", kind="text", metavar="NAME", help="its name, the container's id (default: twelve random digits)"),
    Option("pull", kind="text", metavar="missing|always|never", default="missing", help="when to ask the registry"),
    Option("net", kind="list", metavar="NAME|host|none",
           help="a network of `pyrunc net`, or, for an ordinary user, pasta or slirp4netns; again for more"),
    Option("publish", "p", kind="list", metavar="[HOSTIP:][PORT:]PORT[/PROTOCOL]",
           help="a port of the host that leads to the container's; without --net in the network default"),
    *imaging.UNPACK, imaging.PLATFORM, imaging.QUIET, *imaging.REGISTRY, imaging.STORE,
)
ARGUMENTS = (Argument("name-of-image"), Argument("command", rest=True, required=False))

#: What docker and podman exit with when it isn't the command that failed, which scripts tell apart.
_FAILED, _NO_PROGRAM, _NOT_FOUND = 125, 126, 127


def run(args: Args, context: Context) -> int:
    try:
        return _run(args, context)
    except PyruncError as error:
        error.exit_code = _FAILED
        if error.pointer == "/process/args/0":
            found = error.errno not in (0, errno.ENOENT, errno.ENOTDIR)
            error.exit_code = _NO_PROGRAM if found else _NOT_FOUND
        raise


def _run(args: Args, context: Context) -> int:
    import os

    from pyrunc.registry import overlay, progress
    from pyrunc.registry.containers import Running
    from pyrunc.registry.unpack import Unpacker

    overrides = running.overrides(args, args.rest)
    networks = args.lists["net"]
    if networks in (["host"], ["none"]):
        if args.lists["publish"]:
            raise UsageError(f"--publish takes a network, and --net {networks[0]} is none")
    elif {"host", "none"} & set(networks):
        raise UsageError("--net host and --net none go with no other")
    ownership = imaging.ownership(args)
    store = imaging.store(args)
    with store.adding():
        shared = overlay.usable() and not ownership.uids
        image = imaging.image_or_pull(args, context, store, args["name-of-image"], unpack=shared)
        unpacker = Unpacker(store, ownership, progress=progress.Progress(), warn=imaging.warner(context))
        container = Running(unpacker, image, name=args["name"], state_root=context.root, keep=not args.flag("rm"),
                           report=context.log, cgroup_manager=context.cgroup_manager, rootless=context.rootless)
        if networks == ["host"]:
            container.host_network = True
        elif networks != ["none"] and (networks or args.lists["publish"]):
            from pyrunc.net.bundles import Wish

            container.wish = Wish(names=networks, publish=args.lists["publish"], container=container.name)
        container.prepare(overrides)
    if args.flag("detach"):
        container.background()
        print(container.name)
        return 0
    if not args.flag("interactive") and not args.flag("tty"):
        os.dup2(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), 0)
    return container.foreground()
