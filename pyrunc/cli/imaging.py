# SPDX-License-Identifier: Apache-2.0
"""What the image commands share: options, the store, a registry, tables."""

from __future__ import annotations

import json
import sys

from pyrunc.cli.options import Option
from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyrunc.cli import Context
    from pyrunc.cli.options import Args
    from pyrunc.registry.auth import Credentials
    from pyrunc.registry.idmap import Ownership
    from pyrunc.registry.manifest import Platform
    from pyrunc.registry.pull import Pull
    from pyrunc.registry.reference import Reference
    from pyrunc.registry.remote import Remote
    from pyrunc.registry.store import Image, Store

STORE = Option("store", kind="text", metavar="DIR", help="the image store (default: /var/lib/pyrunc/images, "
                                                         "or $XDG_DATA_HOME/pyrunc/images for an ordinary user)")
FORMAT = Option("format", "f", kind="text", metavar="table|json", default="table", help="how to print")
JSON = Option("format", "f", kind="text", metavar="text|json", default="text", help="how to print the result")
QUIET = Option("quiet", "q", help="no progress, only the result")
PLATFORM = Option("platform", kind="text", metavar="OS/ARCH", help="the image for another platform than this machine's")
REGISTRY = (
    Option("creds", kind="text", metavar="USER:PASSWORD", help="credentials for this once"),
    Option("tls-verify", kind="text", metavar="true|false", default="true",
           help="false: accept any certificate, and plain HTTP"),
    Option("timeout", kind="number", metavar="SECONDS", default="30", help="give up when nothing comes for so long"),
)
UNPACK = (
    Option("uid-map", kind="list", metavar="INSIDE:HOST:SIZE", help="shift the owners of files; again for more"),
    Option("gid-map", kind="list", metavar="INSIDE:HOST:SIZE", help="the same for groups (default: as --uid-map)"),
)


def store(args: Args) -> Store:
    from pyrunc.registry.store import Store

    return Store(args["store"])


def wants_json(args: Args) -> bool:
    if args["format"] not in ("json", "table", "text"):
        raise UsageError(f'--format is json or {"table" if "ls" else "text"}, not "{args["format"]}"')
    return args["format"] == "json"


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=True)
    print()


def warner(context: Context) -> Callable[[str], None]:
    """What the library warns of, as a line of the log."""
    return lambda text: context.log("warning", text)


def platform(args: Args) -> Platform | None:
    from pyrunc.registry import platforms

    return platforms.parse(args["platform"]) if args["platform"] else None


def ownership(args: Args) -> Ownership:
    from pyrunc.registry import idmap

    if not args.lists.get("uid-map"):
        if args.lists.get("gid-map"):
            raise UsageError("--gid-map needs --uid-map")
        return idmap.default()
    uids = idmap.parse(args.lists["uid-map"], "uid-map")
    return idmap.Ownership(uids, idmap.parse(args.lists["gid-map"], "gid-map") or uids)


def credentials(args: Args) -> Credentials | None:
    from pyrunc.registry.auth import Credentials

    if not args["creds"]:
        return None
    username, colon, password = args["creds"].partition(":")
    if not username or not colon:
        raise UsageError("--creds takes USER:PASSWORD")
    return Credentials(username, password)


def remote(args: Args, reference: Reference, context: Context) -> Remote:
    from pyrunc.registry.hosts import Hosts
    from pyrunc.registry.remote import Remote

    if args["tls-verify"] not in ("true", "false"):
        raise UsageError(f'--tls-verify is true or false, not "{args["tls-verify"]}"')
    return Remote(reference, Hosts(insecure=args["tls-verify"] == "false"), timeout=float(args.number("timeout") or 30),
                  credentials=credentials(args), report=context.log)


def pull(args: Args, context: Context, where: Store, reference: Reference, progress: Any) -> Pull:
    from pyrunc.registry.pull import Pull

    return Pull(where, remote(args, reference, context), platform=platform(args), progress=progress,
                warn=warner(context))


def image_or_pull(args: Args, context: Context, where: Store, text: str, *, unpack: bool) -> Image:
    """The image in the store, fetched if it isn't there (or with --pull always anyway)."""
    from pyrunc.errors import ImageError
    from pyrunc.registry import progress, reference

    policy = args["pull"] or "missing"
    if policy not in ("missing", "always", "never"):
        raise UsageError(f'--pull is missing, always or never, not "{policy}"')
    if policy != "always":
        try:
            found = where.image(text, platform(args))
            wanted = platform(args)
            if wanted is None or found.config.platform.architecture == wanted.architecture:
                return found
        except ImageError:
            if policy == "never":
                raise
    with progress.choose(args.flag("quiet")) as shown:
        return pull(args, context, where, reference.parse(text), shown).run(unpack=unpack)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Columns, the first row their names."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def ago(created: str) -> str:
    """`3 days ago`, of a time as RFC 3339 writes it."""
    from datetime import UTC, datetime

    try:
        then = datetime.fromisoformat(created[:19] + "+00:00" if created[19:20] == "." else created)
    except ValueError:
        return ""
    seconds = (datetime.now(UTC) - then).total_seconds()
    for size, name in ((31536000, "year"), (2592000, "month"), (604800, "week"), (86400, "day"), (3600, "hour"),
                       (60, "minute")):
        count = int(seconds // size)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "now"


def printable(text: str) -> str:
    """What an image says of itself, without what would move the cursor."""
    return "".join(char if char.isprintable() else " " for char in text)
