# SPDX-License-Identifier: Apache-2.0
"""pyrunc spec: write a default config.json; never over an existing one."""

from __future__ import annotations

import os

from pyrunc.cli.options import Argument, Option
from pyrunc.errors import BundleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("bundle", "b", kind="text", metavar="DIR", help="where to write it (default: the current directory)"),
    Option("rootless", help="for a container that an ordinary user runs"),
    Option("seccomp", help="with the system calls allowed that container engines allow by default"),
)
ARGUMENTS: tuple[Argument, ...] = ()


def run(args: Args, context: Context) -> int:
    from pyrunc.spec.default import default_config
    from pyrunc.spec.load import dump_pretty

    path = os.path.join(args["bundle"] or ".", "config.json")
    config = default_config(rootless=args.flag("rootless"), uid=os.geteuid(), gid=os.getegid())
    if args.flag("seccomp"):
        from pyrunc.spec.seccomp_default import default_seccomp

        config["linux"]["seccomp"] = default_seccomp(config["process"]["capabilities"]["bounding"], os.uname().machine)
    text = dump_pretty(config).encode() + b"\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise BundleError(f"{path} exists", hint="remove it first; it is never overwritten") from None
    except OSError as error:
        raise BundleError(f"write {path}", errno=error.errno or 0) from None
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(text)
    except OSError as error:
        os.unlink(path)  # half of one would be taken for whole, and keeps the next from being written
        raise BundleError(f"write {path}", errno=error.errno or 0) from None
    return 0
