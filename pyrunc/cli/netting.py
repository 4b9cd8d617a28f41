# SPDX-License-Identifier: Apache-2.0
"""What the network commands share: options, the store, which container is meant, tables."""

from __future__ import annotations

from pyrunc.cli.options import Option
from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyrunc.cli import Context
    from pyrunc.cli.options import Args
    from pyrunc.net.store import Store

ROOT = Option("net-root", kind="text", metavar="DIR",
              help="where networks are kept (default: $PYRUNC_NET_ROOT, else /var/lib/pyrunc/net, or "
                   "$XDG_DATA_HOME/pyrunc/net for an ordinary user)")
FORMAT = Option("format", "f", kind="text", metavar="table|json", default="table", help="how to print")
JSON = Option("format", "f", kind="text", metavar="text|json", default="text", help="how to print the result")
NETNS = Option("netns", kind="text", metavar="FILE", help="the network namespace of a container that pyrunc doesn't "
                                                          "know: /proc/PID/ns/net, or one of `ip netns`")


def store(args: Args) -> Store:
    from pyrunc.net.store import Store

    return Store(args["net-root"])


def warner(context: Context) -> Callable[[str], None]:
    """What the library warns of, as a line of the log."""
    return lambda text: context.log("warning", text)


def wants_json(args: Args, plain: str = "table") -> bool:
    if args["format"] not in ("json", plain):
        raise UsageError(f'--format is json or {plain}, not "{args["format"]}"')
    return args["format"] == "json"


def print_json(value: Any) -> None:
    from pyrunc.spec.load import dump_pretty

    print(dump_pretty(value))


def table(rows: Sequence[Sequence[str]]) -> None:
    """Columns, the first row their names."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def name_of(args: Args) -> str:
    """What the container is called: its id, or after the namespace that was given."""
    if not args["netns"]:
        if not args["network"]:
            raise UsageError("a container and a network are needed", hint="pyrunc net --help")
        return args["container-id"]
    if args["network"]:
        return args["container-id"]
    parts = [part for part in args["netns"].split("/") if part]
    if parts[:1] == ["proc"] and len(parts) > 3:
        return f"pid-{parts[1]}"
    return parts[-1] if parts else ""


def network_of(args: Args) -> str:
    """The last argument: with --netns the container's name may be left out."""
    return args["network"] or args["container-id"]


def namespace_of(args: Args, context: Context) -> str:
    """The path of the container's network namespace.  Raises PyruncError."""
    if args["netns"]:
        return args["netns"]
    from pyrunc.errors import ContainerError, ContainerNotFound
    from pyrunc.lifecycle import Container

    name = args["container-id"]
    try:
        loaded = Container.load(name, context.root)
    except ContainerNotFound:
        raise ContainerError(f"container {name} does not exist",
                             hint="--netns PATH names the network namespace of another runtime's") from None
    with loaded as container:
        if container.status() not in ("created", "running", "paused"):
            raise ContainerError(f"the container is {container.status()}: it has no network namespace")
        return f"/proc/{container.pid}/ns/net"
