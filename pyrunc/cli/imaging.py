# SPDX-License-Identifier: Apache-2.0
"""What the image commands share: options, the store, a registry, tables."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager

from pyrunc.cli.options import Option
from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from pyrunc.cli import Context
    from pyrunc.cli.options import Args
    from pyrunc.registry.auth import Credentials
    from pyrunc.registry.changes import Changes
    from pyrunc.registry.commit import Edits
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
EDITS = (
    Option("entrypoint", kind="list", metavar="WORD", help="a word of the entrypoint; again for more"),
    Option("cmd", kind="list", metavar="WORD", help="a word of the command; again for more"),
    Option("env", "e", kind="list", metavar="NAME=VALUE", help="set a variable of the environment"),
    Option("label", "l", kind="list", metavar="NAME=VALUE", help="set a label"),
    Option("user", "u", kind="text", metavar="USER[:GROUP]", help="the user"),
    Option("workdir", "w", kind="text", metavar="DIR", help="the working directory"),
)
COMPRESSION = Option("compression", kind="text", metavar="gzip|zstd|none", default="gzip", help="of the new layer")


def store(args: Args) -> Store:
    from pyrunc.registry.store import Store

    return Store(args["store"])


def wants_json(args: Args) -> bool:
    if args["format"] not in ("json", "table", "text"):
        raise UsageError(f'--format is json or left out, not "{args["format"][:60]}"')
    return args["format"] == "json"


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=True)
    print()


def print_path(args: Args, what: str, path: str) -> None:
    """What a command has made; --format says how."""
    if wants_json(args):
        print_json({what: path})
    else:
        print(path)


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


def changes_of(path: str) -> tuple[dict[str, Any], Changes]:
    """The record of the bundle and its changes, with the right to read them.

    Raises ImageError when it wasn't made of an image.
    """
    from pyrunc.registry import idmap, subids
    from pyrunc.registry.changes import Changes
    from pyrunc.registry.layers import Layers
    from pyrunc.registry.store import Store
    from pyrunc.registry.unpack import load_record

    record = load_record(path)
    subids.enter(idmap.of_record(record))
    layers = Layers(Store(str(record["store"])))
    return record, Changes(path, record, [layers.diff(str(chain_id)) for chain_id in reversed(record["layers"])])


@contextmanager
def paused(container_id: str, context: Context, wanted: bool) -> Iterator[None]:
    """While the block runs the container, if it is one and runs, is paused: files don't change half-way."""
    from pyrunc.errors import PyruncError
    from pyrunc.lifecycle import Container

    container = None
    try:
        if wanted:
            found = Container.load(container_id, context.root)
            if found.status() == "running":
                found.pause()
                container = found
    except PyruncError as error:
        context.log("debug", f"not paused: {error}")
    try:
        yield
    finally:
        if container is not None:
            container.resume()


def edits(args: Args) -> Edits:
    from pyrunc.registry.commit import Edits

    return Edits(author=args["author"], message=args["message"], cmd=args.lists["cmd"] or None,
                 entrypoint=args.lists["entrypoint"] or None, env=args.lists["env"], labels=args.lists["label"],
                 user=args["user"], workdir=args["workdir"])


def compression(args: Args) -> str:
    if args["compression"] not in ("gzip", "zstd", "none"):
        raise UsageError(f'--compression is gzip, zstd or none, not "{args["compression"]}"')
    return "" if args["compression"] == "none" else args["compression"]


def print_image(args: Args, image: Image) -> None:
    """What a command has made."""
    if wants_json(args):
        print_json({"name": image.name, "id": image.id, "digest": image.descriptor.digest})
    else:
        print(image.descriptor.digest)


@contextmanager
def source(text: str) -> Iterator[tuple[Any, str]]:
    """What to read: a file, `-` for stdin, or the body of an http(s) address; and what to call it."""
    if text == "-":
        yield sys.stdin.buffer, "stdin"
    elif text.startswith(("http://", "https://")):
        import urllib3

        from pyrunc.errors import ImageError

        response = None
        try:
            response = urllib3.PoolManager().request("GET", text, preload_content=False, decode_content=False,
                                                     timeout=30.0, retries=2)
            if response.status != 200:
                raise ImageError(f"{text}: HTTP {response.status}")
            yield response, text
        except urllib3.exceptions.HTTPError as error:
            raise ImageError(f"{text}: {error}") from None
        finally:
            if response is not None:
                response.close()
    else:
        try:
            file = open(text, "rb")
        except OSError as error:
            raise UsageError(f"open {text}", errno=error.errno or 0) from None
        with file:
            yield file, text


@contextmanager
def sink(path: str) -> Iterator[Callable[[bytes], Any]]:
    """Where to write: stdout, or a file, which appears only when it is complete; into a device or a fifo as it is."""
    if not path:
        if sys.stdout.isatty():
            raise UsageError("an archive is not for a terminal", hint="-o FILE, or redirect stdout")
        yield sys.stdout.buffer.write
        return
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as file:
                yield file.write
            return
        path = os.path.realpath(path)  # a link stays one
        temporary = f"{path}.{os.getpid()}.part"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with open(fd, "wb") as file:
                yield file.write
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise UsageError(f"write {path}", errno=error.errno or 0) from None
