# SPDX-License-Identifier: Apache-2.0
"""pyrunc net COMMAND: networks for containers of any runtime; a module for each sub-command."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option, parse, usage
from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from pyrunc.cli import Context

SUBCOMMANDS = {
    "create": "make a network",
    "ls": "list networks",
    "inspect": "print what is known of networks, as JSON",
    "rm": "remove networks",
    "prune": "tidy up after containers that have gone, and remove unused networks",
    "attach": "give a container a place in a network",
    "detach": "take a container out of a network",
    "port": "print which ports of the host lead to a container",
    "setup": "write into a bundle what gives its container networks, whichever runtime runs it",
    "hook": "what the hooks of setup run",
    "cni": "run an existing CNI configuration's plugins for a container",
    "reload": "make bridges and rules anew, as after a flush of the ruleset",
}
OPTIONS: tuple[Option, ...] = ()
ARGUMENTS = (Argument("subcommand"),)


def load(name: str) -> ModuleType:
    """The module of a sub-command."""
    return __import__(f"pyrunc.cli.net_{name}", fromlist=("run",))


def dispatch(words: list[str], context: Context) -> int:
    """Run `pyrunc net` with these words."""
    args, rest = parse(words, OPTIONS, None, "net")
    if args.flag("help") or not rest or rest[0] == "help":
        if rest[1:]:
            rest = [rest[1], "--help"]
        else:
            print(_help(), end="")
            return 0 if args.flag("help") or rest else 1
    name = rest[0]
    if name not in SUBCOMMANDS:
        from difflib import get_close_matches

        found = get_close_matches(name, SUBCOMMANDS, 1)
        raise UsageError(f'unknown command "net {name}"',
                         hint=f"did you mean net {found[0]}?" if found else "pyrunc net --help")
    module = load(name)
    given, _ = parse(rest[1:], module.OPTIONS, module.ARGUMENTS, f"net {name}")
    context.command = f"net {name}"
    if given.flag("help"):
        print(usage(f"net {name}", SUBCOMMANDS[name], module.OPTIONS, module.ARGUMENTS), end="")
        return 0
    status: int = module.run(given, context)
    return status


def _help() -> str:
    lines = ["usage: pyrunc net COMMAND [options] [arguments]", "", "networks for containers of any runtime", "",
             "commands:"]
    lines += [f"  {name:<10}{text}" for name, text in SUBCOMMANDS.items()]
    return "\n".join([*lines, "", "pyrunc net COMMAND --help shows a command's options.", ""])
