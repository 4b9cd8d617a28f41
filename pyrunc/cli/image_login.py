# SPDX-License-Identifier: Apache-2.0
"""pyrunc image login [REGISTRY]: check credentials, and keep them where docker and podman look."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("username", "u", kind="text", metavar="NAME", help="the user (asked for otherwise)"),
    Option("password", "p", kind="text", metavar="PASSWORD", help="the password; others can see it in ps(1)"),
    Option("password-stdin", help="read the password from stdin"),
    Option("tls-verify", kind="text", metavar="true|false", default="true",
           help="false: accept any certificate, and plain HTTP"),
)
ARGUMENTS = (Argument("registry", required=False, default="docker.io"),)


def run(args: Args, context: Context) -> int:
    import sys

    from pyrunc.errors import UsageError
    from pyrunc.registry import auth
    from pyrunc.registry.login import check

    registry = _registry(args["registry"])
    username = args["username"]
    if not username:
        if not sys.stdin.isatty() or args.flag("password-stdin"):
            raise UsageError("login needs --username", hint="with --password-stdin, or a terminal to ask on")
        print("Username: ", end="", file=sys.stderr, flush=True)
        username = sys.stdin.readline().strip()
    if args.flag("password-stdin"):
        password = sys.stdin.read(65536).rstrip("\r\n")
    elif args["password"]:
        password = args["password"]
    elif sys.stdin.isatty():
        from getpass import getpass

        password = getpass("Password: ", sys.stderr)
    else:
        raise UsageError("login needs a password", hint="--password-stdin, or a terminal to ask on")
    if not username or not password:
        raise UsageError("login needs a user and a password")
    credentials = auth.Credentials(username, password)
    check(registry, credentials, insecure=args["tls-verify"] == "false")
    where = auth.save(registry, credentials)
    print(f"logged in to {registry} (kept in {where})")
    return 0


def _registry(text: str) -> str:
    """The registry of `HOST[:PORT]`, of a URL, or of an image's name."""
    from pyrunc.registry import reference

    host = text.removeprefix("https://").removeprefix("http://").strip("/").partition("/")[0]
    if "/" in text.removeprefix("https://").removeprefix("http://").strip("/") or "://" in text:
        text = host
    return reference.parse(f"{text}/x/x" if any(char in text for char in ".:") or text == "localhost"
                           else f"{text}.invalid/x/x").registry.removesuffix(".invalid")
