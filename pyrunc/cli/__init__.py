# SPDX-License-Identifier: Apache-2.0
"""The command line: runc's, one small module a command.

Only the module of the command that was asked for is imported.
"""

from __future__ import annotations

import os
from errno import ENOENT

from pyrunc._version import OCI_VERSION, __version__
from pyrunc.cli.options import BOOLEANS, HELP, Option, parse, usage
from pyrunc.errors import PyruncError, UsageError, unexplained
from pyrunc.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from types import ModuleType

    from pyrunc.cli.options import Args
    from pyrunc.starting import Released
else:
    import _signal  # what `signal` wraps; that one costs importing enum

COMMANDS = {
    "checkpoint": "write a running container's processes to files",
    "create": "create a container from a bundle; it waits for start",
    "delete": "delete a stopped container",
    "events": "print what happens to a container, as JSON",
    "exec": "run another process in a container",
    "explain": "print what creating the bundle's container would do, without doing it",
    "features": "print what this build can do, as JSON",
    "image": "images: from a registry to a bundle, and back",
    "kill": "send a signal to a container's init",
    "list": "list containers",
    "net": "networks for containers of any runtime",
    "pause": "freeze every process of a container",
    "ps": "show the processes of a container",
    "restore": "make a container from a checkpoint",
    "resume": "let a paused container run again",
    "run": "create and start a container, and wait for it",
    "spec": "write a default config.json",
    "start": "start a created container",
    "state": "print a container's state as JSON",
    "update": "change a container's limits",
}

GLOBAL_OPTIONS = (
    Option("debug", help="log every step; show tracebacks"),
    Option("log", kind="text", metavar="FILE", help="write the log to FILE (default: stderr)"),
    Option("log-format", kind="text", metavar="text|json", default="text", help="how to write it"),
    Option("root", kind="text", metavar="DIR", help="where containers' state is kept (default: /run/pyrunc, "
                                                    "or $XDG_RUNTIME_DIR/pyrunc for an ordinary user)"),
    Option("systemd-cgroup", help="have systemd make the cgroup; cgroupsPath is then slice:prefix:name"),
    Option("cgroup-manager", kind="text", metavar="cgroupfs|systemd|disabled",
           help="who makes the cgroup: pyrunc (the default), systemd (as --systemd-cgroup), or nobody: the container "
                "goes without, and without limits"),
    Option("criu", kind="text", metavar="FILE", help="the criu to checkpoint and restore with (default: PATH's)"),
    Option("rootless", kind="text", metavar="true|false|auto", default="auto",
           help="go without cgroups that may not be made, and ask the user's systemd (auto: as an ordinary user, "
                "but not without one that cgroupsPath names)"),
    Option("version", "v", help="print the version"),
)


class Context:
    """The global options, for a command."""

    __slots__ = ("cgroup_manager", "command", "container_id", "criu", "given_root", "log", "released",
                 "rootless")

    def __init__(self, released: Released | None = None) -> None:
        self.log = Log()
        self.released = released
        self.given_root = ""
        self.rootless: bool | None = None
        self.cgroup_manager = ""
        self.criu = ""
        self.command = ""
        self.container_id = ""

    @property
    def root(self) -> str:
        """Where the containers' state is: --root, or the caller's own place.  Raises UsageError."""
        from pyrunc.state import default_root

        return os.path.abspath(self.given_root or default_root())

    def prefix(self) -> str:
        """`create web: `: what was being done, before the error says what failed."""
        words = [word for word in (self.command, self.container_id) if word]
        return " ".join(words) + ": " if words else ""


def main(argv: list[str], released: Released | None = None) -> int:
    """Run one command line; the exit code.  `released`: what the launcher has begun of a `start` (launcher/start.c)."""
    _open_standard_streams()
    # A caller may have it ignored, which exec inherits: children would vanish with their exit status.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    log = Log()
    context = Context(released)
    try:
        args, rest = parse(argv, GLOBAL_OPTIONS, None, "pyrunc")
        log = Log(args["log"], args["log-format"], args.flag("debug"))
        context.log = log
        return _dispatch(args, rest, context)
    except PyruncError as error:
        _fail(log, context.prefix() + str(error))
        return error.exit_code
    except OSError as error:  # a defect all the same: somebody should have said what failed
        _fail(log, context.prefix() + (_without_directory(error) or str(unexplained(error))))
        return 1
    except RecursionError:
        _fail(log, "too deeply nested")
        return 1
    except Exception as error:
        _fail(log, f"internal error: {type(error).__name__}: {error} (run with --debug for a traceback)")
        return 1


def _without_directory(error: OSError) -> str:
    """What `error` says of a path that is relative to a directory that is gone, "" of any other."""
    try:
        os.getcwd()
    except FileNotFoundError:
        if error.errno == ENOENT and error.filename is None:
            return "getcwd: no such file or directory (ENOENT) (the working directory has been removed)"
    return ""


def _fail(log: Log, message: str) -> None:
    if log.debugging:
        from .debugging import print_traceback

        print_traceback()
    log("error", message.replace("\n", " "))


def _open_standard_streams() -> None:
    """A caller may close 0, 1 or 2; what is opened next would land there."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR)  # the lowest free descriptor: this one
            os.set_inheritable(fd, True)


def _dispatch(args: Args, rest: list[str], context: Context) -> int:
    if args.flag("version"):
        # containerd's shim looks for "runc version X".
        print(f"runc version {__version__}\npyrunc: {__version__}\nspec: {OCI_VERSION}")
        return 0
    if args.flag("help") or not rest or rest == ["help"]:
        print(_help(), end="")
        return 0 if args.flag("help") or rest else 1
    if rest[0] == "help":  # `help COMMAND`
        rest = [rest[1], "--help"]
    name = rest[0]
    if name not in COMMANDS:
        from difflib import get_close_matches

        found = get_close_matches(name, COMMANDS, 1)
        raise UsageError(f'unknown command "{name}"', hint=f"did you mean {found[0]}?" if found else "pyrunc --help")
    rootless = BOOLEANS.get(args["rootless"], args["rootless"])
    if rootless not in ("true", "false", "auto"):
        raise UsageError(f'--rootless is true, false or auto, not "{args["rootless"]}"')
    manager = args["cgroup-manager"]
    if manager not in ("", "cgroupfs", "systemd", "disabled"):
        raise UsageError(f'--cgroup-manager is cgroupfs, systemd or disabled, not "{manager}"')
    if args.flag("systemd-cgroup") and manager not in ("", "systemd"):
        raise UsageError(f"--systemd-cgroup and --cgroup-manager {manager} exclude each other")
    module = _load(name)
    context.given_root, context.rootless = args["root"], {"true": True, "false": False}.get(rootless)
    context.cgroup_manager = "systemd" if args.flag("systemd-cgroup") else manager or "cgroupfs"
    context.criu = args["criu"]
    if hasattr(module, "SUBCOMMANDS"):
        context.command = name
        status: int = module.dispatch(rest[1:], context)
        return status
    given, _ = parse(rest[1:], module.OPTIONS, module.ARGUMENTS, name)
    context.command, context.container_id = name, given["container-id"]
    if given.flag("help"):
        print(usage(name, COMMANDS[name], module.OPTIONS, module.ARGUMENTS), end="")
        return 0
    status = module.run(given, context)
    return status


def _load(name: str) -> ModuleType:
    return __import__(f"pyrunc.cli.{name}", fromlist=("run",))


def _help() -> str:
    lines = ["usage: pyrunc [global options] COMMAND [options] [arguments]", "", "commands:"]
    lines += [f"  {name:<12}{text}" for name, text in COMMANDS.items()]
    lines += ["", "global options:"]
    for option in (*GLOBAL_OPTIONS, HELP):
        left = f"--{option.name}" + (f" {option.metavar}" if option.takes_value else "")
        lines.append(f"  {left:<30}{option.help}")
    return "\n".join(lines) + "\n"
