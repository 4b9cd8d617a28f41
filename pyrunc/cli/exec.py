# SPDX-License-Identifier: Apache-2.0
"""pyrunc exec ID COMMAND...: another process in a container; exits as it did."""

from __future__ import annotations

import os

from pyrunc.cli.options import Argument, Option
from pyrunc.errors import PyruncError, UsageError, unexplained

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.cli import Context
    from pyrunc.cli.options import Args
    from pyrunc.lifecycle import Container
    from pyrunc.spec.types import Process

OPTIONS = (
    Option("process", "p", kind="text", metavar="FILE", help="the whole process as JSON (config.json's process); "
                                                             "options that change one are ignored then"),
    Option("cwd", kind="text", metavar="DIR", help="the working directory"),
    Option("env", "e", kind="list", metavar="NAME=VALUE", help="add to the environment; again for more"),
    Option("tty", "t", help="give it a terminal"),
    Option("user", "u", kind="text", metavar="UID[:GID]", help="the user"),
    Option("additional-gids", "g", kind="list", metavar="GID", help="another group; again for more"),
    Option("cap", "c", kind="list", metavar="CAP_NAME", help="another capability; again for more"),
    Option("no-new-privs", help="no new privileges for it"),
    Option("process-label", kind="text", metavar="LABEL", help="its SELinux label"),
    Option("apparmor", kind="text", metavar="PROFILE", help="its AppArmor profile"),
    Option("detach", "d", help="don't wait for it"),
    Option("pid-file", kind="text", metavar="FILE", help="write its pid to FILE"),
    Option("console-socket", kind="text", metavar="SOCKET", help="send the terminal's master over this AF_UNIX socket"),
    Option("pidfd-socket", kind="text", metavar="SOCKET", help="send a pidfd of it over this AF_UNIX socket"),
    Option("preserve-fds", kind="number", metavar="N", help="pass N descriptors, from 3 on, to it"),
    Option("cgroup", kind="list", metavar="[CONTROLLER:]PATH",
           help="have it in this existing cgroup below the container's; on v1 again for each controller"),
    Option("ignore-paused", help="start it in a paused container, where it waits"),
)
ARGUMENTS = (Argument("container-id"), Argument("command", rest=True, required=False))

_FAILED = 255  # runc's exit status when it is exec itself that fails
_LARGEST_ID = 4294967294


def run(args: Args, context: Context) -> int:
    try:
        return _run(args, context)
    except PyruncError as error:
        error.exit_code = _FAILED
        raise
    except OSError as error:  # a defect: somebody should have said what failed
        failure = unexplained(error)
        failure.exit_code = _FAILED
        raise failure from None


def _run(args: Args, context: Context) -> int:
    from pyrunc.foreground import execute
    from pyrunc.joining import parse
    from pyrunc.lifecycle import Container
    from pyrunc.options import ExecOptions

    def options(console_fd: int) -> ExecOptions:
        return ExecOptions(
            console_socket=args["console-socket"], pidfd_socket=args["pidfd-socket"],
            pid_file=os.path.abspath(args["pid-file"]) if args["pid-file"] else "",
            preserve_fds=args.number("preserve-fds"), sub_cgroups=parse(args.lists["cgroup"]),
            ignore_paused=args.flag("ignore-paused"), console_fd=console_fd)

    with Container.load(args["container-id"], context.root, context.log) as container:
        return execute(container, _process(args, container), options, detach=args.flag("detach"),
                       console_socket=args["console-socket"])


def _process(args: Args, container: Container) -> Process:
    """The process wanted, checked."""
    from pyrunc.spec.load import MAX_BYTES, dump, load_process

    if args["process"]:
        try:
            with open(args["process"], "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UsageError(f"--process {args['process']}", syscall="open", errno=error.errno or 0) from None
        return load_process(data, args["process"])
    from pyrunc.execution import merge

    if not args.rest:
        raise UsageError("exec args cannot be empty", hint="pyrunc exec --help")
    merged = merge(container.config, _changes(args))
    return load_process(dump(merged).encode("utf-8", "surrogatepass"), "the process")


def _changes(args: Args) -> dict[str, Any]:
    changes: dict[str, Any] = {"args": args.rest, "env": args.lists["env"], "capabilities": args.lists["cap"],
                               "additionalGids": [_id(text, "additional-gids") for text in
                                                  args.lists["additional-gids"]]}
    for name, member in (("cwd", "cwd"), ("process-label", "selinuxLabel"), ("apparmor", "apparmorProfile")):
        if args[name]:
            changes[member] = args[name]
    if args.flag("tty"):
        changes["terminal"] = True
    if args["no-new-privs"]:
        changes["noNewPrivileges"] = args.flag("no-new-privs")
    if args["user"]:
        uid, colon, gid = args["user"].partition(":")
        changes["user"] = {"uid": _id(uid, "user"), **({"gid": _id(gid, "user")} if colon else {})}
    return changes


def _id(text: str, option: str) -> int:
    """A numeric id, written as the kernel writes it (CVE-2026-30892: what is parsed leniently becomes another's)."""
    if text.isascii() and text.isdigit() and (text == "0" or text[0] != "0") and len(text) <= 10:
        number = int(text)
        if number <= _LARGEST_ID:
            return number
    raise UsageError(f"--{option}: {text!a} is not a numeric id", hint="names are not looked up; 0 to 4294967294")
